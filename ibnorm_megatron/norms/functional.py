"""The functional form of IBNorm, and the one place that decides which implementation runs."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import torch
import torch.distributed as dist
from torch import Tensor

from .compression import Compression
from .eager import EagerIBNorm
from .kernels import has_kernel
from .kernels.ops import fused_add_norm, fused_norm
from .plan import Form, Plan, Scale
from .sharded import ShardedIBNorm

_TRITON = find_spec("triton") is not None
_FUSED_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def ib_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    compression: str | Compression = "log",
    lam: float | Tensor = 4.0,
    eps: float = 1e-5,
    scale: Scale = "absolute",
    form: Form = "unit_slope",
    process_group: dist.ProcessGroup | None = None,
    center: bool = True,
) -> Tensor:
    """Compress every row toward its mean, standardize, then apply gamma and beta.

    mu = mean(x), c = x - mu, g = sign(c) f(|c|), y = gamma (g - mean(g)) / sqrt(var(g) + eps) + beta, with the biased
    variance. Rows are the last dimension. Statistics are float32 for bf16, fp16 and fp32 input, float64 for float64.

    Args:
        x: ``[..., d]``, any floating type.
        weight: gamma, ``[d]``, or None for 1.
        bias: beta, ``[d]``, or None for 0.
        compression: a registered name (log, tanh, softsign, asinh, identity, linear, an alias s, l or t) or a
            :class:`Compression`.
        lam: strength lambda > 0, in units of x (``scale="absolute"``) or of the row's standard deviation
            (``"relative"``). Larger is weaker. A tensor of one element, not checked for its sign, gets a gradient.
        eps: added to the variance inside the root.
        scale: ``"absolute"`` compresses c, ``"relative"`` compresses c / sqrt(mean(c^2) + eps).
        form: ``"unit_slope"`` divides f by f'(0), so that g has slope 1 at 0 and the result tends to LayerNorm as
            lambda grows; ``"literal"`` uses f as it is. They are one function with eps exchanged by a factor f'(0)^2.
        process_group: given, x, weight and bias are this rank's slices of a hidden dimension sharded over the group;
            statistics are those of the whole row (two all-reduces forward, one backward).
        center: subtract means, before and after the compression. False gives the RMSNorm-like sibling.

    Returns:
        y, of x's shape and type.

    Raises:
        ValueError: x is a scalar, weight or bias is not of shape ``[d]``, a setting is out of its range, or lam is a tensor of
            more than one element or given to a compression that is not of the ratio r / lambda.

    Source: arXiv 2510.25262 (compress, standardize, affine); the compressions' formulas are this project's reading.
    """
    _check(x, weight, bias)
    if not isinstance(lam, Tensor):
        return _dispatch(x, weight, bias, Plan.of(compression, lam, eps, scale, form, center), process_group)
    plan = Plan.of(compression, 1.0, eps, scale, form, center)
    if lam.numel() != 1 or not plan.compression.of_ratio:
        found = f"lam is a tensor of shape {tuple(lam.shape)} for {plan.compression.name}"
        raise ValueError(f"{found}: it takes one element, and a compression of the ratio r / lambda")
    return _dispatch(x, weight, bias, plan, process_group, lam.reshape(1))


def add_ib_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    compression: str | Compression = "log",
    lam: float = 4.0,
    eps: float = 1e-5,
    scale: Scale = "absolute",
    form: Form = "unit_slope",
    center: bool = True,
) -> tuple[Tensor, Tensor]:
    """Add x to the residual stream and norm the sum: the new stream ``s = x + residual`` and ``ib_norm(s, ...)``.

    What stands between two sub-layers of a pre-norm block; where it is fused, s is written once and not read again. With
    ``compression="identity"`` it is LayerNorm of the sum, and RMSNorm with ``center=False`` as well.

    Args:
        x: ``[..., d]``, a sub-layer's output.
        residual: the stream before it, of x's shape and type.
        weight, bias, compression, lam, eps, scale, form, center: as for :func:`ib_norm`.

    Returns:
        y and s, each of x's shape and type.

    Raises:
        ValueError: as :func:`ib_norm`, or x and residual differ in shape or type.
    """
    _check(x, weight, bias)
    if residual.shape != x.shape or residual.dtype != x.dtype:
        found = f"{tuple(residual.shape)} and type {residual.dtype}"
        raise ValueError(f"residual has shape {found}: x needs {tuple(x.shape)} and {x.dtype}")
    plan = Plan.of(compression, lam, eps, scale, form, center)
    if _runs_fused(x, plan):
        return fused_add_norm(x, residual, weight, bias, plan)
    stream = x + residual
    return _dispatch(stream, weight, bias, plan, None), stream


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    if x.dim() == 0 or not x.is_floating_point():
        raise ValueError(f"x has shape {tuple(x.shape)} and type {x.dtype}: it must be a floating tensor of shape [..., d]")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != x.shape[-1:]:
            raise ValueError(f"{name} has shape {tuple(parameter.shape)}: x of shape {tuple(x.shape)} needs ({x.shape[-1]},)")


def _dispatch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    plan: Plan,
    process_group: dist.ProcessGroup | None,
    lam: Tensor | None = None,
) -> Tensor:
    """Pick the implementation: fused kernels or plain PyTorch, for a whole row or for a rank's slice of it.

    ``lam`` stands for the plan's number where lambda is a tensor.
    """
    if process_group is not None:
        if _runs_fused(x, plan, lam):
            from .kernels.sharded import FusedShardedIBNorm  # imports Triton

            return FusedShardedIBNorm.apply(x, weight, bias, plan, process_group)
        return ShardedIBNorm.apply(x, weight, bias, lam, plan, process_group)
    if _runs_fused(x, plan, lam):
        return fused_norm(x, weight, bias, plan)
    return EagerIBNorm.apply(x, weight, bias, lam, plan)


def _runs_fused(x: Tensor, plan: Plan, lam: Tensor | None = None) -> bool:
    """Whether a kernel takes x: on a GPU, in bf16, fp16 or fp32, with Triton there and a kernel for the compression.

    On a GPU, what stands in its way is said once: it costs a multiple of the time. torch.compile, which cannot trace a
    warning without a break, makes kernels of its own from the eager form.
    """
    if not x.is_cuda or x.dtype not in _FUSED_TYPES:
        return False
    obstacle = fused_obstacle(plan.compression, learned=lam is not None)
    if obstacle is None:
        return True
    if not torch.compiler.is_compiling():
        _warn_once(obstacle)
    return False


def fused_obstacle(compression: Compression, *, learned: bool = False) -> str | None:
    """Why a norm of bf16, fp16 or fp32 rows on a GPU would not run fused, as a sentence; None where it would."""
    if not _TRITON:
        return "Triton is not installed: norms run as eager PyTorch on this GPU, several times slower"
    if not has_kernel(compression):
        return f"the compression {compression.name!r} has no fused kernel: its norms run as eager PyTorch, slower"
    if learned:
        return "a learned lambda has no fused kernel: its norms run as eager PyTorch, slower"
    return None


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, process_group: dist.ProcessGroup | None = None
) -> Tensor:
    """LayerNorm (arXiv 1607.06450), y = gamma (x - mean(x)) / sqrt(var(x) + eps) + beta, with float32 statistics.

    x is ``[..., d]``, weight and bias ``[d]`` or None; returns x's shape and type. ``process_group`` as in :func:`ib_norm`.
    """
    if x.is_cuda or process_group is not None:
        plan = Plan.of("identity", 1.0, eps, "absolute", "literal", center=True)
        if process_group is not None or _runs_fused(x, plan):
            return _dispatch(x, weight, bias, plan, process_group)
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
        # On a CPU PyTorch adds up dgamma and dbeta over the rows in x's type: 5 % off after 4,096 rows of bf16.
        return torch.nn.functional.layer_norm(x.float(), x.shape[-1:], _float(weight), _float(bias), eps).to(x.dtype)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, process_group: dist.ProcessGroup | None = None
) -> Tensor:
    """RMSNorm (arXiv 1910.07467), y = gamma x / sqrt(mean(x^2) + eps) + beta, with float32 statistics.

    x is ``[..., d]``, weight and bias ``[d]`` or None; returns x's shape and type. ``process_group`` as in :func:`ib_norm`.
    """
    plan = Plan.of("identity", 1.0, eps, "absolute", "literal", center=False)
    if process_group is None and bias is None and x.is_cuda and not _runs_fused(x, plan):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)  # fused there; on a CPU it takes twice our time
    return _dispatch(x, weight, bias, plan, process_group)


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()
