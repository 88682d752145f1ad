"""Checks of a norm layer: gradients, precision, isolation of rows, how it answers to scale, and sharding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..norms.base import Norm
from ..norms.compression import get_compression
from ..norms.config import IBNormConfig, NormConfig
from .compression import check_compression
from .finding import Finding
from .sharding import RankError, check_sharding

_WIDTH = 24


def check_norm(config: NormConfig, plugins: Sequence[str] = ()) -> Iterator[Finding]:
    """Everything that can be checked about a norm on a CPU, in seconds.

    Args:
        config: the norm.
        plugins: files that register it, for the processes that check sharding.
    """
    yield from check_alone(config)
    yield from _caught("on two ranks", lambda: next(check_sharding([config], plugins)))


def check_alone(config: NormConfig) -> Iterator[Finding]:
    """The checks that one process can do."""
    if isinstance(config, IBNormConfig):
        compression = get_compression(config.compression)
        yield from _caught("of the compression", lambda: check_compression(compression))
    checks = {"parameters": _parameters, "gradients": _gradients, "precision": _precision, "rows": _rows, "scale": _scale}
    for name, check in checks.items():
        yield from _caught(f"of {name}", partial(check, config))


def _caught(which: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """A check's findings; an error in the code under test is one, too."""
    try:
        yield from check()
    except RankError as error:
        yield Finding(f"the check {which} raises no error", False, str(error))
    except Exception as error:  # whatever the user's code raises
        yield Finding(f"the check {which} raises no error", False, " ".join(f"{type(error).__name__}: {error}".split()))


def build(config: NormConfig, dtype: torch.dtype, width: int = _WIDTH) -> Norm:
    """The norm as in evaluation, with parameters off their initial values: a gain of 1 would hide a gain applied twice."""
    module = config.build(width).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.1 * noise).to(dtype))
    return module


def draw(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _parameters(config: NormConfig) -> Iterator[Finding]:
    built = sum(parameter.numel() for parameter in config.build(_WIDTH).parameters())
    said = config.num_params(_WIDTH)
    yield Finding("num_params counts what is built", built == said, f"{built} built, {said} said, at width {_WIDTH}")


def _gradients(config: NormConfig) -> Iterator[Finding]:
    module = build(config, torch.float64)
    x = draw(1, 3, _WIDTH) * 2 + 0.5
    yield _gradcheck("gradient of a row (gradcheck, float64)", module, x)
    x[1] = 0.0
    x[2, ::3] = 0.0
    y = module(leaf := x.clone().requires_grad_())
    y.backward(draw(2, *y.shape))
    assert leaf.grad is not None
    finite = bool(torch.isfinite(y).all() and torch.isfinite(leaf.grad).all())
    yield Finding("rows of zeros, and exact zeros, give finite output and gradient", finite, "")


def _gradcheck(what: str, module: nn.Module, x: Tensor) -> Finding:
    parameters = list(module.parameters())

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return module(x)

    try:
        torch.autograd.gradcheck(run, (x.clone().requires_grad_(), *parameters), atol=1e-7, rtol=1e-6)
    except RuntimeError as error:
        return Finding(what, False, str(error).splitlines()[0])
    return Finding(what, True, "x and every parameter")


def _precision(config: NormConfig) -> Iterator[Finding]:
    """||out - reference|| / ||reference|| against float64 on the rounded input; in bf16 in units of mere rounding."""
    for dtype in (torch.float32, torch.bfloat16):
        module = build(config, dtype, 256)
        wide = build(config, torch.float64, 256)
        wide.load_state_dict({key: value.to(dtype=torch.float64) for key, value in module.state_dict().items()})
        x = (draw(3, 64, 256) * 2 + 0.5).to(dtype)
        y, reference = module(x).detach(), wide(x.double()).detach()
        same = y.dtype == dtype and y.shape == x.shape
        error, rounding = _relative(y, reference), max(_relative(reference.to(dtype), reference), 1e-12)
        if dtype == torch.float32:
            yield Finding("fp32 is right to 2e-6", same and error <= 2e-6, f"{error:.1e} off float64")
        else:
            yield Finding("bf16 is as good as rounding, to 1.2", same and error <= 1.2 * rounding, f"{error / rounding:.2f}")


def _relative(y: Tensor, reference: Tensor) -> float:
    return float((y.detach().double() - reference).norm() / reference.norm())


@torch.no_grad()
def _rows(config: NormConfig) -> Iterator[Finding]:
    module, x = build(config, torch.float32), draw(4, 4, _WIDTH).float()
    spoiled = x.clone()
    spoiled[1, 7] = float("nan")
    same = torch.equal(module(x)[[0, 2, 3]], module(spoiled)[[0, 2, 3]])
    yield Finding("a row with NaN spoils no other row", same, "")


@torch.no_grad()
def _scale(config: NormConfig) -> Iterator[Finding]:
    """How much the output changes with the input's scale; LayerNorm's does not, IBNorm's does with an absolute lambda."""
    module, x = build(config, torch.float64), draw(5, 64, _WIDTH)
    y = module(x)
    changes = [f"{float((module(a * x) - y).norm() / y.norm()):.0e} at {a}x" for a in (0.1, 10)]
    yield Finding("change of the output with the input's scale", None, ", ".join(changes))
