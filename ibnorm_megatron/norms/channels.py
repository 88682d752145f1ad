"""IBNorm for tensors ``[n, c, ...]`` whose second dimension is the channels: in the places of BatchNorm and GroupNorm.

arXiv 2510.25262 (compress, standardize, affine) over another set of numbers; which statistics evaluation uses is this
project's own reading. With the identity as compression these layers are nn.BatchNorm and nn.GroupNorm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .eager_batch import EagerIBBatchNorm, Statistics
from .functional import ib_norm
from .modules import IBNorm
from .plan import accumulation_dtype, wide


class IBBatchNorm(IBNorm):
    """IBNorm of every channel over batch and space, with running statistics for evaluation (after arXiv 1502.03167).

    f is the compression in its form, extended oddly. In training, with means and the biased variance over the batch and space,
    of N numbers a channel:

        mu = mean(x);   c = x - mu;   s2 = mean(c^2)
        g  = f(c)       absolute scale,      or    g = f(c / sqrt(s2 + eps))    relative
        m  = mean(g);   v = var(g)
        y  = gamma (g - m) / sqrt(v + eps) + beta

    and four running averages R <- (1 - a) R + a * (mu, s2 N / (N - 1), m, v N / (N - 1)), in this order ``running_mean``,
    ``running_square`` (relative scale only), ``running_compressed_mean`` and ``running_var``. a is ``momentum``, or one over
    the number of batches so far where that is None. In evaluation they stand for the batch's:

        c = x - running_mean;   g = f(c) or f(c / sqrt(running_square + eps))
        y = gamma (g - running_compressed_mean) / sqrt(running_var + eps) + beta

    So every number is centred by the mean of x before it is compressed, and by the mean of g after. The mean of g is no
    function of mean and variance of x, so it is followed by itself; with the identity it is 0 up to rounding, g's variance
    is x's, and the layer is nn.BatchNorm with its running statistics.

    Args:
        hidden_size: c, the number of channels.
        eps: added to the variance inside the root.
        momentum: a, or None for the average over all batches.
        track_running_stats: without, evaluation uses the batch's statistics too.
        options: the keywords of :class:`IBNorm`.

    Raises:
        ValueError: ``center`` is false.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(hidden_size, eps, **options)
        if not self.center:
            raise ValueError("center is false: statistics over batch and space are centred ones; leave it true")
        self.momentum, self.track_running_stats = momentum, track_running_stats
        for name, start in zip(self._names(), (0.0, 1.0, 0.0, 1.0), strict=True):
            if name:
                values = torch.full((self.local_size,), start, dtype=self._dtype) if track_running_stats else None
                self.register_buffer(name, values)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)

    def forward(self, x: Tensor) -> Tensor:
        """x ``[n, c, ...]`` to the same shape and type.

        Raises:
            ValueError: x has other channels, or one number a channel where its own statistics are needed.
        """
        _check(x, self.local_size)
        running = None if self.training or self.running_mean is None else self._running(accumulation_dtype(x))
        if running is None and x.numel() == x.shape[1]:
            raise ValueError(f"x has shape {tuple(x.shape)}: one number a channel has no variance; give a larger batch")
        plan, lam = self.plan()
        y, *found = EagerIBBatchNorm.apply(x, self.weight, self.bias, lam, plan, running)
        if self.training and self.track_running_stats and self.running_mean is not None:
            self._follow(found)
        return y

    def _names(self) -> tuple[str, str, str, str]:
        """Of the buffers, in the order of Statistics; empty for one that this scale does not need."""
        square = "running_square" if self.scale == "relative" else ""
        return ("running_mean", square, "running_compressed_mean", "running_var")

    def _running(self, dtype: torch.dtype) -> Statistics:
        return Statistics(*(getattr(self, name).to(dtype) if name else None for name in self._names()))

    @torch.no_grad()
    def _follow(self, found: list[Tensor]) -> None:
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for name, new in zip(self._names(), found, strict=True):
            if name:
                buffer = getattr(self, name)
                buffer.copy_(buffer.to(new.dtype).lerp(new, share))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, momentum={self.momentum}, track_running_stats={self.track_running_stats}"


class IBGroupNorm(IBNorm):
    """IBNorm of a sample's groups of channels over space, then gain and bias of every channel (after arXiv 1803.08494).

    A row is the c / groups channels of a group with all of their space; the row is normed as by :func:`ib_norm`, and y =
    gamma z + beta with a number for every channel. With the identity it is nn.GroupNorm.

    Args:
        hidden_size: c, the number of channels.
        eps: added to the variance inside the root.
        groups: into how many groups of neighbours the channels are parted.
        options: the keywords of :class:`IBNorm`.

    Raises:
        ValueError: the channels cannot be parted so.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, groups: int, **options: Any) -> None:
        super().__init__(hidden_size, eps, **options)
        if groups < 1 or hidden_size % groups:
            raise ValueError(f"groups is {groups}: {hidden_size} channels cannot be parted into so many of one size")
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """x ``[n, c, ...]`` to the same shape and type.

        Raises:
            ValueError: x has other channels.
        """
        _check(x, self.local_size)
        z = ib_norm(
            wide(x).reshape(x.shape[0] * self.groups, -1),
            compression=self.compression,
            lam=self.current_lambda(),
            eps=self.eps,
            scale=self.scale,
            form=self.form,
            center=self.center,
        ).view(x.shape)
        shape = (1, -1, *[1] * (x.dim() - 2))
        if self.weight is not None:
            z = z * wide(self.weight).view(shape)
        return (z if self.bias is None else z + wide(self.bias).view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


def _check(x: Tensor, channels: int) -> None:
    if x.dim() < 2 or x.shape[1] != channels or not x.is_floating_point():
        found = f"x has shape {tuple(x.shape)} and type {x.dtype}"
        raise ValueError(f"{found}: it must be a floating tensor of shape [n, {channels}, ...]")
