"""What a rank sends in one optimizer step, by formula: for every layout, before anything is started. Imports no torch.

A test compares it, byte by byte, with what :mod:`ibnorm_megatron.parallel.counting` counts of real steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Config
from ..model.shards import HeldModule, held_modules, layers_of_stage
from ..parallel.messages import Message, Operation, sent_by_group
from .zero_traffic import ELEMENT_BYTES, zero_messages

__all__ = ["bubble", "sent_by_group", "step_messages"]


def step_messages(config: Config, world_size: int, stage: int | None = None) -> list[Message]:
    """What a rank sends from one record of the loss to the next, where every step is recorded.

    Args:
        config: the run's.
        world_size: processes.
        stage: the rank's pipeline stage; None for one that sends the most.
    """
    if stage is None:
        of_stages = (step_messages(config, world_size, number) for number in range(config.parallel.pipeline))
        return max(of_stages, key=lambda messages: sum(message.sent for message in messages))
    data = config.parallel.data(world_size)
    step = _Step(config, stage, data, held_modules(config.model, config.parallel, stage))
    found = [*step.tensor(), *step.context(), *step.pipeline()]
    found += zero_messages(config, step.modules, step.replicas, step.micro_batches)
    found += step.norms_between_steps()
    counted = 8 + 8 * SPEAKERS
    found.append(Message("world", "labels counted, loss summed", "all_reduce", world_size, 2, counted + _loss_bytes(config)))
    return [message for message in found if message.ranks > 1 and message.payload]


#: Callbacks of a run that tell all ranks something with every step: who stops it, and who saves it.
SPEAKERS = 2


def _loss_bytes(config: Config) -> int:
    """A float64; with a guard, which sees it every step, another for the gradient's norm."""
    return 16 if config.guard.stop_after > 0 or config.guard.spikes != "off" else 8


def bubble(config: Config, world_size: int) -> float:
    """Share of a 1F1B step in which a stage waits, if forward and backward take every stage equally long.

    (p - 1) / (m + p - 1) of p stages and m micro-batches (Narayanan et al., arXiv 2104.04473).
    """
    stages = config.parallel.pipeline
    return (stages - 1) / (config.train.micro_batches(config.parallel.data(world_size)) + stages - 1)


