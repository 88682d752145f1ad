"""Runs the fused kernels in Triton's interpreter, on the CPU, against the definition in float64; prints the worst errors.

An error is ||ours - reference|| / ||reference||, with the reference computed in float64 from the rounded input. fp32 may be
off by 2e-6; bf16 and fp16 by 1.2 times what rounding the float64 result to that type costs, and their figures are in units
of that. A line is a result, its type, the worst error and how many were compared.
"""

from __future__ import annotations

from . import interpreter  # noqa: F401  # before Triton is imported

# isort: split
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ibnorm_megatron.norms import ib_norm
from ibnorm_megatron.norms.kernels import launch, ops
from ibnorm_megatron.norms.plan import Plan

WIDTHS = (1, 7, 33, 384, 1000)
KINDS = ("identity", "log", "tanh", "softsign", "asinh")
NAMES = ("y", "dx", "dgamma", "dbeta")
worst: dict[str, float] = {}
compared: Counter[str] = Counter()


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _error(ours: Tensor, reference: Tensor) -> float:
    """Relative; absolute where the reference is zero but for its own rounding."""
    size = float(reference.norm())
    return float((ours.double() - reference).norm()) / (size if size > 1e-9 else 1.0)


def _compare(case: str, ours: dict[str, Tensor], reference: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, value in ours.items():
        expected = reference[name].detach()
        error = _error(value.detach(), expected)
        rounding = _error(expected.to(dtype), expected)
        bound = 2e-6 if dtype == torch.float32 else max(1.2 * rounding, 1e-6)
        assert error <= bound, f"{case}: {name} is off by {error:.2e}, allowed {bound:.2e}"
        figure = error if dtype == torch.float32 else error / max(rounding, 1e-6)
        key = f"{name} {str(dtype).removeprefix('torch.')}"
        worst[key] = max(worst.get(key, 0.0), figure)
        compared[key] += 1


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype, case: str, **options: object) -> None:
    """One norm, forward and backward, fused against ``ib_norm`` in float64."""
    defaults = {"compression": "log", "lam": 2.0, "eps": 1e-5, "scale": "absolute", "form": "unit_slope", "center": True}
    options = defaults | options
    dy = _draw(9, *x.shape).to(dtype)
    given = {"x": x, "weight": weight, "bias": bias}
    narrow = {k: None if t is None else t.clone().to(dtype).requires_grad_() for k, t in given.items()}
    wide = {k: None if t is None else t.detach().double().requires_grad_() for k, t in narrow.items()}
    y = ops.fused_norm(narrow["x"], narrow["weight"], narrow["bias"], Plan.of(**options))
    y.backward(dy)
    expected = ib_norm(**wide, **options)
    expected.backward(dy.double())
    assert (y.dtype, y.shape) == (dtype, x.shape)
    results = [{"y": out} | {n: t.grad for n, t in zip(NAMES[1:], of.values(), strict=True) if t is not None}
               for out, of in ((y, narrow), (expected, wide))]  # fmt: skip
    _compare(f"{case} {tuple(x.shape)} {dtype} {options}", *results, dtype)


def shapes(dtype: torch.dtype) -> None:
    """Every kind on ugly widths; identity is LayerNorm, and RMSNorm without centring."""
    for kind, scale, center in itertools.product(KINDS, ("absolute", "relative"), (True, False)):
        for width in WIDTHS:
            # A single uncentred number is normed to its sign; with a small eps its gradient is nothing but cancellation.
            eps = 1e-5 if width > 1 else 0.5
            x = _draw(width, 3, width) * 2 + 0.5
            _norm(x, _draw(1, width) + 1, _draw(2, width), dtype, "shapes",
                  compression=kind, scale=scale, center=center, eps=eps)  # fmt: skip
    for form, compression in itertools.product(("literal", "unit_slope"), ("linear", "log", "tanh")):
        _norm(_draw(3, 3, 65), _draw(1, 65), None, dtype, "forms", compression=compression, form=form, lam=4.0)
    for weight, bias in ((True, False), (False, True), (False, False)):
        _norm(_draw(3, 2, 3, 40), _draw(1, 40) if weight else None, _draw(2, 40) if bias else None, dtype, "affine")


def strengths(dtype: torch.dtype) -> None:
    """From saturated to indistinguishable from LayerNorm; large means; even widths."""
    for kind, lam in itertools.product(KINDS[1:], (0.05, 1e2, 1e6)):
        _norm(_draw(4, 4, 128), _draw(1, 128), _draw(2, 128), dtype, "strength", compression=kind, lam=lam)
    mean = 1e4 if dtype == torch.float32 else 50.0  # in bf16 a larger one leaves no deviation of size 1
    for kind in KINDS:
        _norm(_draw(5, 4, 256) + mean, _draw(1, 256), _draw(2, 256), dtype, "mean", compression=kind, lam=1.0)


def residuals(dtype: torch.dtype) -> None:
    """The fused residual add."""
    for kind, scale, width in (("log", "absolute", 64), ("tanh", "relative", 33), ("identity", "absolute", 1000)):
        _residual(dtype, kind, scale, width)


