"""Where each estimator may be believed. benchmarks/results/information.csv has the cases, docs/information.md what follows.

A step (width, rows) stands where every case of that width, and of less, passed at that many rows and at more. Tests hold these
steps to the table: a step that was not measured, or did not pass, is an error.
"""

from __future__ import annotations

from .measure import Region

_WITHIN = "within 0.05 nats or a tenth of the truth"
_TOLD = "dependence is told from independence"

LINEAR_PROBE = Region(((4, 1000), (32, 4000), (256, 16000)), _WITHIN, rows_per_label=250)
MLP_PROBE = Region(((4, 1000), (32, 4000), (256, 16000)), _WITHIN, rows_per_label=250)
RENYI = Region(((4, 400), (32, 800)), _TOLD, most_rows=4096)
GAUSSIAN = Region(((32, 1000), (128, 4000), (256, 16000)), _WITHIN)
LEDOIT_WOLF = Region(((4, 4000),), _WITHIN)
INFO_NCE = Region(((2, 4000), (8, 16000)), _WITHIN, most_rows=65536)
KSG = Region(((2, 1000),), _WITHIN)

#: A definition, computed exactly: nothing is estimated of a population. At least two rows and columns.
SPECTRUM = Region(((1 << 20, 2),), "an exact function of the rows")
