"""Train a config for a few steps on the ranks of a world, and gather what can be compared, of its logical shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn

from ..config import Config
from ..data.loader import Loader
from ..model.norm_slots import norms_of
from ..parallel.engine import Engine
from ..parallel.groups import Groups, model_parallel
from ..parallel.replicas import mismatches
from ..parallel.sharding import Sharding, gather_logical
from ..train.callbacks.norms import tell_norms
from ..train.run import build_engine
from ..train.schedule import learning_rate
from ..train.step import TrainStep
from .data import MadeSequences

#: Added to every vector: a gain of exactly 1, or a bias of 0, hides that it is applied twice or to other channels.
_DISTURBANCE = 0.1


@dataclass
class Measured:
    """What a layout gave; the same on every rank. Tensors are logical, float32, on the CPU, by their names.

    Attributes:
        losses: mean loss of every step, in nats.
        grad_norms: norm of every step's whole gradient before clipping, as the engine reports it.
        skipped: steps, from 1, that fp16 skipped.
        labels: that counted in every step.
        lrs: learning rate of every step.
        adam_eps: of the optimizer.
        initial: weights before the first step.
        final: weights after the last.
        gradients: of every step, before clipping.
        sites: where each parameter is: a norm's site, or its layer and matrix.
        norms: the site of the norm that a parameter belongs to; only those of norms.
        cuts: by parameter that says it is a shard, the dimension that is cut over tensor ranks, and into how many parts first.
        copies: by parameter, whether all ranks that hold the same hold the same bits.
        random: whether norms or dropout draw random numbers.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    adam_eps: float = 0.0
    initial: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    sites: dict[str, str] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    cuts: dict[str, tuple[int, int]] = field(default_factory=dict)
    copies: dict[str, bool] = field(default_factory=dict)
    random: bool = False


def measure(config: Config, *, choose_eps: bool = False, documents: bool = False) -> Measured:
    """Train ``config`` for all its steps on made sequences. Collective.

    Args:
        config: its layout is laid over the whole world.
        choose_eps: set AdamW's epsilon to the root mean square of the first clipped gradient, for a reference.
        documents: the sequences hold several, which attention keeps to.
    """
    with model_parallel(config.parallel, config.train.seed) as groups:
        engine = build_engine(config, groups, lambda module: _disturb_vectors(module, config, groups))
        try:
            return _train(engine, config, groups, choose_eps, documents)
        finally:
            engine.close()


def _train(engine: Engine, config: Config, groups: Groups, choose_eps: bool, documents: bool) -> Measured:
    train, measured = config.train, Measured(adam_eps=config.train.adam_eps)
    module = engine.module

    def logical(value: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
        return gather_logical(module.logical_parameters(), value, groups, config.model.vocab_size)  # type: ignore[operator]

    def before_update() -> None:
        measured.gradients.append(logical(engine.gradient))
        if choose_eps and len(measured.gradients) == 1:
            measured.adam_eps = _root_mean_square(measured.gradients[0], train.grad_clip)
            for group in engine.deepspeed.optimizer.param_groups:
                group["eps"] = measured.adam_eps

    sequences = MadeSequences(train.sequence_length, config.model.vocab_size, train.seed, documents=documents)
    loader = Loader(
        sequences,
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch(groups.data_size),
        data_rank=groups.data_rank,
        data_size=groups.data_size,
    )
    take_step = TrainStep(train, groups, engine, before_update)
    measured.initial = logical(engine.weight)
    tell_norms(module, 0, train.steps)
    for step in range(1, train.steps + 1):
        metrics, _ = take_step(step, loader.batches((step - 1) * train.global_batch_size))
        tell_norms(module, step, train.steps)
        measured.losses.append(metrics.loss())
        measured.grad_norms.append(metrics.grad_norm())
        measured.labels.append(float(metrics.tokens))
        # muP gives matrices another rate than the rest: bounds go by the largest.
        measured.lrs.append(learning_rate(train, step) * max(1.0, 1 / config.model.width_ratio))
        measured.skipped += [step] * metrics.skipped
    measured.final = logical(engine.weight)
    measured.random = config.model.dropout > 0 or any(norm.draws for norm in norms_of(module).values())
    _look_around(measured, engine, groups)
    return measured


def _disturb_vectors(module: nn.Module, config: Config, groups: Groups) -> None:
    with torch.no_grad():
        for name, parameter in module.logical_parameters().items():  # type: ignore[operator]
            if parameter.dim() > 1:
                continue
            sharding = Sharding.of(parameter, groups.layout.tensor, config.model.vocab_size)
            generator = torch.Generator().manual_seed(xxhash.xxh3_64_intdigest(f"{config.train.seed} {name}".encode()) >> 1)
            noise = _DISTURBANCE * torch.randn(sharding.shape, generator=generator)
            parameter.copy_(parameter.float() + sharding.take(noise, groups.tensor_rank, groups.layout.tensor))


def _root_mean_square(gradients: dict[str, Tensor], grad_clip: float) -> float:
    norm = whole_norm(gradients)
    clipped = min(norm, grad_clip) if grad_clip > 0 else norm
    return clipped / sum(gradient.numel() for gradient in gradients.values()) ** 0.5


def whole_norm(gradients: dict[str, Tensor]) -> float:
    """The norm of all of them together, in float64."""
    return sum(float(gradient.double().square().sum()) for gradient in gradients.values()) ** 0.5


def _look_around(measured: Measured, engine: Engine, groups: Groups) -> None:
    """Sites of all parameters, and whether all who hold the same hold the same bits. Collective over the world."""
    of_norms = {
        id(parameter): (str(site), f"{site} norm {name}")
        for site, norm in norms_of(engine.module).items()
        for name, parameter in norm.named_parameters()
    }
    parameters = engine.module.logical_parameters()
    own = {name: of_norms.get(id(parameter), ("", _site(name))) for name, parameter in parameters.items()}
    cuts = {
        name: (parameter.partition_dim, parameter.partition_stride)
        for name, parameter in parameters.items()
        if getattr(parameter, "tensor_model_parallel", False)
    }
    differing = mismatches(parameters, groups, sharded_weights=engine.deepspeed.zero_optimization_stage() == 3)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (own, cuts, [found.name for found in differing]))
    for of_rank, cuts_of_rank, _ in everyone:
        measured.cuts |= cuts_of_rank
        measured.sites |= {name: site for name, (_, site) in of_rank.items()}
        measured.norms |= {name: norm for name, (norm, _) in of_rank.items() if norm}
    wrong = {name for _, _, names in everyone for name in names}
    measured.copies = {name: name not in wrong for name in measured.sites}


def _site(name: str) -> str:
    """``decoder.layers.2.mlp.linear_fc1.weight`` as ``layers.2 linear_fc1 weight``."""
    parts = name.split(".")
    layer = f"layers.{parts[2]} " if parts[:2] == ["decoder", "layers"] else ""
    return layer + " ".join(parts[-2:])