def _residual(dtype: torch.dtype, kind: str, scale: str, width: int) -> None:
    """The sum is rounded once, normed as rounded, and its gradient takes both ways back."""
    plan = Plan.of(kind, 2.0, 1e-5, scale, "unit_slope", True)
    given = [_draw(6, 5, width), _draw(7, 5, width) * 3, _draw(1, width), _draw(2, width)]
    narrow = [t.to(dtype).requires_grad_() for t in given]
    dy, ds = _draw(8, 5, width).to(dtype), _draw(9, 5, width).to(dtype)
    y, stream = ops.fused_add_norm(*narrow, plan)
    torch.autograd.backward([y, stream], [dy, ds])
    assert torch.equal(stream, (narrow[0] + narrow[1]).detach())
    assert torch.equal(narrow[0].grad, narrow[1].grad)
    wide = [stream.detach().double().requires_grad_(), *(t.detach().double().requires_grad_() for t in narrow[2:])]
    expected = ib_norm(*wide, compression=kind, lam=2.0, scale=scale)
    torch.autograd.backward([expected, wide[0]], [dy.double(), ds.double()])
    ours = dict(zip(NAMES, (y, *(t.grad for t in narrow[1:])), strict=True))
    _compare(f"residual {kind} {width}", ours, dict(zip(NAMES, (expected, *(t.grad for t in wide)), strict=True)), dtype)


def tiles(dtype: torch.dtype) -> None:
    """The kernels for wide rows, with limits lowered to where the interpreter is quick; masked, and even at 512."""
    limits = launch.WIDEST_FORWARD_ROW, launch.WIDEST_BACKWARD_ROW, launch._TILE
    launch.WIDEST_FORWARD_ROW, launch.WIDEST_BACKWARD_ROW, launch._TILE = 300, 200, 256
    cases = [("log", "relative", True, 384), ("tanh", "absolute", True, 512), ("identity", "absolute", True, 400),
             ("identity", "absolute", False, 256), ("log", "relative", False, 512)]  # fmt: skip
    for kind, scale, center, width in cases:
        _norm(_draw(width, 3, width) * 2 + 0.5, _draw(1, width) + 1, _draw(2, width), dtype, "tiles",
              compression=kind, scale=scale, center=center)  # fmt: skip
    _residual(dtype, "tanh", "relative", 384)
    _residual(dtype, "log", "absolute", 512)
    launch.WIDEST_FORWARD_ROW, launch.WIDEST_BACKWARD_ROW, launch._TILE = limits


def edges(dtype: torch.dtype) -> None:
    """Constant and zero rows, a row with NaN or inf, exact zeros, strided rows, no rows; the same bits again."""
    eps = 1e-3 if dtype == torch.float16 else 1e-5  # a gradient of 1 / eps has to fit
    for kind, scale in itertools.product(KINDS, ("absolute", "relative")):
        plan = Plan.of(kind, 4.0, eps, scale, "unit_slope", True)
        bias = _draw(2, 33).to(dtype)
        x = torch.tensor([0.0, 0.1, -3.7, 1e4], dtype=dtype)[:, None].expand(4, 33).requires_grad_()
        y = ops.fused_norm(x, None, bias, plan)
        torch.testing.assert_close(y.detach(), bias.expand(4, 33), rtol=0, atol=1e-3)
        (dx,) = torch.autograd.grad(y, x, _draw(3, 4, 33).to(dtype))
        assert torch.isfinite(dx).all()

        clean = _draw(4, 4, 65).to(dtype)
        for bad in (float("nan"), float("inf")):
            spoiled = clean.clone()
            spoiled[1, 17] = bad
            rows = [0, 2, 3]
            results = []
            for leaf in (clean.clone().requires_grad_(), spoiled.requires_grad_()):
                y = ops.fused_norm(leaf, None, None, plan)
                results.append((y.detach()[rows], torch.autograd.grad(y, leaf, clean)[0][rows]))
            assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    # The gradient at a deviation of exactly zero is the slope there, not 0; the definition is checked on it elsewhere.
    zeros = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0, 0.0, -3.0, 3.0], [0.0] * 8])
    for kind in KINDS:
        _norm(zeros, None, None, dtype, "zeros", compression=kind, lam=1.0, eps=0.5)
    wide = _draw(5, 6, 80).to(dtype)
    plan = Plan.of("log", 4.0, 1e-5, "absolute", "unit_slope", True)
    for strided in (wide[:, 8:41], wide[:, ::2], wide[::2], wide.t()):
        assert torch.equal(ops.fused_norm(strided, None, None, plan), ops.fused_norm(strided.contiguous(), None, None, plan))
    empty = torch.empty(0, 8, dtype=dtype, requires_grad=True)
    weight = torch.ones(8, dtype=dtype, requires_grad=True)
    ops.fused_norm(empty, weight, None, plan).sum().backward()
    assert empty.grad.shape == (0, 8) and not weight.grad.any()


def _parts(names: list[str]) -> Iterator[Callable[[torch.dtype], None]]:
    yield from (globals()[name] for name in names)


def main(types: list[str], parts: list[str]) -> None:
    for dtype, part in itertools.product(types, _parts(parts)):
        part(getattr(torch, dtype))
    for key, error in sorted(worst.items()):
        print(f"{key} {error:.2e} {compared[key]}")


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2].split(","))
