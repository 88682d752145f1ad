"""IBNorm over batch and space and over groups of channels: PyTorch's layers with the identity, a float64 formula else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibnorm_megatron.norms import IBBatchNorm, IBGroupNorm, get_compression
from ibnorm_megatron.norms.eager_batch import EagerIBBatchNorm, Statistics
from ibnorm_megatron.norms.plan import Plan

SHAPES = [(6, 5), (4, 5, 7), (3, 5, 4, 6), (2, 5, 2, 3, 2)]
COMPRESSIONS = ("identity", "linear", "log", "tanh", "softsign", "asinh")
SCALES = ("absolute", "relative")


def _numbers(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Channels of different means and spreads."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    channel = torch.arange(shape[1], dtype=torch.float64).view(1, -1, *[1] * (len(shape) - 2))
    return (x * (1 + channel) + channel - 1).to(dtype)


def _shifted(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return module


def _slowly(x: Tensor, lam: float, compression: str, scale: str, form: str, eps: float, dims: list[int]) -> dict[str, Tensor]:
    """The docstring's formula, word for word, by f itself; x is float64."""
    found = get_compression(compression)
    mu = x.mean(dims, keepdim=True)
    c = x - mu
    square = c.square().mean(dims, keepdim=True)
    u = c if scale == "absolute" else c / (square + eps).sqrt()
    gain = 1 / found.slope_at_zero(lam) if form == "unit_slope" else 1.0
    g = u.sign() * gain * found.f(u.abs(), lam)
    m = g.mean(dims, keepdim=True)
    v = (g - m).square().mean(dims, keepdim=True)
    return {"mu": mu, "square": square, "m": m, "v": v, "z": (g - m) / (v + eps).sqrt()}


