"""Checks IBNorm with a hidden dimension sharded over all ranks against the same rows whole, and counts its collectives.

With the argument ``fused`` it is the fused stages, in Triton's interpreter, instead of plain PyTorch.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

if sys.argv[1:] == ["fused"]:
    from . import interpreter  # noqa: F401  # before Triton is imported

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ibnorm_megatron.norms import compression_names, get_compression, ib_norm
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
    plan = Plan.of(eps=1e-5, **options)
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
        for learned in (False, True) if get_compression(name).of_ratio and not fused else (False,):
            _check(_fused if fused else _eager, learned, *case)
    if not fused:
        _check_uneven()
    dist.destroy_process_group()


def _check(
    norm: Norm, learned: bool, name: str, scale: str, center: bool, dtype: torch.dtype, mean: float, bound: float | None
) -> None:
    global _calls
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    # Even and uneven tiles, and more than one tile of rows.
    rows, width = 66, 64 if dtype == torch.float32 and world == 2 else 66
    x, weight, bias, dy = (
        (draw(rows, width) * 2 + mean).to(dtype),
        draw(width).to(dtype),
        draw(width).to(dtype),
        draw(rows, width).to(dtype),
    )
    options = {"compression": name, "scale": scale, "center": center, "form": "literal" if name == "log" else "unit_slope"}
    lams = [torch.tensor([2.0], dtype=kind, requires_grad=True) if learned else 2.0 for kind in (torch.float64, dtype)]
    whole = [t.double().clone().requires_grad_() for t in (x, weight, bias)]
    expected = ib_norm(*whole, lam=lams[0], **options)
    expected.backward(dy.double())

    mine = slice(rank * width // world, (rank + 1) * width // world)
    local = [t[..., mine].clone().requires_grad_() for t in (x, weight, bias)]
    _calls = 0
    y = norm(*local, lam=lams[1], **options)
    forward_calls = _calls
    y.backward(dy[..., mine])
    assert (forward_calls, _calls - forward_calls) == (2, 1), (forward_calls, _calls)
    pairs = [(y, expected), *((a.grad, b.grad) for a, b in zip(local, whole, strict=True))]
    for what, (ours, reference) in zip(("y", "dx", "dgamma", "dbeta"), pairs, strict=True):
        assert ours.dtype == dtype
        ours, reference = ours.detach(), reference.detach()[..., mine]
        error = float((ours.double() - reference).norm() / reference.norm())
        rounding = float((reference.to(dtype).double() - reference).norm() / reference.norm())
        assert error <= (1.2 * rounding if bound is None else bound), (name, scale, center, learned, dtype, what, error)
    if learned:  # every rank holds the whole of lambda, and its own columns' share of the gradient
        dlam = lams[1].grad.double()
        dist.all_reduce(dlam)
        # A unit-slope gradient is a difference of two sums; that they are of order one, of so many addends, is what bounds it.
        assert float((dlam - lams[0].grad).abs()) <= bound * rows, (name, scale, center, dtype, dlam, lams[0].grad)


def _check_uneven() -> None:
    """A width that the ranks do not divide: every rank says so, and none waits for another."""
    x = torch.randn(4, 5 + dist.get_rank() % 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"a row of \d+ columns lies unevenly on \d ranks"):
        ib_norm(x, process_group=dist.group.WORLD)


if __name__ == "__main__":
    main(fused=sys.argv[1:] == ["fused"])
