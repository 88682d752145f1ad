"""The fused ops in plain PyTorch: what they compute on a CPU, and what the kernels are read against.

Same arguments, same results and the same slots of statistics as :mod:`launch` (with g in the place of h).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..compression import get_compression
from ..plan import Plan
from .folding import Settings, slots


def forward(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor | None, Tensor]:
    """y ``[n, d]``, the new residual stream ``[n, d]`` or None, and statistics ``[slots, n]``, from x ``[n, d]``."""
    plan = _plan(settings)
    x = x.contiguous()  # results are contiguous, as the kernels' are
    places = slots(settings, x.dtype != torch.float32)
    stats = x.new_zeros((places.count, x.shape[0]), dtype=torch.float32)
    stream = None if residual is None else (x.float() + residual.contiguous().float()).to(x.dtype)
    c = (x if stream is None else stream).float()
    if plan.center:
        for part in range(1 if x.dtype != torch.float32 else 2):
            stats[part] = c.mean(-1)
            c = c - stats[part, :, None]
    if plan.relative:
        stats[places.scale] = c.square().mean(-1).add(plan.eps).rsqrt()
        c = c * stats[places.scale, :, None]
    g = plan.compress(c)
    if plan.center:
        mean_g = g.mean(-1)
        g = g - mean_g[:, None]
        if places.mean_h >= 0:
            stats[places.mean_h] = mean_g
    stats[places.rho] = g.square().mean(-1).add(plan.eps).rsqrt()
    y = g * stats[places.rho, :, None]
    y = y if weight is None else y * weight.float()
    y = y if bias is None else y + bias.float()
    return y.to(x.dtype), stream, stats


def backward(
    dy: Tensor, dstream: Tensor | None, x: Tensor, weight: Tensor | None, stats: Tensor, bias: bool, settings: Settings
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx ``[n, d]`` in x's type; dgamma and dbeta ``[d]`` in float32, None where there is no gamma or no ``bias``."""
    plan = _plan(settings)
    places = slots(settings, x.dtype != torch.float32)
    c, dy = x.contiguous().float(), dy.contiguous().float()
    if plan.center:
        for part in range(1 if x.dtype != torch.float32 else 2):
            c = c - stats[part, :, None]
    scale = stats[places.scale, :, None] if plan.relative else 1.0
    u = c * scale
    z = plan.compress(u)
    if places.mean_h >= 0:
        z = z - stats[places.mean_h, :, None]
    z = z * stats[places.rho, :, None]
    w = dy if weight is None else dy * weight.float()
    q = w - z * (w * z).mean(-1, keepdim=True)
    if plan.center:
        q = q - w.mean(-1, keepdim=True)
    q = q * plan.slope(u) * stats[places.rho, :, None]
    dx = q - u * (q * u).mean(-1, keepdim=True) if plan.relative else q
    if plan.center:
        dx = dx - q.mean(-1, keepdim=True)
    dx = dx * scale
    dx = dx if dstream is None else dx + dstream.contiguous().float()
    return dx.to(x.dtype), None if weight is None else (dy * z).sum(0), dy.sum(0) if bias else None


def _plan(settings: Settings) -> Plan:
    return Plan(
        get_compression(settings.compression),
        lam=settings.lam,
        eps=settings.eps,
        relative=settings.relative,
        gain=settings.gain,
        unit_slope=False,  # asked for only where lambda is a tensor
        center=settings.center,
    )
