"""What holds for every registered norm: gradients, precision, repeatability, recomputation, and every way of sharding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ibnorm_megatron.norms import Norm, Site, norm_names, parse_norm

from ..distributed import run_ranks

NORMS = [name for name in norm_names() if name != "none"]
WITH_OPTIONS = [*NORMS, {"kind": "rmsnorm", "unit_offset": True}, {"kind": "l2norm", "bias": True}]


def _built(norm: Any, width: int) -> Norm:
    """The norm in a deep layer, its parameters moved away from where they start."""
    module = parse_norm(norm).build(width, site=Site("mlp_in", 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return module


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2 + 0.5


@pytest.mark.parametrize("norm", WITH_OPTIONS, ids=str)
def test_gradients_are_those_of_the_output(norm: Any) -> None:
    module = _built(norm, 12).double().eval()
    parameters = dict(module.named_parameters())
    x = _numbers(3, 2, 12).double().requires_grad_()

    def y(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(y, (x, *parameters.values()))


@pytest.mark.parametrize("norm", WITH_OPTIONS, ids=str)
def test_bf16_is_rounded_once(norm: Any) -> None:
    x, dy = _numbers(2, 2048, 128).bfloat16()
    found: list[dict[str, Tensor]] = []
    for dtype in (torch.bfloat16, torch.float64):
        module = _built(norm, 128).bfloat16().to(dtype).eval()
        leaf = x.to(dtype).clone().requires_grad_()
        y = module(leaf)
        y.backward(dy.to(dtype))
        found.append({"y": y.detach(), "x": leaf.grad, **{name: p.grad for name, p in module.named_parameters()}})
    for what, reference in found[1].items():
        error = float((found[0][what].double() - reference).norm() / reference.norm())
        rounding = float((reference.bfloat16().double() - reference).norm() / reference.norm())
        # One number may be next to a bf16 by luck; its rounding is at most half of the type's spacing.
        assert error <= 1.2 * (rounding if reference.numel() > 1 else torch.finfo(torch.bfloat16).eps / 2), what


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_draws_nothing_and_repeats_itself(norm: str) -> None:
    module, x = _built(norm, 16).eval(), _numbers(5, 3, 16)
    state = torch.get_rng_state()
    first, again = module(x), module(x)
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_a_recomputed_pass_is_the_same_pass(norm: str, reentrant: bool) -> None:
    x, dy = _numbers(2, 5, 3, 16)
    found = []
    for recomputed in (False, True):
        module, leaf = _built(norm, 16), x.clone().requires_grad_()
        torch.manual_seed(3)
        y = checkpoint(module, leaf, use_reentrant=reentrant) if recomputed else module(leaf)
        torch.rand(7)  # what comes between forward and backward draws, too
        y.backward(dy)
        module.set_step(1, 2)
        found.append([y.detach(), leaf.grad, *(p.grad for p in module.parameters()), module.eval()(x).detach()])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


def test_sharded_columns_tokens_and_heads_equal_the_whole() -> None:
    run_ranks(2, "tests.workers.norm_layouts")
