"""What estimators read: rows of activations, labels, and the document of each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Rows ``[n, d]``: a tensor on any device, an array, or an array that is mapped from a file and never loaded as a whole.
Matrix = Tensor | NDArray[Any]

#: Numbers that are read at a time from a matrix: 64 MiB in float32.
CHUNK = 1 << 24


class Rows:
    """A matrix by parts, in float32, on its own device.

    Args:
        matrix: ``[n, d]`` of any floating type.
    """

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self.n, self.d = int(matrix.shape[0]), int(matrix.shape[1])
        self.device = matrix.device if isinstance(matrix, Tensor) else torch.device("cpu")

    def take(self, index: Tensor) -> Tensor:
        """The rows with these numbers ``[len(index), d]``, in the index's order; a mapped file is read in its own."""
        if isinstance(self._matrix, Tensor):
            return self._matrix[index.to(self.device)].float()
        ordered, place = index.cpu().sort()
        read = torch.from_numpy(np.asarray(self._matrix[ordered.numpy()], dtype=np.float32))
        return torch.empty_like(read).index_copy_(0, place, read)

    def chunks(self, index: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of rows and the rows, at most :data:`CHUNK` numbers at a time."""
        index = torch.arange(self.n) if index is None else index
        for part in index.split(max(1, CHUNK // max(1, self.d))):
            yield part, self.take(part)

    def all(self) -> Tensor:
        """The whole matrix, for estimators that need every pair of rows."""
        return self.take(torch.arange(self.n))

    @cached_property
    def finite(self) -> bool:
        """Whether every number is."""
        return all(bool(rows.isfinite().all()) for _, rows in self.chunks())


@dataclass(frozen=True)
class Observations:
    """n tokens as a model sees them.

    Attributes:
        t: activations T ``[n, d]``.
        x: what they are set beside ``[n, width]``: inputs, or the layer before; None where there is nothing.
        labels: Y ``[n]``, integers of any value: the next token, or the one k before; None where there are none.
        documents: the number of each row's document ``[n]``; None makes each row its own.

    Raises:
        ValueError: lengths differ, a matrix has not two dimensions, or labels are not integers.
    """

    t: Matrix
    x: Matrix | None = None
    labels: Tensor | NDArray[Any] | None = None
    documents: Tensor | NDArray[Any] | None = None

    def __post_init__(self) -> None:
        for name in ("t", "x"):
            if (matrix := getattr(self, name)) is not None and len(matrix.shape) != 2:
                raise ValueError(f"{name} has the shape {tuple(matrix.shape)}: give rows and columns")
        for name in ("x", "labels", "documents"):
            if (other := getattr(self, name)) is not None and len(other) != len(self.t):
                raise ValueError(f"{name} has {len(other)} rows and t {len(self.t)}: give as many")
        for name in ("labels", "documents"):
            if (other := getattr(self, name)) is not None and torch.as_tensor(other[:1]).is_floating_point():
                raise ValueError(f"{name} are not integers: number them")

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.t.shape[0])

    @property
    def d(self) -> int:
        """Width of the wider side."""
        return max(int(self.t.shape[1]), int(self.x.shape[1]) if self.x is not None else 0)

    @cached_property
    def t_rows(self) -> Rows:
        """T by parts."""
        return Rows(self.t)

    @cached_property
    def x_rows(self) -> Rows:
        """X by parts; only where there is one."""
        assert self.x is not None
        return Rows(self.x)

    @cached_property
    def classes(self) -> Tensor:
        """Labels as 0 .. K - 1 ``[n]``, on the CPU."""
        assert self.labels is not None
        return torch.unique(torch.as_tensor(self.labels).cpu().long(), return_inverse=True)[1]

    @cached_property
    def clusters(self) -> Tensor:
        """Documents as 0 .. D - 1 ``[n]``, on the CPU."""
        if self.documents is None:
            return torch.arange(self.n)
        return torch.unique(torch.as_tensor(self.documents).cpu().long(), return_inverse=True)[1]