@pytest.mark.parametrize("momentum", [0.1, 0.7, None, 0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_identity_is_batch_norm_in_training_and_evaluation(shape: tuple[int, ...], momentum: float | None) -> None:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    theirs = _shifted(kinds[len(shape)](5, eps=1e-3, momentum=momentum))
    ours = IBBatchNorm(5, eps=1e-3, momentum=momentum, compression="identity")
    ours.load_state_dict(theirs.state_dict(), strict=False)
    for step, training in enumerate((True, True, False, True, False)):
        found = []
        for module in (theirs.train(training), ours.train(training)):
            x = _numbers(shape, step).requires_grad_()
            module.zero_grad()
            y = module(x)
            y.backward(_numbers(shape, 10 + step))
            buffers = [module.running_mean, module.running_var, module.num_batches_tracked]
            found.append([y.detach(), x.grad, module.weight.grad, module.bias.grad, *(buffer.clone() for buffer in buffers)])
        for what, a, b in zip(["y", "dx", "dgamma", "dbeta", "mean", "variance", "batches"], *found, strict=True):
            torch.testing.assert_close(b, a, rtol=2e-6, atol=5e-6, msg=lambda said, what=what: f"{what}: {said}")
    assert ours.running_compressed_mean.abs().max() < 1e-6


@pytest.mark.parametrize(("affine", "tracks"), itertools.product([True, False], repeat=2))
def test_the_identity_is_batch_norm_without_gain_and_statistics_too(affine: bool, tracks: bool) -> None:
    theirs = nn.BatchNorm2d(5, affine=affine, track_running_stats=tracks)
    ours = IBBatchNorm(5, compression="identity", track_running_stats=tracks, bias=affine)
    if not affine:
        ours.weight = None
    for step, training in enumerate((True, False)):
        x = _numbers((3, 5, 4, 6), step)
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=2e-6, atol=2e-6)
    assert {name.replace("compressed_", "") for name in ours.state_dict()} == set(theirs.state_dict())


@pytest.mark.parametrize("form", ["unit_slope", "literal"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_batch_norm_computes_its_formula_and_follows_its_statistics(compression: str, scale: str, form: str) -> None:
    options = {"compression": compression, "scale": scale, "form": form, "lam": 1.5}
    module = _shifted(IBBatchNorm(5, 1e-3, momentum=0.3, **options).double())
    running = dict(zip(("mu", "square", "m", "v"), (0.0, 1.0, 0.0, 1.0), strict=True))
    for step in range(3):
        x = _numbers((3, 5, 4, 6), step, torch.float64)
        expected = _slowly(x, 1.5, compression, scale, form, 1e-3, [0, 2, 3])
        y = expected["z"] * module.weight.view(-1, 1, 1) + module.bias.view(-1, 1, 1)
        torch.testing.assert_close(module(x), y, rtol=1e-12, atol=1e-12)
        for name, unbiased in (("mu", 1.0), ("square", 72 / 71), ("m", 1.0), ("v", 72 / 71)):
            running[name] = 0.7 * running[name] + 0.3 * unbiased * expected[name].flatten()
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(module.running_mean, running["mu"], **close)
    torch.testing.assert_close(module.running_compressed_mean, running["m"], **close)
    torch.testing.assert_close(module.running_var, running["v"], **close)
    assert ("running_square" in module.state_dict()) == (scale == "relative")
    if scale == "relative":
        torch.testing.assert_close(module.running_square, running["square"], **close)

    x, found = _numbers((2, 5, 3, 2), 7, torch.float64), get_compression(compression)
    mu, square, m, v = (running[name].view(-1, 1, 1) for name in ("mu", "square", "m", "v"))
    u = x - mu if scale == "absolute" else (x - mu) / (square + 1e-3).sqrt()
    gain = 1 / found.slope_at_zero(1.5) if form == "unit_slope" else 1.0
    y = (u.sign() * gain * found.f(u.abs(), 1.5) - m) / (v + 1e-3).sqrt()
    y = y * module.weight.view(-1, 1, 1) + module.bias.view(-1, 1, 1)
    torch.testing.assert_close(module.eval()(x), y, **close)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("form", ["unit_slope", "literal"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_gradients_of_batch_norm(compression: str, scale: str, form: str, batch: bool) -> None:
    """Of x, with exact zeros of c among it, gamma, beta and, where it can be learned, lambda."""
    x = _numbers((4, 3, 2, 2), dtype=torch.float64)
    x[:, 1] = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])  # its mean is 0, and half of its numbers are their mean
    x[:, 2] = 3.0  # all of them
    weight, bias = torch.tensor([[1.5, -0.7, 0.3], [0.1, 0.0, -0.4]], dtype=torch.float64).unbind()
    learned = get_compression(compression).of_ratio
    plan = Plan.of(compression, 1.0 if learned else 2.0, 1e-2, scale, form, True)
    running = None
    if not batch:
        square = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
        mean = torch.tensor([0.3, 0.0, 3.0], dtype=torch.float64)
        running = Statistics(mean, square if plan.relative else None, 0.1 * mean, 0.5 * square)
    lam = torch.tensor([1.7], dtype=torch.float64) if learned else None
    inputs = [one.requires_grad_() if one is not None else None for one in (x, weight, bias, lam)]
    assert torch.autograd.gradcheck(lambda *given: EagerIBBatchNorm.apply(*given, plan, running)[0], inputs, atol=1e-6)


def test_an_exact_zero_has_the_slope_of_f_at_zero() -> None:
    """Alone among constants, so that every number of c is 0; the limit of a spread that goes to 0 says the same."""
    for compression in ("log", "tanh", "softsign"):
        found = []
        for spread in (0.0, 1e-9):
            x = (spread * _numbers((4, 2, 3), dtype=torch.float64)).requires_grad_()
            IBBatchNorm(2, compression=compression, lam=0.5).double()(x).backward(_numbers((4, 2, 3), 3, torch.float64))
            found.append(x.grad)
        assert found[0].abs().min() > 1e-3
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_group_norm_is_rounded_once(dtype: torch.dtype) -> None:
    x, dy = _numbers((16, 8, 12, 12)).to(dtype) + 3, _numbers((16, 8, 12, 12), 1).to(dtype)
    found: list[dict[str, Tensor]] = []
    for wide in (False, True):
        module = _shifted(IBGroupNorm(8, groups=2, compression="log", lam=2.0)).to(dtype)
        module = module.double() if wide else module
        leaf = (x.double() if wide else x.clone()).requires_grad_()
        y = module(leaf)
        y.backward(dy.to(leaf.dtype))
        found.append({"y": y.detach(), "x": leaf.grad, **{name: p.grad for name, p in module.named_parameters()}})
    _assert_rounded_once(found[0], found[1], dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_rounded_once(training: bool, dtype: torch.dtype, scale: str) -> None:
    x, dy = _numbers((16, 8, 12, 12)).to(dtype) + 30, _numbers((16, 8, 12, 12), 1).to(dtype)
    found: list[dict[str, Tensor]] = []
    for wide in (False, True):
        module = _shifted(IBBatchNorm(8, compression="tanh", lam=2.0, scale=scale)).to(dtype)
        module.running_mean.fill_(30)
        module.running_var.fill_(4)
        module = (module.double() if wide else module).train(training)
        leaf = (x.double() if wide else x.clone()).requires_grad_()
        y = module(leaf)
        assert y.dtype == leaf.dtype
        y.backward(dy.to(leaf.dtype))
        grads = {name: parameter.grad for name, parameter in module.named_parameters()}
        found.append({"y": y.detach(), "x": leaf.grad, **grads, "mean": module.running_mean, "var": module.running_var})
    _assert_rounded_once(found[0], found[1], dtype)


def _assert_rounded_once(found: dict[str, Tensor], references: dict[str, Tensor], dtype: torch.dtype) -> None:
    for what, reference in references.items():
        error = float((found[what].double() - reference).norm() / reference.norm())
        rounding = float((reference.to(dtype).double() - reference).norm() / reference.norm())
        assert error <= (2e-6 if dtype == torch.float32 else 1.2 * rounding), what


def test_a_large_mean_costs_no_digits() -> None:
    """A mean rounded to float32 is off by 5e-4 at 1e4, and that would be the size of the error."""
    x = (_numbers((64, 3, 8, 8)) + 1e4).requires_grad_()
    module = IBBatchNorm(3, compression="log", lam=1.0)
    expected = _slowly(x.detach().double(), 1.0, "log", "absolute", "unit_slope", 1e-5, [0, 2, 3])["z"]
    assert float((module(x).detach().double() - expected).norm() / expected.norm()) < 2e-6


@pytest.mark.parametrize("training", [True, False])
def test_both_layers_are_traced_without_a_break(training: bool) -> None:
    """With running statistics among what the graph changes."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        layers = [IBBatchNorm(6, compression="tanh", scale="relative"), IBGroupNorm(6, groups=2, compression="log")]
        model = nn.Sequential(*layers).train(training)
        call = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        x = _numbers((4, 6, 3, 2)).requires_grad_()
        y = call(x)
        y.backward(_numbers((4, 6, 3, 2), 1))
        found.append([y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for plain, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, plain, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_in_memory_changes_nothing(layout: torch.memory_format) -> None:
    found = []
    for given in (torch.contiguous_format, layout):
        x = _numbers((3, 5, 4, 6), dtype=torch.float64).to(memory_format=given).requires_grad_()
        dy = _numbers((3, 5, 6, 4), 1, torch.float64).transpose(2, 3)
        module = _shifted(IBBatchNorm(5, compression="tanh", scale="relative").double())
        y = module(x)
        y.backward(dy)
        found.append([y.detach(), x.grad, module.weight.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(4, 12), (4, 6, 7), (3, 6, 4, 5)], ids=str)
def test_the_identity_is_group_norm(shape: tuple[int, ...], groups: int) -> None:
    theirs = _shifted(nn.GroupNorm(groups, shape[1], eps=1e-3)).double()
    ours = IBGroupNorm(shape[1], 1e-3, groups=groups, compression="identity").double()
    ours.load_state_dict(theirs.state_dict())
    found = []
    for module in (theirs, ours):
        x = _numbers(shape, dtype=torch.float64).requires_grad_()
        y = module(x)
        y.backward(_numbers(shape, 1, torch.float64))
        found.append([y.detach(), x.grad, module.weight.grad, module.bias.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_group_norm_computes_its_formula(compression: str, scale: str) -> None:
    module = _shifted(IBGroupNorm(6, 1e-3, groups=3, compression=compression, scale=scale, lam=1.5).double())
    x = _numbers((2, 6, 3, 2), dtype=torch.float64)
    rows = x.view(2, 3, 2 * 3 * 2)
    z = _slowly(rows, 1.5, compression, scale, "unit_slope", 1e-3, [-1])["z"].view(x.shape)
    y = z * module.weight.view(-1, 1, 1) + module.bias.view(-1, 1, 1)
    torch.testing.assert_close(module(x), y, rtol=1e-12, atol=1e-12)
    parameters = dict(module.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x.requires_grad_(), *parameters.values()))


def test_lambda_is_learned_and_scheduled_here_too() -> None:
    for build in (IBBatchNorm, lambda *a, **k: IBGroupNorm(*a, groups=2, **k)):
        learned = build(4, compression="log", lam=2.0, strength="learnable")
        learned(_numbers((3, 4, 5))).square().mul(_numbers((3, 4, 5), 1)).sum().backward()
        assert learned.log_lambda.grad.abs() > 0
        scheduled = build(4, compression="log", lam=2.0, strength="scheduled", ramp=1.0)
        first = scheduled(_numbers((3, 4, 5)))
        scheduled.set_step(0, 10)
        assert (scheduled(_numbers((3, 4, 5))) - first).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: IBBatchNorm(4, center=False), "center is false"),
        (lambda: IBGroupNorm(4, groups=3), "groups is 3: 4 channels cannot be parted"),
        (lambda: IBBatchNorm(4)(torch.zeros(1, 4)), "one number a channel has no variance"),
        (lambda: IBBatchNorm(4)(torch.zeros(2, 3, 5)), r"shape \[n, 4, \.\.\.\]"),
        (lambda: IBGroupNorm(4, groups=2)(torch.zeros(4)), r"shape \[n, 4, \.\.\.\]"),
        (lambda: IBGroupNorm(4, groups=2)(torch.zeros(2, 4, dtype=torch.int64)), "floating tensor"),
    ],
)
def test_layers_refuse(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
