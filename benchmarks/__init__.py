"""Measurements, run by hand: ``python -m benchmarks.norms`` and ``python -m benchmarks.step``."""
