"""Checks the exchanges of context parallelism on as many ranks as were launched: values, order and gradients, in float64."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ibnorm_megatron.parallel.context import gather_tokens, heads_for_tokens, own_tokens, tokens_for_heads


def main() -> None:
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    shape = (4 * ranks, 3, 2 * ranks, 5)  # tokens, sequences, heads, width
    whole = torch.randn(shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(ranks, *shape, generator=generator, dtype=torch.float64)  # each rank uses what it has differently

    own = own_tokens(whole, group, dim=0)
    early, late = own[:2], own[2:]
    assert torch.equal(early, whole[2 * rank : 2 * rank + 2])
    assert torch.equal(late, whole[len(whole) - 2 * rank - 2 : len(whole) - 2 * rank])
    assert torch.equal(own_tokens(whole.transpose(0, 1), group, dim=1).transpose(0, 1), own)

    leaf = own.clone().requires_grad_()
    gathered = gather_tokens(leaf, group)
    assert torch.equal(gathered, whole)
    (gathered * weights[rank]).sum().backward()
    _close(leaf.grad, own_tokens(weights.sum(0), group, dim=0))

    leaf = own.clone().requires_grad_()
    exchanged = tokens_for_heads(leaf, group)
    assert torch.equal(exchanged, whole.chunk(ranks, dim=2)[rank])
    (exchanged * weights[0].chunk(ranks, dim=2)[rank]).sum().backward()
    _close(leaf.grad, own_tokens(weights[0], group, dim=0))

    leaf = own.clone().requires_grad_()
    returned = heads_for_tokens(tokens_for_heads(leaf, group), group)
    assert torch.equal(returned, own)
    (returned * own_tokens(weights[0], group, dim=0)).sum().backward()
    _close(leaf.grad, own_tokens(weights[0], group, dim=0))
    dist.destroy_process_group()


def _close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    assert float((found - expected).abs().max()) <= 1e-14, "a gradient of an exchange is wrong"


if __name__ == "__main__":
    main()
