"""Faults to work under: each a context manager that breaks one thing in a rank, as a mistake in the code would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ibnorm_megatron.model import language_model
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.model.norm_slots import norms_of
from ibnorm_megatron.norms.site import Site
from ibnorm_megatron.parallel import engine as engines
from ibnorm_megatron.parallel.engine import Engine
from ibnorm_megatron.train import step as steps
from ibnorm_megatron.verify import measure as measuring


@contextmanager
def replaced(where: Any, name: str, by: Any) -> Iterator[None]:
    """``where.name`` is ``by`` meanwhile."""
    before = getattr(where, name)
    setattr(where, name, by)
    try:
        yield
    finally:
        setattr(where, name, before)


def dropped_sum() -> Any:
    """Partial gradients are not summed over tensor ranks."""
    return replaced(engines, "sum_partial_gradients", lambda module, group: [])


def doubled_sum() -> Any:
    """They are summed twice."""
    right = engines.sum_partial_gradients

    def twice(module: nn.Module, group: dist.ProcessGroup) -> None:
        right(module, group)
        right(module, group)

    return replaced(engines, "sum_partial_gradients", twice)


def _in_every_model(change: Callable[[Any], None]) -> Any:
    """Change every model where its weights have been set."""
    right = measuring._disturb_vectors

    def changed(module: nn.Module, *arguments: Any) -> None:
        right(module, *arguments)
        change(module)

    return replaced(measuring, "_disturb_vectors", changed)


def marked_sharded() -> Any:
    """The gain of one norm, which every rank holds in full, says that it is a shard."""

    def mark(module: Any) -> None:
        gain = norms_of(module)[Site("mlp_in", 1)].weight
        gain.tensor_model_parallel, gain.partition_dim, gain.partition_stride = True, 0, 1

    return _in_every_model(mark)


def swapped_halves() -> Any:
    """On the last rank, gate and up of the first layer's fc1 have changed places."""

    def swap(module: Any) -> None:
        if dist.get_rank() == dist.get_world_size() - 1:
            weight = module.gpt.decoder.layers[0].mlp.linear_fc1.weight
            with torch.no_grad():
                weight.copy_(torch.cat(weight.chunk(2)[::-1]))

    return _in_every_model(swap)


def swapped_in_use() -> Any:
    """On all ranks, the first layer takes its gate for up and up for gate, though the weights are where they belong."""

    def swap(module: Any) -> None:
        module.gpt.decoder.layers[0].mlp.linear_fc1.register_forward_hook(
            lambda layer, arguments, output: (torch.cat(output[0].chunk(2, dim=-1)[::-1], dim=-1), output[1])
        )

    return _in_every_model(swap)


def fc1_in_one_piece() -> Any:
    """fc1 is cut over tensor ranks as if gate and up were one matrix, from its first weights on."""
    right = language_model.initialize

    def initialize(module: Any, *arguments: Any) -> None:
        for layer in module.decoder.layers:
            layer.mlp.linear_fc1.weight.partition_stride = 1
        right(module, *arguments)

    return replaced(language_model, "initialize", initialize)


def desynchronised_dropout() -> Any:
    """Each tensor rank drops what it likes of a residual stream that they share."""

    def desynchronise(module: Any) -> None:
        torch.manual_seed(1000 + dist.get_rank())

    return _in_every_model(desynchronise)


def skipped_micro_batch() -> Any:
    """The last micro-batch of every step is forgotten."""
    right = Engine.forward_backward

    def forward_backward(self: Engine, batches: Sequence[Any], weight: Any) -> Tensor:
        return right(self, [*batches[:-1], {**batches[-1], "loss_mask": torch.zeros_like(batches[-1]["loss_mask"])}], weight)

    return replaced(Engine, "forward_backward", forward_backward)


def local_mean() -> Any:
    """Every rank's loss is its own mean, and the gradient the mean of the ranks'."""
    right = Engine.forward_backward

    def forward_backward(self: Engine, batches: Sequence[Any], weight: Any) -> Tensor:
        labels = sum(float(batch["loss_mask"].sum()) for batch in batches)
        return right(self, batches, torch.tensor(1 / max(1.0, labels) / self.groups.num_replicas))

    return replaced(Engine, "forward_backward", forward_backward)


def forgotten_documents() -> Any:
    """The last rank has attention see all of a row."""
    right = LanguageModel.forward

    def forward(self: LanguageModel, *arguments: Any, documents: Tensor | None = None, **others: Any) -> Tensor:
        return right(self, *arguments, documents=None if dist.get_rank() == dist.get_world_size() - 1 else documents, **others)

    return replaced(LanguageModel, "forward", forward)


def raising_rank() -> Any:
    """The last rank raises an error in layouts with tensor ranks, while the others wait for it."""
    right = steps.TrainStep.__call__

    def call(self: Any, step: int, *arguments: Any) -> Any:
        if step == 2 and self._groups.layout.tensor > 1 and dist.get_rank() == dist.get_world_size() - 1:
            raise ValueError("the second step is too many for me")
        return right(self, step, *arguments)

    return replaced(steps.TrainStep, "__call__", call)


def hanging_rank() -> Any:
    """The last rank sleeps for ever in layouts with tensor ranks."""
    right = steps.TrainStep.__call__

    def call(self: Any, step: int, *arguments: Any) -> Any:
        if step == 2 and self._groups.layout.tensor > 1 and dist.get_rank() == dist.get_world_size() - 1:
            time.sleep(10_000)
        return right(self, step, *arguments)

    return replaced(steps.TrainStep, "__call__", call)


def dying_rank() -> Any:
    """The last rank dies without a word in layouts with tensor ranks."""
    import os

    right = steps.TrainStep.__call__

    def call(self: Any, step: int, *arguments: Any) -> Any:
        if self._groups.layout.tensor > 1 and dist.get_rank() == dist.get_world_size() - 1:
            os._exit(42)
        return right(self, step, *arguments)

    return replaced(steps.TrainStep, "__call__", call)
