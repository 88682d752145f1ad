"""torch.compile takes the norm whole, gives the same, and needs no second time when a scheduled lambda moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from ibnorm_megatron.norms import Norm, parse_norm


def _values(norm: Norm, x: Tensor, dy: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    norm.zero_grad()
    y = norm(leaf)
    y.backward(dy)
    return [y.detach(), leaf.grad, *(parameter.grad.clone() for parameter in norm.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("strength", ["scheduled", "learnable"])
def test_compiled_is_the_same(strength: str) -> None:
    """Without a graph break; a fixed lambda takes the scheduled one's path with a number for the tensor."""
    torch.compiler.reset()
    config = parse_norm({"kind": "ibnorm_log", "lambda": 2.0, "strength": strength})
    norms = [config.build(24) for _ in range(2)]
    norms[1].forward = torch.compile(norms[1].forward, fullgraph=True)
    graphs = counters["stats"]["unique_graphs"]
    for done in range(3):
        x, dy = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(done))
        for norm in norms:
            norm.set_step(done, 100)
        for ours, expected in zip(_values(norms[1], x, dy), _values(norms[0], x, dy), strict=True):
            torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-5)
    assert counters["stats"]["unique_graphs"] == graphs + 1


@pytest.mark.slow
def test_compiled_noise_is_the_same() -> None:
    """The noise itself stays out of the compiled code, which would crash the process."""
    torch.compiler.reset()
    norms = [parse_norm("normalnorm").build(24) for _ in range(2)]
    norms[1].forward = torch.compile(norms[1].forward)
    for seed in (5, 2**62 + 1):
        x, dy = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(seed))
        for norm in norms:
            norm.set_seed(seed)
        for ours, expected in zip(_values(norms[1], x, dy), _values(norms[0], x, dy), strict=True):
            torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-5)
