"""Batch normalization that a causal language model can use."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..base import Norm
from ..plan import wide


class BatchNorm(Norm):
    """y = gamma (x - m) / sqrt(v + eps) + beta with running statistics of every channel over the tokens of earlier steps.

    Batch normalization (Ioffe & Szegedy, arXiv 1502.03167) takes m and v from the batch at hand: in a causal language model
    that tells every token about the later ones. Here m and v hold nothing of the current step, in training as in
    evaluation, and get no gradient. A forward pass in training adds its tokens to sums; :meth:`set_step` turns the sums,
    over all ranks, into the step's mean and biased variance and these into exponential averages, which start at 0 and 1.
    They are not corrected for that start: all norms of a model would jump at the second step, each unaware of the others,
    and a model with many of them is infinite at once. This form is this project's own, and one to compare with rather
    than to use: nothing but the averages bounds the output, so y grows where activations grow faster than they follow,
    and in a first try a tiny LLaMA learned far more slowly than with RMSNorm.

    An activation that is computed twice counts twice, in the sums and in their number, and the mean stays.

    Args:
        hidden_size: d, the width of a row.
        eps: added to the variance inside the root.
        momentum: weight of the newest step in the averages.
        bias: whether there is a beta.
        place: the keywords of :class:`Norm`; sums run over its ``token_groups``.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, momentum: float = 0.1, bias: bool = True, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.eps, self.momentum = eps, momentum
        self.weight = self.vector(1.0)
        self.bias = self.vector(0.0) if bias else None
        # float64 as bits: whoever turns a module into bf16 leaves integers alone. Rows: mean and variance.
        start = torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, self.local_size)
        self.register_buffer("averages", start.view(torch.int64))
        # Since the last step: deviations from m, and their squares, summed over so many rows.
        self.register_buffer("sums", torch.zeros(2, self.local_size, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        mean, variance = self.statistics()
        c = wide(x) - mean.to(wide(x).dtype)
        if self.training:
            self._gather(c.detach().reshape(-1, c.shape[-1]))
        y = c * (variance + self.eps).rsqrt().to(c.dtype) * wide(self.weight)
        return (y if self.bias is None else y + wide(self.bias)).to(x.dtype)

    @torch.no_grad()
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every channel, ``[d]`` in float64; the mean has a float32 value, so that no c rounds it."""
        mean, variance = self.averages.view(torch.float64)
        return mean.float().double(), variance

    @torch.no_grad()
    def set_step(self, done: int, steps: int) -> None:
        """Take what was gathered since the last call into the averages. Collective over ``token_groups``."""
        gathered = torch.cat([self.sums.view(torch.float64).flatten(), self.rows.double()[None]])
        for group in self.token_groups:
            dist.all_reduce(gathered, group=group)
        rows = gathered[-1]
        shift, square = gathered[:-1].view(2, -1) / rows.clamp_min(1)
        new = torch.stack([self.statistics()[0] + shift, (square - shift * shift).clamp_min(0)])
        self.averages.view(torch.float64).lerp_(new, self.momentum * (rows > 0).double())
        self.sums.zero_()
        self.rows.zero_()

    @torch.no_grad()
    def _gather(self, c: Tensor) -> None:
        sums = self.sums.view(torch.float64)
        sums[0] += c.sum(0, dtype=torch.float64)
        sums[1] += (c * c).sum(0, dtype=torch.float64)
        self.rows += len(c)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}, momentum={self.momentum}, bias={self.bias is not None}"
