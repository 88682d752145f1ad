"""Fewer directions of wide activations, for estimators that were validated in few dimensions only."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .observations import Matrix, Rows


def leading(matrix: Matrix, width: int) -> NDArray[np.float32]:
    """Rows in their ``width`` principal directions of most variance ``[n, width]``; as they are if they are no wider.

    A fixed map of X or T can only lose information (data processing), so what two projections share is at most what the
    activations share. Directions are orthonormal: independent noise of T stays that of its projection. Their signs are
    fixed, the largest coefficient of each being positive, so that the same rows give the same numbers.
    """
    rows = Rows(matrix)
    if rows.d <= width:
        return rows.all().cpu().numpy()
    total = torch.zeros(rows.d, dtype=torch.float64, device=rows.device)
    square = torch.zeros(rows.d, rows.d, dtype=torch.float64, device=rows.device)
    for _, part in rows.chunks():
        wide = part.double()
        total += wide.sum(0)
        square += wide.T @ wide
    mean = total / rows.n
    _, vectors = torch.linalg.eigh(square / rows.n - torch.outer(mean, mean))
    directions = vectors[:, -width:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    found = np.empty((rows.n, width), dtype=np.float32)
    for index, part in rows.chunks():
        found[index.numpy()] = ((part.double() - mean) @ directions).float().cpu().numpy()
    return found
