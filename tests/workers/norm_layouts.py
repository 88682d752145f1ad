"""Checks every registered norm on two ranks against one: its columns, its tokens or its heads sharded.

In training, over two steps, with the sums of partial gradients that a run would do. float64, so that even the noise has to
be the same bit for bit: it is made in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ibnorm_megatron.norms import Norm, NormConfig, Site, norm_names, parse_norm
from ibnorm_megatron.parallel.gradients import sum_partial_gradients
from ibnorm_megatron.parallel.sharding import Sharding

#: Of outputs and of gradients for x; and of gradients of parameters, which are summed over ranks in float32.
BOUND, SUM_BOUND = 1e-11, 1e-5
WIDTH = 18


@dataclass(frozen=True)
class Layout:
    """How a norm is sharded: the shape of the whole x, the dimension that is cut, and the norm's keywords."""

    shape: tuple[int, ...]
    cut: int
    place: Callable[[dist.ProcessGroup], dict[str, Any]]
    sequence_parallel: bool = False


LAYOUTS = {
    "columns": Layout((6, 3, WIDTH), 2, lambda group: {"process_group": group}),
    "columns under sequence parallelism": Layout((6, 3, WIDTH), 2, lambda group: {"process_group": group}, True),
    "tokens": Layout((6, 3, WIDTH), 0, lambda group: {"token_groups": (group,)}, True),
    "heads": Layout((5, 3, 4, WIDTH), 2, lambda group: {"token_groups": (group,), "partial_over_tensor_parallel": True}),
}


def main() -> None:
    dist.init_process_group("gloo")
    norms = [*norm_names(), {"kind": "rmsnorm", "unit_offset": True}, {"kind": "l2norm", "bias": True}]
    for norm in map(parse_norm, norms):
        for name, layout in LAYOUTS.items():
            for what, error in _errors(norm, layout).items():
                assert error <= (BOUND if what in ("y", "x") else SUM_BOUND), (norm.label(), name, what, error)
    dist.destroy_process_group()


def _errors(norm: NormConfig, layout: Layout) -> dict[str, float]:
    """The largest relative error of the output and of each gradient over two steps."""
    group, rank, ranks = dist.group.WORLD, dist.get_rank(), dist.get_world_size()
    whole = _built(norm, False)
    part = _built(norm, layout.sequence_parallel, tensor_group=group, **layout.place(group))
    sum_partial_gradients(part, group)
    shardings = {name: Sharding.of(parameter, ranks, 0) for name, parameter in part.named_parameters()}
    of_x = Sharding(layout.shape, layout.cut, 1, 0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
            part.get_parameter(name).copy_(shardings[name].take(parameter, rank, ranks))
    errors: dict[str, float] = {}
    for step in range(2):
        x, dy = torch.randn(2, *layout.shape, generator=generator, dtype=torch.float64) * 2 + 0.5
        expected = _step(whole, x, dy, step)
        found = _step(part, of_x.take(x, rank, ranks), of_x.take(dy, rank, ranks), step)
        for what, reference in expected.items():
            share = (
                shardings[what].take(reference, rank, ranks) if what in shardings else reference.chunk(ranks, layout.cut)[rank]
            )
            errors[what] = max(errors.get(what, 0.0), float((found[what] - share).norm() / reference.norm()))
    return errors


def _built(norm: NormConfig, sequence_parallel: bool, **place: Any) -> Norm:
    config = SimpleNamespace(params_dtype=torch.float64, sequence_parallel=sequence_parallel)
    return norm.build(WIDTH, config=config, site=Site("mlp_in", 2), **place)


def _step(norm: Norm, x: Tensor, dy: Tensor, step: int) -> dict[str, Tensor]:
    """Outputs and gradients of two micro-batches, and the end of the step."""
    norm.zero_grad()
    norm.set_seed(step)  # as a model does, on every tensor rank alike
    leaf = x.clone().requires_grad_()
    y = norm(leaf) + norm(leaf.cos())
    y.backward(dy)
    norm.set_step(step + 1, 2)
    return {"y": y.detach(), "x": leaf.grad, **{name: p.grad for name, p in norm.named_parameters()}}


if __name__ == "__main__":
    main()
