"""What DeepSpeed's ZeRO sends among replicas in an optimizer step, by formula (Rajbhandari et al., arXiv 1910.02054).

DeepSpeed 0.19 differs from the paper in two places. Stages 1 and 2 all-reduce gradients, where a reduce-scatter would be
enough. And stage 3 keeps small weights whole, and gathers another one anew only where it would lie unused for too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..config import Config
from ..model.shards import HeldModule, HeldParameter, held_elements
from ..parallel.messages import Message

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

#: DeepSpeed's defaults, in elements.
_PERSISTENT, _REUSE = 10**5, 10**9

#: A rank's slice of a flat optimizer group starts at a multiple of this many elements (stages 1 and 2).
_ALIGNMENT = 2


def zero_messages(config: Config, modules: list[HeldModule], replicas: int, micro_batches: int) -> Iterator[Message]:
    """What a rank with these modules sends to the others that hold them, and the gradient's norm within the model."""
    layout, precision = config.parallel, config.train.precision
    stage = layout.zero_stage
    gradient_bytes = ELEMENT_BYTES[layout.deepspeed.get("communication_data_type") or "fp32"]
    parameters = [parameter for module in modules for parameter in module.parameters]
    if stage == 3:
        yield from _sharded_weights(config, modules, replicas, micro_batches)
        padded = sum(_padded(parameter.elements, replicas) for parameter in parameters)
        payload = micro_batches * padded * gradient_bytes
        yield Message("replicas", "gradients", "reduce_scatter", replicas, None, payload)
    else:
        # Stage 2 frees a micro-batch's gradients by reducing them at once. A pipeline's micro-batches are added up before.
        reductions = micro_batches if stage == 2 and layout.pipeline == 1 else 1
        payload = reductions * held_elements(modules) * gradient_bytes
        yield Message("replicas", "gradients", "all_reduce", replicas, None, payload)
    if stage in (1, 2):
        aligned = [_padded(elements, _ALIGNMENT * replicas) for elements in _optimizer_groups(parameters)]
        payload = sum(aligned) * ELEMENT_BYTES[precision]
        yield Message("replicas", "updated weights", "all_gather", replicas, None, payload)
    yield from _norm_messages(config, parameters, replicas, micro_batches)


def _optimizer_groups(parameters: list[HeldParameter]) -> list[int]:
    """Elements with weight decay and without, where there are any."""
    sizes = [sum(p.elements for p in parameters if p.matrix == matrix) for matrix in (True, False)]
    return [size for size in sizes if size]


def _norm_messages(config: Config, parameters: list[HeldParameter], replicas: int, micro_batches: int) -> Iterator[Message]:
    """The norm of the whole gradient, and in fp16 whether it is finite: a few bytes each."""
    layout, precision = config.parallel, config.train.precision
    stage, model = layout.zero_stage, layout.tensor * layout.pipeline
    groups = len(_optimizer_groups(parameters))
    what = "norm of the gradient"
    # DeepSpeed's bf16 optimizer, which it takes at stage 1 to accumulate in float32, has the whole gradient on each rank.
    whole = stage == 1 and precision == "bf16" and micro_batches > 1
    if stage == 0 or whole:
        calls, each, over_replicas = 1, 4, stage == 0
    else:
        calls, each, over_replicas = groups, 8 if stage == 3 and not layout.offload_optimizer else 4, True
    if over_replicas:
        yield Message("replicas", what, "all_reduce", replicas, calls, calls * each)
    yield Message("model", what, "all_reduce", model, calls, calls * each)
    # In bf16 the norm tells of an overflow, but for offloaded gradients (parallel.engine).
    flagged = precision == "fp16" or (precision == "bf16" and layout.offload_optimizer and stage != 3)
    if flagged and not whole:
        yield Message("replicas", "overflow", "all_reduce", replicas, 1, 1)
        yield Message("model", "overflow", "all_reduce", model, 1, 1)


def _sharded_weights(config: Config, modules: list[HeldModule], replicas: int, micro_batches: int) -> Iterator[Message]:
    """Stage 3's all-gathers: small weights after each step, others where a micro-batch uses them."""
    zero: dict[str, Any] = config.parallel.deepspeed.get("zero_optimization", {})
    persistent = zero.get("stage3_param_persistence_threshold", _PERSISTENT)
    times = gathers(modules, config.parallel.recompute == "full", zero.get("stage3_max_reuse_distance", _REUSE))
    elements = 0
    for module, gathered in zip(modules, times, strict=True):
        for parameter in module.parameters:
            # DeepSpeed loses sight of what leaves its module: it stays whole until the optimizer's step.
            once = parameter.elements <= persistent or parameter.handed_on
            elements += _padded(parameter.elements, replicas) * (1 if once else gathered * micro_batches)
    yield Message("replicas", "weights", "all_gather", replicas, None, elements * ELEMENT_BYTES[config.train.precision])


def gathers(modules: list[HeldModule], recomputed: bool, reuse: int) -> list[int]:
    """How often stage 3 gathers each module's weights in a micro-batch.

    A pass that uses a module releases it, unless it is used again before ``reuse`` other elements have been. What
    DeepSpeed has prefetched by then is not modelled; it reaches less far.
    """
    visits = _visits(modules, recomputed)
    times, last_seen = [0] * len(modules), [-1] * len(modules)
    sizes = [held_elements([module]) for module in modules]
    passed = 0  # elements of all visits so far
    for module in visits:
        since = last_seen[module]
        if since < 0 or passed - since >= reuse:
            times[module] += 1
        passed += sizes[module]
        last_seen[module] = passed
    return times


def _visits(modules: list[HeldModule], recomputed: bool) -> list[int]:
    """The modules, by their number, in the order that a forward and a backward pass use them."""
    forward = list(range(len(modules)))
    if not recomputed:
        return [*forward, *reversed(forward)]
    backward: list[int] = []
    for number in reversed(forward):
        layer = modules[number].layer
        if layer is None:
            backward.append(number)
        elif number == forward[-1] or modules[number + 1].layer != layer:  # a layer's last: it is computed again from here
            own = [n for n in forward if modules[n].layer == layer]
            backward += [*own, *reversed(own)]
    return [*forward, *backward]


def _padded(elements: int, multiple: int) -> int:
    return -(-elements // multiple) * multiple
