"""Measurements, run by hand: ``python -m benchmarks.norms``, ``benchmarks.step`` and ``benchmarks.norm_step``."""
