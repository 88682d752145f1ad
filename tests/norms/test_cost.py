"""Operations by formula are those that plain PyTorch is counted doing, while it computes the norm and its gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ibnorm_megatron.norms.compression import Compression, compression_names, get_compression, register_compression
from ibnorm_megatron.norms.config import IBNormConfig, norm_names, parse_norm
from ibnorm_megatron.norms.kernels.folding import Settings, slots

ROWS, WIDTH = 5, 12
OURS = norm_names()  # before a test of the same process loads plugins
ELEMENTWISE = ["abs", "copysign", "mul", "div", "add", "sub", "rsub", "neg"]
ELEMENTWISE += ["rsqrt", "reciprocal", "log1p", "tanh", "asinh", "erf", "exp"]


class Count(TorchDispatchMode):
    """Counts operations: one for every number that an elementwise operation gives, and for every one that is summed."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        assert name == "sum" or name in ELEMENTWISE, name
        self.operations += (args[0] if name == "sum" else result).numel()
        return result


def _curve(name: str, u: Tensor, k: Tensor | float) -> tuple[Tensor, Any]:
    """phi(|u| k) with u's sign, and a function that gives phi' from what that left."""
    if name == "log":
        v = u.abs() * k
        return v.log1p().copysign(u), lambda: (v + 1).reciprocal()
    if name == "softsign":
        v = u * k
        w = v.abs() + 1
        return v / w, lambda: (w * w).reciprocal()
    if name == "tanh":
        h = (u * k).tanh()
        return h, lambda: 1 - h * h
    if name == "asinh":
        v = u * k
        return v.asinh(), lambda: (v * v + 1).rsqrt()
    return u, lambda: None


def _sum(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True)


def _forward(config: IBNormConfig, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, dict[str, Any]]:
    """y, and the statistics of the rows; with ``eps`` for phi in the place of the config's for g."""
    name, bent = config.compression, config.compression not in ("identity", "linear")
    kept: dict[str, Any] = {}
    c, k = x, 1 / config.lam
    if config.center:
        kept["mean"] = _sum(x) * (1 / WIDTH)
        c = x - kept["mean"]
    if config.scale == "relative":
        kept["r"] = (_sum(c * c) * (1 / WIDTH) + config.eps).rsqrt()
        if bent:
            k = kept["r"] * k
        else:
            c = c * kept["r"]
    h, _ = _curve(name, c, k)
    if config.center and bent:
        kept["mean_h"] = _sum(h) * (1 / WIDTH)
        h = h - kept["mean_h"]
    kept["rho"] = (_sum(h * h) * (1 / WIDTH) + eps).rsqrt()
    y = h * kept["rho"] * gamma
    return (y + beta if config.bias else y), kept


def _backward(config: IBNormConfig, x: Tensor, dy: Tensor, gamma: Tensor, kept: dict[str, Any]) -> list[Tensor]:
    """dx, dgamma, and where there are such dbeta and dL/dlambda; constants of the launch are the caller's."""
    name, bent, relative = config.compression, config.compression not in ("identity", "linear"), config.scale == "relative"
    c = x - kept["mean"] if config.center else x
    k: Any = 1 / config.lam
    if relative:
        k = kept["r"] * k if bent else kept["r"]
    h, slope = _curve(name, c, k) if bent or not relative else (c * k, lambda: None)
    z = (h - kept["mean_h"] if config.center and bent else h) * kept["rho"]
    gradients = [(dy * z).sum(0), *([dy.sum(0)] if config.bias else [])]
    w = dy * gamma
    p = w - z * (_sum(w * z) * (1 / WIDTH))
    if config.center:
        p = p - _sum(w) * (1 / WIDTH)
    through_factor = (
        (_sum(p * h) * kept["rho"]).sum() if config.strength == "learnable" and config.form == "unit_slope" else None
    )
    factor = kept["rho"]
    if bent:
        p = p * slope()
    if bent or relative:
        factor = factor * k
    along = _sum(p * c) if relative or config.strength == "learnable" else None
    out = p
    if bent and config.center:
        out = out - _sum(p) * (1 / WIDTH)
    if relative:
        out = out - c * (along * (1 / WIDTH) * kept["r"] * kept["r"])
    gradients.insert(0, out * factor)
    if config.strength == "learnable":
        of_lambda = (along * factor).sum()
        gradients += [of_lambda] if through_factor is None else [of_lambda, through_factor]
    return gradients


