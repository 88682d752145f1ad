"""Pipeline parallelism: Megatron-core's 1F1B schedule over the stages of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .groups import Groups

#: The keywords of a module's forward for one micro-batch; ``tokens`` is ``[b, s]`` with this rank's tokens s.
Inputs = Mapping[str, Tensor]


def run_pipeline(
    module: nn.Module,
    batches: Sequence[Inputs],
    groups: Groups,
    scale: Tensor | float,
    loss_scaling: Callable[[Tensor], Tensor] | None = None,
    *,
    forward_only: bool = False,
) -> list[Tensor]:
    """Run all micro-batches through the stages, one forward, one backward (Narayanan et al., arXiv 2104.04473).

    Args:
        module: this rank's stage. It has Megatron-core's ``config`` and ``set_input_tensor``; the last stage's forward
            returns a scalar loss.
        batches: this rank's micro-batches, all of one shape.
        groups: this rank's place.
        scale: what the losses are multiplied by for the backward pass.
        loss_scaling: applied to that, for fp16.
        forward_only: no backward pass.

    Returns:
        The detached losses, on the last stage; nothing on others.
    """
    from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving

    module.config.grad_scale_func = loss_scaling  # type: ignore[union-attr]

    def forward(iterator: Iterator[Inputs], model: nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
        return model(**next(iterator)), partial(_weighed, scale=scale)

    sequences, own_tokens = batches[0]["tokens"].shape
    losses: list[Tensor] = forward_backward_pipelining_without_interleaving(
        forward_step_func=forward,
        data_iterator=iter(batches),
        model=module,
        num_microbatches=len(batches),
        seq_length=own_tokens * groups.layout.context,
        micro_batch_size=sequences,
        forward_only=forward_only,
    )
    return losses


def _weighed(loss: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """What is differentiated; a number of tokens, which the schedule adds up for nobody; what is returned."""
    return loss * scale, torch.zeros((), dtype=torch.int, device=loss.device), loss.detach()
