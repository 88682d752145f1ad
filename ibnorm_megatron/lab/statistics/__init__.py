"""The arithmetic of a comparison: arrays in, intervals out. numpy and scipy only; docs/statistics.md has the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.signedinteger[Any]]
