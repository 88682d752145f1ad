"""How much activations say about tokens and about each other: estimators with one interface, and where each may be believed.

Knows torch, numpy and scipy, and nothing of models or runs. docs/information.md has the formulas with their sources, the
validation that regions are derived from, and what each number does not mean.
"""

from __future__ import annotations

#: Confidence of every interval.
LEVEL = 0.95
