"""How long a step takes on GPUs, by a formula whose every assumption is a number here; docs/estimate.md spells it out.

    step = bubble(slowest stage's micro-batches) + what of the gradients' messages is not hidden + the optimizer's step

A micro-batch's time on a stage is that of its matrix products at an assumed share of the GPU's peak, that of its norms, which
move bytes, and that of the messages between which nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..config import Config
from ..model.shards import layers_of_stage
from ..parallel.messages import Message
from ..train.gpus import Gpu
from ..train.traffic import bubble, step_messages
from ..train.zero_traffic import ELEMENT_BYTES
from .states import States

#: Share of a GPU's peak that matrix products and attention reach together with the element-wise operations between them.
#: docs/estimate.md says which published runs it comes from.
EFFICIENCY = 0.6

#: Share of a link's bandwidth that collectives reach, seconds that one costs however small it is, and the share of memory
#: bandwidth that norms and AdamW reach. Assumptions of the usual size; none was measured here.
LINK_SHARE, LATENCY, MEMORY_SHARE = 0.75, 10e-6, 0.8

#: Seconds that a layer's forward and backward pass take however few tokens it has: some sixty kernels, one after another.
LAYER_FLOOR = 300e-6

#: Bytes a second of a host's memory for one GPU's share of an offloaded optimizer: an assumption.
HOST_MEMORY = 20e9

#: Share of a backward pass in a training step without recomputation.
_BACKWARD = 2 / 3


@dataclass(frozen=True)
class Cluster:
    """GPUs and how they are put together.

    Attributes:
        gpu: their kind.
        per_node: of a node.
        efficiency: share of the peak, as :data:`EFFICIENCY`.
        network: bytes a second of a GPU's share of the network, in one direction; None for the GPU's own figure.
    """

    gpu: Gpu
    per_node: int = 8
    efficiency: float = EFFICIENCY
    network: float | None = None


@dataclass(frozen=True)
class Speed:
    """Seconds of one optimizer step, by what they go to.

    Attributes:
        matrices: products and attention, recomputed ones too.
        norms: all norms.
        tensor, context, pipeline: messages of these groups.
        bubble: waiting for other stages.
        gradients: of the replicas' messages what nothing hides.
        optimizer: AdamW, and the host's part where it is offloaded.
        tokens: of a step, over all ranks.
        flops: that the model needs for a step, over all ranks, without recomputation.
        peak: FLOP/s of all GPUs together.
    """

    matrices: float
    norms: float
    tensor: float
    context: float
    pipeline: float
    bubble: float
    gradients: float
    optimizer: float
    tokens: int
    flops: float
    peak: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        parts = (
            self.matrices,
            self.norms,
            self.tensor,
            self.context,
            self.pipeline,
            self.bubble,
            self.gradients,
            self.optimizer,
        )
        return sum(parts)

    @property
    def tokens_per_second(self) -> float:
        """Over all ranks."""
        return self.tokens / self.step

    @property
    def mfu(self) -> float:
        """Share of the peak that the model's own FLOPs are."""
        return self.flops / self.step / self.peak

    def days(self, tokens: float) -> float:
        """Of so many tokens, saving, evaluating and failing left out."""
        return tokens / self.tokens_per_second / 86_400

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "step": self.step, "tokens_per_second": self.tokens_per_second, "mfu": self.mfu}


def speed(config: Config, world_size: int, cluster: Cluster) -> Speed:
    """Of a run's step.

    Args:
        config: the run's, checked.
        world_size: processes, one to a GPU.
        cluster: the GPUs.
    """
    layout, train = config.parallel, config.train
    data = layout.data(world_size)
    micro_batches = train.micro_batches(data)
    stage = layout.pipeline - 1  # it has the head beside its layers, so it is the slowest
    flops = micro_batches * _stage_flops(config, data, stage)
    floor = micro_batches * len(layers_of_stage(config.model, layout, stage)) * LAYER_FLOOR
    matrices = max(floor, flops / (cluster.gpu.peak(train.precision) * cluster.efficiency))
    norms = micro_batches * _norm_bytes(config, data, stage) / (cluster.gpu.bandwidth * MEMORY_SHARE)
    messages = step_messages(config, world_size, stage)
    spent = {
        group: _seconds(messages, group, config, world_size, cluster)
        for group in ("tensor", "context", "pipeline", "embedding")
    }
    busy = matrices + norms + spent["tensor"] + spent["context"]
    share = bubble(config, world_size)
    return Speed(
        matrices=matrices,
        norms=norms,
        tensor=spent["tensor"],
        context=spent["context"],
        pipeline=spent["pipeline"] + spent["embedding"],
        bubble=busy * share / (1 - share),
        gradients=_exposed(messages, config, world_size, busy, cluster),
        optimizer=_optimizer(config, world_size, stage, cluster),
        tokens=train.tokens_per_step(),
        flops=float(train.tokens_per_step() * config.model.flops_per_token(train.sequence_length)),
        peak=world_size * cluster.gpu.peak(train.precision),
    )


