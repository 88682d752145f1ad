"""How exact the contenders are: ||result - reference|| / ||reference|| of y and of every gradient.

The reference is the formula on paper in float64, on the numbers as the tested type rounds them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .contenders import Contender, Inputs, contenders, literal

#: Means of x, beside 0: x still holds its deviations with two bits or more behind the point, and a norm may lose them.
OFFSETS = {torch.float32: 1e4, torch.bfloat16: 50.0, torch.float16: 500.0}

GRADIENTS = {"x": "dx", "weight": "dgamma", "bias": "dbeta"}

#: Errors of two contenders within this factor are a tie: the order of a sum moves them by as much.
TIE = 1.25


def errors_of(contender: Contender, inputs: Inputs, expected: dict[str, Tensor]) -> dict[str, float]:
    """The relative errors of y, dx, dgamma and, where there is a bias, dbeta."""
    y = contender.forward(inputs)
    gradients = dict(zip(contender.uses, contender.gradients(y, inputs), strict=True))
    found = {"y": y.detach(), **{GRADIENTS[name]: gradient for name, gradient in gradients.items() if name in GRADIENTS}}
    return {name: ((value.double() - expected[name]).norm() / expected[name].norm()).item() for name, value in found.items()}


def reference(formula: str, inputs: Inputs) -> dict[str, Tensor]:
    """The same quantities in float64."""
    uses = ("x", "weight") if formula == "rmsnorm" else ("x", "weight", "bias")
    exact, wide = Contender("reference", formula, literal(formula), uses), inputs.double()
    y = exact.forward(wide)
    return {"y": y.detach(), **dict(zip((GRADIENTS[name] for name in uses), exact.gradients(y, wide), strict=True))}


def cases(device: torch.device) -> list[tuple[torch.dtype, float]]:
    """Types and means that are tried on a device."""
    dtypes = [torch.float32, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])]
    return [(dtype, offset) for dtype in dtypes for offset in (0.0, OFFSETS[dtype])]


def compare(
    device: torch.device, shape: tuple[int, int], *, compiled: bool
) -> Iterator[tuple[torch.dtype, float, Contender, dict[str, float] | str]]:
    """Every contender's errors in every case, or why there are none."""
    for dtype, offset in cases(device):
        torch.compiler.reset()  # or the limit on recompilations is met
        inputs = Inputs.random(*shape, dtype, device, offset)
        expected: dict[str, dict[str, Tensor]] = {}
        for contender in contenders(device, compiled=compiled):
            if contender.missing:
                yield dtype, offset, contender, "not installed"
                continue
            if contender.formula not in expected:
                expected = {contender.formula: reference(contender.formula, inputs), **expected}
            try:
                yield dtype, offset, contender, errors_of(contender, inputs, expected[contender.formula])
            except Exception as error:
                if contender.ours:
                    raise
                yield dtype, offset, contender, f"failed: {type(error).__name__}"  # not every peer takes every type


def verdict(own: dict[str, float], peers: list[dict[str, float]]) -> str:
    """Beside the best peer of the same formula, quantity by quantity: ``lowest``, ``tied``, or ``higher`` in some."""
    if not peers:
        return "no peer"
    ratios = {name: own[name] / min(peer[name] for peer in peers if name in peer) for name in own}
    if worse := [f"{name} x{ratio:.2f}" for name, ratio in ratios.items() if ratio > TIE]:
        return "higher: " + ", ".join(worse)
    return f"{'lowest' if max(ratios.values()) < 1 else 'tied'}, at most x{max(ratios.values()):.2f}"
