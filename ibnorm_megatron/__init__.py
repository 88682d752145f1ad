"""Pretrain LLaMA- and GPT-2-scale language models whose normalization layers are IBNorm, and compare norms honestly."""

__version__ = "0.1.0"