def _stage_flops(config: Config, data: int, stage: int) -> float:
    """Of one rank of a stage, for a micro-batch, forward and backward, with what is computed again.

    As :meth:`ModelConfig.flops_per_token` counts: 6 for a weight, 12 h s a layer for attention, no discount for causality.
    """
    model, layout, train = config.model, config.parallel, config.train
    tokens = train.micro_batch(data) * train.sequence_length / (layout.context * layout.tensor)
    parts = model.num_params()
    layers = len(layers_of_stage(model, layout, stage))
    weights = (parts["attention"] + parts["mlp"]) / model.num_layers
    attention = 12 * model.hidden_size * train.sequence_length
    layer = 6 * weights + attention
    again = {"none": 0.0, "selective": attention / 3, "full": layer / 3}[layout.recompute]
    head = 6 * model.padded_vocab_size(layout.tensor) * model.hidden_size if stage == layout.pipeline - 1 else 0
    return tokens * (layers * (layer + again) + head)


def _norm_bytes(config: Config, data: int, stage: int) -> float:
    """That norms of a rank move for a micro-batch; of one that does not say, those of its input and output."""
    model, layout, train = config.model, config.parallel, config.train
    tokens = train.micro_batch(data) * train.sequence_length / layout.context
    size, layers, total = ELEMENT_BYTES[train.precision], layers_of_stage(model, layout, stage), 0.0
    for site, norm in model.norm_sites().items():
        if (site.layer not in layers and site.name != "final") or norm.kind == "none":
            continue
        width = model.norm_width(site)
        moved = norm.bytes_moved(width, size)
        forward, backward = moved if moved is not None else (2 * width * size, 3 * width * size)
        shared = layout.tensor if site.inner or layout.sequence_parallel else 1
        passes = 2 if layout.recompute == "full" and site.layer is not None else 1
        total += tokens * model.norm_rows(site) * (passes * forward + backward) / shared
    return total


def bandwidth(group: str, ranks: int, config: Config, world_size: int, cluster: Cluster) -> float:
    """Bytes a second that a rank's ring of a group passes on.

    Ranks are numbered tensor first, then context, data and pipeline, as megatron-core does. A group whose ranks are in one node
    uses the node's links. A ring through several nodes leaves each of them once, over the adapters of all its ranks there.
    """
    layout = config.parallel
    stride = {"tensor": 1, "context": layout.tensor, "replicas": layout.tensor}.get(group, 0)
    network = cluster.network or cluster.gpu.network
    if group in ("pipeline", "embedding"):
        return (cluster.gpu.link if world_size <= cluster.per_node else network) * LINK_SHARE
    if stride * ranks <= cluster.per_node:
        return cluster.gpu.link * LINK_SHARE
    here = max(1, cluster.per_node // max(1, stride))
    return min(cluster.gpu.link, here * network) * LINK_SHARE


def _seconds(messages: Iterable[Message], group: str, config: Config, world_size: int, cluster: Cluster) -> float:
    total = 0.0
    for message in messages:
        if message.group == group:
            total += (
                message.sent / bandwidth(group, message.ranks, config, world_size, cluster) + (message.calls or 1) * LATENCY
            )
    return total


def _exposed(messages: list[Message], config: Config, world_size: int, busy: float, cluster: Cluster) -> float:
    """Seconds of the replicas' messages that no computation hides.

    DeepSpeed reduces gradients beside the backward pass at stage 2, of every micro-batch, and at stage 1 of the last one; not
    those of its optimizer for bf16 sums, of stage 0 and of a pipeline. Updated weights are gathered when all is done. Stage
    3's gathers and reductions go beside both passes.
    """
    layout, train = config.parallel, config.train
    micro_batches = train.micro_batches(layout.data(world_size))

    def seconds(what: str | None) -> float:
        chosen = [message for message in messages if what is None or message.what == what]
        return _seconds(chosen, "replicas", config, world_size, cluster)

    gradients, weights = seconds("gradients"), seconds("weights")
    rest = seconds(None) - gradients - weights
    if layout.zero_stage == 3:
        return rest + max(0.0, gradients + weights - busy)
    summed = train.precision == "bf16" and layout.zero_stage == 1 and micro_batches > 1
    if layout.pipeline > 1 or layout.zero_stage == 0 or summed:
        return rest + gradients
    hidden = busy * _BACKWARD / (1 if layout.zero_stage == 2 else micro_batches)
    return rest + max(0.0, gradients - hidden)


def _optimizer(config: Config, world_size: int, stage: int, cluster: Cluster) -> float:
    """AdamW reads four float32 numbers of every weight it steps on and writes three, and the weight in the model's type."""
    states = States(config, world_size, stage, "gpu")
    moved = (28 + states.element) * states.share
    if not states.offloaded:
        return moved / (cluster.gpu.bandwidth * MEMORY_SHARE)
    copied = 2 * states.element * states.share  # gradients down, weights up
    return moved / HOST_MEMORY + copied / (cluster.gpu.host * LINK_SHARE)
