"""The arithmetic of a comparison: arrays in, intervals out. numpy and scipy only; docs/statistics.md has the formulas."""
