"""Checks IBNorm with a hidden dimension sharded over all ranks against the same rows whole, and counts its collectives.

With the argument ``fused`` it is the fused stages, in Triton's interpreter, instead of plain PyTorch.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

if sys.argv[1:] == ["fused"]:
    from . import interpreter  # noqa: F401  # before Triton is imported

import torch
import torch.distributed as dist
from torch import Tensor

from ibnorm_megatron.norms import compression_names, ib_norm
from ibnorm_megatron.norms.plan import Plan

Norm = Callable[..., Tensor]

_calls = 0


def _counting(all_reduce):
    def counted(*arguments, **keywords):
        global _calls
        _calls += 1
        return all_reduce(*arguments, **keywords)

    return counted


def _eager(x: Tensor, weight: Tensor, bias: Tensor, **options: object) -> Tensor:
    return ib_norm(x, weight, bias, **options, process_group=dist.group.WORLD)


def _fused(x: Tensor, weight: Tensor, bias: Tensor, **options: object) -> Tensor:
    from ibnorm_megatron.norms.kernels import sharded

    sharded._WIDEST_TILE = 16  # so that a row here takes several tiles
    plan = Plan.of(eps=1e-5, form="unit_slope", **options)
    return sharded.FusedShardedIBNorm.apply(x, weight, bias, plan, dist.group.WORLD)


def _fused_cases() -> set[tuple[str, str, bool, torch.dtype]]:
    """The interpreter is slow: every form of three kinds, the full form of the others, and two in bf16."""
    cases = set(itertools.product(("identity", "log", "tanh"), ("absolute", "relative"), (True, False), [torch.float32]))
    cases |= {(name, "relative", True, torch.float32) for name in ("softsign", "asinh")}
    return cases | {("log", "relative", True, torch.bfloat16), ("tanh", "absolute", True, torch.bfloat16)}


def main(fused: bool) -> None:
    dist.init_process_group("gloo")
    dist.all_reduce = _counting(dist.all_reduce)
    # Bounds in units of what rounding to the type costs in bf16, else relative. A large mean leaves no bf16 deviation.
    types = [(torch.float32, 1e3, 2e-6), (torch.bfloat16, 3.0, None) if fused else (torch.float64, 3.0, 1e-10)]
    for name, scale, center, (dtype, mean, bound) in itertools.product(
        compression_names(), ("absolute", "relative"), (True, False), types
    ):
        if fused and (name, scale, center, dtype) not in _fused_cases():
            continue
        # Without centring a large mean saturates every compression, and there is no gradient left to compare.
        case = (name, scale, center, dtype, mean if center else 3.0, bound)
        _check(_fused if fused else _eager, *case, rank=dist.get_rank(), world=dist.get_world_size())
    dist.destroy_process_group()


def _check(
    norm: Norm, name: str, scale: str, center: bool, dtype: torch.dtype, mean: float, bound: float | None, rank: int, world: int
) -> None:
    global _calls
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    rows, width = 66, 64 if dtype == torch.float32 else 66  # even and uneven tiles, and more than one tile of rows
    x, weight, bias, dy = (
        (draw(rows, width) * 2 + mean).to(dtype),
        draw(width).to(dtype),
        draw(width).to(dtype),
        draw(rows, width).to(dtype),
    )
    options = {"compression": name, "lam": 2.0, "scale": scale, "center": center}
    whole = [t.double().clone().requires_grad_() for t in (x, weight, bias)]
    expected = ib_norm(*whole, **options)
    expected.backward(dy.double())

    mine = slice(rank * width // world, (rank + 1) * width // world)
    local = [t[..., mine].clone().requires_grad_() for t in (x, weight, bias)]
    _calls = 0
    y = norm(*local, **options)
    forward_calls = _calls
    y.backward(dy[..., mine])
    assert (forward_calls, _calls - forward_calls) == (2, 1), (forward_calls, _calls)
    pairs = [(y, expected), *((a.grad, b.grad) for a, b in zip(local, whole, strict=True))]
    for what, (ours, reference) in zip(("y", "dx", "dgamma", "dbeta"), pairs, strict=True):
        assert ours.dtype == dtype
        ours, reference = ours.detach(), reference.detach()[..., mine]
        error = float((ours.double() - reference).norm() / reference.norm())
        rounding = float((reference.to(dtype).double() - reference).norm() / reference.norm())
        assert error <= (1.2 * rounding if bound is None else bound), (name, scale, center, dtype, what, error)


if __name__ == "__main__":
    main(fused=sys.argv[1:] == ["fused"])