@dataclass(frozen=True)
class _Step:
    """One rank's step. ``data`` counts data-parallel ranks; sizes below are of one micro-batch unless said otherwise."""

    config: Config
    stage: int
    data: int
    modules: list[HeldModule]

    @property
    def micro_batches(self) -> int:
        return self.config.train.micro_batches(self.data)

    @property
    def replicas(self) -> int:
        return self.data * self.config.parallel.context

    @property
    def tokens(self) -> int:
        """Of all tensor ranks together, on this context rank."""
        train = self.config.train
        return train.micro_batch(self.data) * train.sequence_length // self.config.parallel.context

    @property
    def element(self) -> int:
        return ELEMENT_BYTES[self.config.train.precision]

    @property
    def activations(self) -> int:
        """Bytes of the hidden states of those tokens."""
        return self.tokens * self.config.model.hidden_size * self.element

    @property
    def layers(self) -> int:
        return len(layers_of_stage(self.config.model, self.config.parallel, self.stage))

    @property
    def first(self) -> bool:
        return self.stage == 0

    @property
    def last(self) -> bool:
        return self.stage == self.config.parallel.pipeline - 1

    @property
    def layer_passes(self) -> int:
        """Forward passes through a layer: one more where it is computed again."""
        return 2 if self.config.parallel.recompute == "full" else 1

    def _message(self, group: str, ranks: int, what: str, operation: Operation, calls: int, each: int) -> Message:
        """``calls`` a micro-batch, of ``each`` bytes."""
        calls *= self.micro_batches
        return Message(group, what, operation, ranks, calls, calls * each)

    def tensor(self) -> Iterator[Message]:
        """Megatron's two pairs of collectives a layer, those at both ends, norms, and the loss."""
        ranks = self.config.parallel.tensor
        if ranks == 1:
            return
        for what, operation, calls in self._activations():
            yield self._message("tensor", ranks, what, operation, calls, self.activations)
        if self.last:  # the largest logit, the label's, and the sum of exponentials, in float32 for every token
            yield self._message("tensor", ranks, "cross-entropy", "all_reduce", 3, 4 * self.tokens)
        yield from self._row_sums(ranks)
        partial = [p.elements for module in self.modules for p in module.parameters if p.partial]
        calls, elements = len(partial) * self.micro_batches, sum(partial) * self.micro_batches
        yield Message("tensor", "partial gradients", "all_reduce", ranks, calls, 4 * elements)

    def _activations(self) -> Iterator[tuple[str, Operation, int]]:
        """What, how and how often in a micro-batch hidden states travel (Shoeybi et al., arXiv 1909.08053).

        With sequence parallelism (Korthikanti et al., arXiv 2205.05198) an all-reduce becomes a reduce-scatter and an
        all-gather, and the input of a column-parallel matrix, of which a rank keeps its share, is gathered again for the
        gradient of the matrix.
        """
        blocks, head = 2 * self.layers, int(self.last)
        what = "activations of layers"
        if not self.config.parallel.sequence_parallel:
            yield what, "all_reduce", blocks * (self.layer_passes + 1)
            yield "gradient at the head", "all_reduce", head
            yield "embedding", "all_reduce", int(self.first)
            return
        yield what, "all_gather", blocks * (self.layer_passes + 2)
        yield what, "reduce_scatter", blocks * (self.layer_passes + 1)
        yield "activations at the head", "all_gather", 2 * head
        yield "gradient at the head", "reduce_scatter", head
        # Learned positions are added to all tokens, so megatron-core sums the embedding before it cuts the sequence.
        learned = self.config.model.position_embedding == "learned"
        yield "embedding", "all_reduce" if learned else "reduce_scatter", int(self.first)
        yield "gradient of the embedding", "all_gather", int(self.first)

    def _row_sums(self, ranks: int) -> Iterator[Message]:
        model, layers = self.config.model, layers_of_stage(self.config.model, self.config.parallel, self.stage)
        calls = payload = 0
        for site, norm in model.norm_sites().items():
            if site.layer in layers and model.has_sharded_columns(site):
                sums = norm.row_sums()
                every = [*sums.forward * self.layer_passes, *sums.backward]
                calls += len(every) * self.micro_batches
                payload += sum(every) * sums.bytes_each * self.tokens * self.micro_batches
        yield Message("tensor", "statistics of sharded norms", "all_reduce", ranks, calls, payload)

    def context(self) -> Iterator[Message]:
        """Keys and values for everybody, or heads for tokens and back; both ways."""
        layout, model = self.config.parallel, self.config.model
        ranks = layout.context
        passes = 1 if layout.recompute == "none" else 2
        keys = self.tokens * model.num_key_value_heads // layout.tensor * model.head_dim * self.element  # own, or values
        if layout.context_method == "all_gather":
            what = "keys and values"
            yield self._message("context", ranks, what, "all_gather", self.layers * passes, 2 * ranks * keys)
            yield self._message("context", ranks, f"gradients of {what}", "reduce_scatter", self.layers, 2 * ranks * keys)
            return
        queries = self.activations // layout.tensor  # own, or of attention's output
        calls = self.layers * (passes + 1)
        yield self._message("context", ranks, "queries and outputs", "all_to_all", 2 * calls, queries)
        yield self._message("context", ranks, "keys and values", "all_to_all", 2 * calls, keys)

    def pipeline(self) -> Iterator[Message]:
        """Hidden states to the next stage, their gradients to the one before; tied embeddings."""
        layout, model = self.config.parallel, self.config.model
        stages = layout.pipeline
        share = self.activations // (layout.tensor if layout.sequence_parallel else 1)
        yield self._message("pipeline", stages, "hidden states", "send", int(not self.last), share)
        yield self._message("pipeline", stages, "gradients of hidden states", "send", int(not self.first), share)
        if model.tie_embeddings and stages > 1 and (self.first or self.last):
            table = model.padded_vocab_size(layout.tensor) // layout.tensor * model.hidden_size
            yield Message("embedding", "gradient of tied embeddings", "all_reduce", 2, 1, 4 * table)

    def norms_between_steps(self) -> Iterator[Message]:
        """Norms with statistics over tokens sum them over all that have tokens of a layer."""
        model, layout = self.config.model, self.config.parallel
        layers = layers_of_stage(model, layout, self.stage)
        for_ends = {"embedding": self.first, "final": self.last}
        calls = {"replicas": 0, "tensor": 0}
        payload = dict(calls)
        for site, norm in model.norm_sites().items():
            if not (site.layer in layers if site.layer is not None else for_ends[site.name]):
                continue
            sharded = model.has_sharded_columns(site)
            numbers = norm.step_sums(model.norm_width(site) // (layout.tensor if sharded else 1))
            own_heads = site.name in ("q", "k") and not sharded
            shares_rows = layout.tensor > 1 and not sharded and (own_heads or layout.sequence_parallel)
            for group in ("replicas", *(("tensor",) if shares_rows else ())):
                calls[group] += bool(numbers)
                payload[group] += 8 * numbers
        for group, ranks in (("replicas", self.replicas), ("tensor", layout.tensor)):
            yield Message(group, "statistics over tokens", "all_reduce", ranks, calls[group], payload[group])
