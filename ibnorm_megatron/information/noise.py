"""The noise without which information between a layer and the next is infinite, or log n."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .observations import Rows


@dataclass(frozen=True)
class Noise:
    """T + sigma s xi, with xi standard normal and s the root mean square over columns of T's standard deviation.

    A next layer is a function of what came before: without noise the information would say only how many digits are kept.
    With it, it says how much of X can be seen in T at that resolution, and data processing holds for what is computed from the
    noisy T. One s for all columns: directions in which T varies less than sigma s are below the resolution.

    Attributes:
        sigma: in units of s.
    """

    sigma: float = 0.1

    def __str__(self) -> str:
        return f"noise of {self.sigma:g} of T's root mean square deviation"

    def scale(self, rows: Rows) -> float:
        """sigma s, from all rows."""
        mean = sum(part.double().sum(0) for _, part in rows.chunks()) / rows.n
        square = sum(float((part.double() - mean).square().sum()) for _, part in rows.chunks())
        return self.sigma * (square / (rows.n * rows.d)) ** 0.5

    def drawn(self, n: int, d: int, scale: float, seed: int) -> Drawn:
        """Noise for n rows: row i gets the same whenever it is read, in whatever company and on whatever device."""
        return Drawn(n, d, scale, seed)


class Drawn:
    """Adds to rows of given numbers the noise that is theirs. Made block by block of rows, so it needs no memory of its own."""

    _BLOCK = 256

    def __init__(self, n: int, d: int, scale: float, seed: int) -> None:
        self._n, self._d, self._scale, self._seed = n, d, scale, seed

    def __call__(self, index: Tensor, rows: Tensor) -> Tensor:
        """rows ``[len(index), d]`` with noise."""
        if self._scale == 0:
            return rows
        index = index.cpu()
        noise = torch.empty(len(index), self._d)
        for block in torch.unique(index // self._BLOCK).tolist():
            here = (index // self._BLOCK == block).nonzero().squeeze(1)
            generator = torch.Generator().manual_seed(_seed_of(self._seed, block))
            noise[here] = torch.randn(self._BLOCK, self._d, generator=generator)[index[here] - block * self._BLOCK]
        return rows + self._scale * noise.to(rows.device)


def _seed_of(seed: int, block: int) -> int:
    """One that nobody else uses: data drawn with the seed 0 must not meet its own numbers again as noise."""
    return int(np.random.SeedSequence([seed, block], spawn_key=(0x6E6F697365,)).generate_state(1, np.uint64)[0] >> 1)
