"""Checks IBNorm with a hidden dimension sharded over all ranks against the same rows whole, and counts its collectives."""

from __future__ import annotations

import itertools

import torch
import torch.distributed as dist

from ibnorm_megatron.norms import compression_names, get_compression, ib_norm

_calls = 0


def _counting(all_reduce):
    def counted(*arguments, **keywords):
        global _calls
        _calls += 1
        return all_reduce(*arguments, **keywords)

    return counted


def main() -> None:
    dist.init_process_group("gloo")
    dist.all_reduce = _counting(dist.all_reduce)
    rank, world = dist.get_rank(), dist.get_world_size()
    cases = itertools.product(
        compression_names(), ("absolute", "relative"), (True, False), [(torch.float64, 3.0, 1e-10), (torch.float32, 1e3, 2e-6)]
    )
    for name, scale, center, (dtype, mean, bound) in cases:
        # Without centring a large mean saturates every compression, and there is no gradient left to compare.
        for learned in (False, True) if get_compression(name).of_ratio else (False,):
            _check(name, scale, center, learned, dtype, mean if center else 3.0, bound, rank, world)
    dist.destroy_process_group()


def _check(
    name: str, scale: str, center: bool, learned: bool, dtype: torch.dtype, mean: float, bound: float, rank: int, world: int
) -> None:
    global _calls
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    width = 66
    x, weight, bias, dy = (
        (draw(9, width) * 2 + mean).to(dtype),
        draw(width).to(dtype),
        draw(width).to(dtype),
        draw(9, width).to(dtype),
    )
    options = {"compression": name, "scale": scale, "center": center, "form": "literal" if name == "log" else "unit_slope"}
    lams = [torch.tensor([2.0], dtype=kind, requires_grad=True) if learned else 2.0 for kind in (torch.float64, dtype)]
    whole = [t.double().clone().requires_grad_() for t in (x, weight, bias)]
    expected = ib_norm(*whole, lam=lams[0], **options)
    expected.backward(dy.double())

    mine = slice(rank * width // world, (rank + 1) * width // world)
    local = [t[..., mine].clone().requires_grad_() for t in (x, weight, bias)]
    _calls = 0
    y = ib_norm(*local, lam=lams[1], **options, process_group=dist.group.WORLD)
    forward_calls = _calls
    y.backward(dy[..., mine])
    assert (forward_calls, _calls - forward_calls) == (2, 1), (forward_calls, _calls)
    pairs = [(y, expected), *((a.grad, b.grad) for a, b in zip(local, whole, strict=True))]
    for what, (ours, reference) in zip(("y", "dx", "dgamma", "dbeta"), pairs, strict=True):
        error = float((ours.double() - reference[..., mine]).norm() / reference.norm())
        assert error <= bound, (name, scale, center, learned, dtype, what, error)
    if learned:  # every rank holds the whole of lambda, and its own columns' share of the gradient
        dlam = lams[1].grad.double()
        dist.all_reduce(dlam)
        # A unit-slope gradient is a difference of two sums; that they are of order one, of 9 x 66 addends, is what bounds it.
        assert float((dlam - lams[0].grad).abs()) <= bound * 100, (name, scale, center, dtype, dlam, lams[0].grad)


if __name__ == "__main__":
    main()
