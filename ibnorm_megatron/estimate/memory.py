"""The most memory that a rank holds, and of what: the moments of a step one after another, and the fullest of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..config import Config
from .activations import Activations
from .rank import Device
from .states import States

#: Bytes of a GPU that no tensor has: CUDA's context with its libraries, and NCCL's buffers; and the share of a GPU that is
#: lost between blocks. An assumption, which ``--reserve`` replaces; nothing here was measured on a GPU.
RESERVE, FRAGMENTED = 2 * 2**30, 0.04


#: Bytes that a process holds before it has a model: Python, PyTorch, Megatron-core and DeepSpeed on a CPU.
PROCESS_BYTES = 520 * 2**20


def needed(peak: int, reserve: int = RESERVE) -> int:
    """Bytes that a GPU has to have so that tensors of ``peak`` bytes fit."""
    return int((peak + reserve) / (1 - FRAGMENTED))


@dataclass(frozen=True)
class Memory:
    """Of a rank of one pipeline stage, in bytes.

    Attributes:
        stage: of the pipeline.
        device: where it was estimated for.
        parts: what is held at the fullest moment, by name; they add up to ``peak``.
        moments: what is held at each moment of a step.
        host: on the CPU, for a GPU whose optimizer is offloaded.
        activations: that forward passes leave, of all micro-batches in flight.
        norms: of these, what norms keep.
    """

    stage: int
    device: Device
    parts: Mapping[str, int]
    moments: Mapping[str, int]
    host: int
    activations: int
    norms: int

    @property
    def peak(self) -> int:
        """The most."""
        return max(self.moments.values())

    @property
    def moment(self) -> str:
        """When that is."""
        return max(self.moments, key=lambda name: self.moments[name])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "peak": self.peak, "fullest_moment": self.moment}


def memory(config: Config, world_size: int, device: Device = "gpu") -> Memory:
    """Of the rank that holds the most.

    Args:
        config: the run's, checked.
        world_size: processes, a multiple of what one copy of the model takes.
        device: where it runs.
    """
    stages = config.parallel.pipeline
    # Of stages alike in between, the first holds activations of the most micro-batches.
    candidates = sorted({0, min(1, stages - 1), stages - 1})
    return max((memory_of_stage(config, world_size, stage, device) for stage in candidates), key=lambda found: found.peak)


def memory_of_stage(config: Config, world_size: int, stage: int, device: Device = "gpu") -> Memory:
    """Of a rank of this pipeline stage; arguments as for :func:`memory`."""
    acts = Activations(config, world_size, stage, device)
    states = States(config, world_size, stage, device)
    on_host = states.offloaded and device == "gpu"
    base = {
        "weights": states.weights,
        "master weights": 0 if on_host else states.masters,
        "optimizer moments": 0 if on_host else states.moments,
        "averaged weights": states.average,
        "gradients": states.gradients,
        "communication buffers": states.bucket + _gather_buffer(acts) + states.offload_parameter,
        "offload buffers": 0 if on_host else states.offload_buffers,
    }
    host = states.masters + states.moments + states.offload_buffers if on_host else 0
    moments = {name: _merged(base, extra) for name, extra in _moments(acts, states).items()}
    sums = {name: sum(parts.values()) for name, parts in moments.items()}
    fullest = max(sums, key=lambda name: sums[name])
    return Memory(
        stage=stage,
        device=device,
        parts={name: size for name, size in moments[fullest].items() if size},
        moments=sums,
        host=host,
        activations=acts.in_flight * (acts.kept + acts.ends),
        norms=acts.in_flight * acts.kept_by_norms,
    )


def _merged(base: Mapping[str, int], extra: Mapping[str, int]) -> dict[str, int]:
    return {name: base.get(name, 0) + extra.get(name, 0) for name in [*base, *(name for name in extra if name not in base)]}


def _gather_buffer(acts: Activations) -> int:
    """Megatron-core's one buffer for the tokens that sequence parallelism gathers."""
    return acts.gathered if acts.config.parallel.sequence_parallel else 0


def _moments(acts: Activations, states: States) -> dict[str, dict[str, int]]:
    """What comes on top of what stays, at the moments of a step at which the most may be held."""
    flight = acts.in_flight
    kept, ends = acts.kept, acts.ends
    earlier = (flight - 1) * (kept + ends)  # of other micro-batches, under a pipeline
    waiting, gathered = states.accumulated, states.gathered
    early = 0 if states.pipelined else states.buffers
    embedding = acts.config.model.padded_vocab_size(acts.config.parallel.tensor) // acts.config.parallel.tensor
    head = embedding * acts.config.model.hidden_size if acts.last else 0
    layers = acts.layers
    of_layer = (states.elements - head) // len(layers) if layers else 0
    found = {
        "loss": {
            "activations": earlier + kept + ends,
            "logits and loss": acts.loss,
            "gradients": waiting,
            "gathered weights": gathered,
        },
        "gradient of the logits": {
            "activations": earlier + kept + ends,
            "logits and loss": acts.logits_backward,
            "gradients": waiting,
            "gathered weights": gathered,
        },
        "gradient at the head": {
            "activations": earlier + kept + ends,
            "logits and loss": acts.logits,
            "gradients": waiting + states.grown(head),
            "communication buffers": early + states.oversized(head),
            "working memory": acts.gathered + (states.element * head if states.moved else 0),
            "gathered weights": gathered,
        },
    }
    full = acts.config.parallel.recompute == "full"
    left, done = kept, head
    for number in reversed(range(len(layers))):
        if number not in (0, len(layers) - 1):
            left, done = left - acts.kept_of(layers[number]), done + of_layer
            continue
        again = layers[number].kept - acts.stream if full else 0  # its input is there already
        found[f"gradient of layer {number}"] = {
            "activations": earlier + left + ends,
            "gradients": waiting + states.grown(done),
            "communication buffers": early,
            "working memory": again + layers[number].working,
            "gathered weights": gathered,
        }
        left, done = left - acts.kept_of(layers[number]), done + of_layer
    grads = waiting + states.grown(states.elements) if not states.buffers else (waiting if not states.pipelined else 0)
    found["reduction"] = {
        "activations": earlier,
        "gradients": grads + (states.partition if states.elements > states.content else 0),
        "communication buffers": states.buffers + states.reducing,
        "gathered weights": gathered,
    }
    found["reduced"] = {
        "gradients": grads + states.partition,
        "communication buffers": states.buffers,
        "gathered weights": gathered,
    }
    found["optimizer step"] = {"gradients": states.stepping}
    return found