CONFIGS = [
    IBNormConfig(kind="ibnorm", compression=name, scale=scale, center=center, bias=bias, lam=1.5, eps=1e-3)
    for name, scale, center, bias in product(compression_names(), ("absolute", "relative"), (True, False), (True, False))
] + [
    IBNormConfig(kind="ibnorm", compression=name, scale=scale, form=form, strength="learnable", lam=1.5, eps=1e-3)
    for name, scale, form in product(("log", "tanh"), ("absolute", "relative"), ("unit_slope", "literal"))
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.label())
def test_operations_are_those_that_are_counted(config: IBNormConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    norm = config.build(WIDTH).double()
    with torch.no_grad():
        norm.weight += 0.3 * torch.randn(WIDTH, generator=generator)
    gamma, beta = norm.weight.detach(), norm.bias.detach() if norm.bias is not None else x.new_zeros(WIDTH)
    # phi stands for g, so constants are folded: g = gain phi is standardized with eps, phi with eps / gain^2.
    straight = config.compression == "identity" or (config.compression == "linear" and config.form == "unit_slope")
    gain = 1.0 if straight else config.lam if config.form == "unit_slope" else 1.0
    eps = config.eps / gain**2
    with Count() as forward:
        y, kept = _forward(config, x, gamma, beta, eps)
    with Count() as backward:
        dx, dgamma, *others = _backward(config, x, dy, gamma, kept)
    cost = config.flops(WIDTH)
    assert cost is not None
    assert (forward.operations, backward.operations) == (ROWS * cost.forward, ROWS * cost.backward)

    leaf = x.clone().requires_grad_()
    real = norm(leaf)
    real.backward(dy)
    torch.testing.assert_close(y, real, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dx, leaf.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dgamma, norm.weight.grad, rtol=1e-6, atol=1e-9)
    if norm.bias is not None:
        torch.testing.assert_close(others[0], norm.bias.grad)
    if config.strength == "learnable":
        # lambda dL/dlambda, the gradient of log lambda: all that is left is done once, not for every row.
        of_lambda, *through_factor = others[1:]
        total = sum(through_factor) - of_lambda
        torch.testing.assert_close(total, norm.log_lambda.grad.squeeze(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("norm", "same"),
    [("layernorm", "ibnorm_identity"), ("rmsnorm", "{c}"), ("layernorm_scaling", "layernorm"), ("l2norm", "rmsnorm")],
)
def test_norms_of_one_formula_cost_the_same(norm: str, same: str) -> None:
    other = parse_norm({"kind": "ibnorm_identity", "center": False, "bias": False} if same == "{c}" else same)
    one = parse_norm(norm)
    assert one.flops(640) == other.flops(640)
    for size in (2, 4):
        assert one.bytes_moved(640, size) == other.bytes_moved(640, size)
        assert one.saved_bytes(640, size) == other.saved_bytes(640, size)


@pytest.mark.parametrize(("kind", "bias"), product(("scale", "dyt", "derf", "batchnorm"), (True, False)))
def test_operations_of_norms_of_single_numbers(kind: str, bias: bool) -> None:
    config = parse_norm(kind if kind == "scale" else {"kind": kind, "bias": bias})
    generator = torch.Generator().manual_seed(0)
    x, dy, gamma = (torch.randn(*shape, generator=generator) for shape in ((ROWS, WIDTH), (ROWS, WIDTH), (WIDTH,)))
    with Count() as forward:
        _pointwise_forward(kind, bias, x, gamma)
    with Count() as backward:
        gradients = _pointwise_backward(kind, bias, x, dy, gamma)
    cost = config.flops(WIDTH)
    assert cost is not None
    assert (forward.operations, backward.operations) == (ROWS * cost.forward, ROWS * cost.backward)
    norm, leaf = config.build(WIDTH), x.clone().requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(gamma if norm.weight.numel() > 1 else torch.tensor([0.7]))
        if hasattr(norm, "alpha"):
            norm.alpha.fill_(0.7)
        if hasattr(norm, "shift"):
            norm.shift.fill_(0.2)
        if kind == "batchnorm":
            norm.averages.view(torch.float64)[0].fill_(0.2)
            norm.averages.view(torch.float64)[1].fill_(0.7**-2 - norm.eps)
    norm(leaf).backward(dy)
    torch.testing.assert_close(gradients[0], leaf.grad)
    torch.testing.assert_close(gradients[1].view(-1), norm.weight.grad)
    if hasattr(norm, "alpha"):
        torch.testing.assert_close(gradients[2], norm.alpha.grad.squeeze())


def _pointwise_forward(kind: str, bias: bool, x: Tensor, gamma: Tensor) -> None:
    if kind == "scale":
        x * 0.7
        return
    if kind == "batchnorm":
        c = x - 0.2
        c.sum(0), (c * c).sum(0)
        y = c * 0.7 * gamma
    else:
        y = ((x * 0.7).tanh() if kind == "dyt" else (x * 0.7 + 0.2).erf()) * gamma
    if bias:
        y + gamma


def _pointwise_backward(kind: str, bias: bool, x: Tensor, dy: Tensor, gamma: Tensor) -> list[Tensor]:
    if kind == "scale":
        return [dy * 0.7, (dy * x).sum()]
    if bias:
        dy.sum(0)
    if kind == "batchnorm":
        z = (x - 0.2) * 0.7
        return [dy * gamma * 0.7, (dy * z).sum(0)]
    if kind == "dyt":
        t = (x * 0.7).tanh()
        slope = 1 - t * t
    else:
        u = x * 0.7 + 0.2
        t, slope = u.erf(), (u * u).neg().exp() * (2 / torch.pi**0.5)
    p = dy * gamma * slope
    found = [p * 0.7, (dy * t).sum(0), (p * x).sum()]
    if kind == "derf":
        p.sum()
    return found


@pytest.mark.parametrize(("size", "config"), product((2, 4), CONFIGS), ids=str)
def test_statistics_are_those_that_the_kernels_keep(size: int, config: IBNormConfig) -> None:
    if config.strength == "learnable":  # no kernel
        config = config.model_copy(update={"strength": "fixed"})
    settings = Settings(config.compression, config.lam, 1.0, config.eps, config.scale == "relative", config.center)
    count = slots(settings, fast=size == 2).count
    assert config.statistics(size) == count
    assert config.bytes_moved(WIDTH, size) == (2 * WIDTH * size + 4 * count, 3 * WIDTH * size + 4 * count)
    assert config.saved_bytes(WIDTH, size) == WIDTH * size + 4 * count


def test_only_what_is_known_is_said() -> None:
    log = get_compression("log")
    if "uncounted" not in compression_names():
        register_compression(Compression("uncounted", log.f, log.slope, log.slope_at_zero, log.bounded))
    uncounted = parse_norm("ibnorm_uncounted")
    assert uncounted.flops(WIDTH) is None
    assert uncounted.saved_bytes(WIDTH, 4) == parse_norm("ibnorm_log").saved_bytes(WIDTH, 4)
    unsaid = {name for name in OURS if parse_norm(name).flops(WIDTH) is None}
    assert {name for name in unsaid if not name.startswith("ibnorm")} == {"none", "normalnorm"}
