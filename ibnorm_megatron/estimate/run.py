"""Check what was asked, and estimate it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import Config, parse_config, problems_between
from ..errors import Problem, nearest, raise_if_any
from ..parallel.config import Recompute
from ..train.gpus import GPUS
from .layouts import proposals
from .memory import RESERVE, Memory, memory
from .rank import Device
from .report import Estimate, UnderNorm
from .speed import EFFICIENCY, Cluster, speed

#: Norms that are set beside the config's own, each at all of its places.
COMPARED = ("layernorm", "rmsnorm", "ibnorm_log", "ibnorm_tanh")


@dataclass(frozen=True)
class Options:
    """What the command line says beside the config.

    Attributes:
        device: gpu or cpu.
        gpu: name of the kind of GPU.
        gpus: processes; None for one copy of the model.
        memory: GiB of a GPU; None for what the kind has.
        per_node: GPUs of a node.
        efficiency: share of the peak in matrix products.
        network: GB/s of a GPU's share of the network; None for the vendor's machine.
        reserve: GiB of a GPU that no tensor has; None for :data:`.memory.RESERVE`.
        propose: whether to look for layouts.
    """

    device: Device = "gpu"
    gpu: str = "H100"
    gpus: int | None = None
    memory: float | None = None
    per_node: int = 8
    efficiency: float = EFFICIENCY
    network: float | None = None
    reserve: float | None = None
    propose: bool = True

    def problems(self) -> Iterator[Problem]:
        """What of these cannot be."""
        if self.gpu not in GPUS:
            yield Problem("--gpu", self.gpu, "its figures are not known", nearest(self.gpu, GPUS))
        if self.gpus is not None and not 1 <= self.gpus <= 10**6:
            yield Problem("--gpus", str(self.gpus), "it is no number of processes", "give 1 to 1000000")
        if not 1 <= self.per_node <= 1024:
            yield Problem("--gpus-per-node", str(self.per_node), "it is no number of GPUs of a node", "give 1 to 1024")
        if not 0 < self.efficiency <= 1:
            yield Problem("--efficiency", str(self.efficiency), "it is no share of the peak", "give a number from 0 to 1")
        for name, value in (("--memory", self.memory), ("--network", self.network)):
            if value is not None and not 0 < value < 1e9:
                yield Problem(name, str(value), "it is no sensible size", "give a number above 0")
        if self.reserve is not None and not 0 <= self.reserve < 1e9:
            yield Problem("--reserve", str(self.reserve), "it is no sensible size", "give 0 or more")


def estimate(path: str, overrides: Sequence[str], options: Options) -> Estimate:
    """Memory, time and, where so many GPUs are named, layouts for a config.

    Raises:
        UserError: everything that cannot be estimated, at once; or no layout fits.
    """
    config, problems = parse_config(path, overrides)
    raise_if_any([*problems, *options.problems()])
    assert config is not None
    world = options.gpus or config.parallel.model_parallel
    if options.device == "cpu":
        raise_if_any(problems_between(config, world))
        return Estimate(
            config=config,
            world_size=world,
            memory=memory(config, world, "cpu"),
            recomputed=recomputed(config, world, "cpu"),
            norms=under_norms(path, overrides, config, world, None),
        )
    gpu = GPUS[options.gpu]
    cluster = Cluster(gpu, options.per_node, options.efficiency, options.network and options.network * 1e9)
    room = gpu.memory if options.memory is None else int(options.memory * 2**30)
    reserve = RESERVE if options.reserve is None else int(options.reserve * 2**30)
    refused = tuple(dict.fromkeys([*problems_between(config, world), *_across_nodes(config, world, cluster)]))
    wanted = options.gpus is not None and options.propose
    if refused and not wanted:
        raise_if_any(refused)
    found_layouts = proposals(config, world, room, cluster, reserve) if wanted else None
    if found_layouts is not None and not found_layouts:
        raise_if_any([_nothing_fits(world, room)])
    if refused:
        assert found_layouts
        shown, said = replace_layout(config, found_layouts[0].config), refused
    else:
        shown, said = config, ()
    return Estimate(
        config=shown,
        world_size=world,
        memory=memory(shown, world),
        recomputed=recomputed(shown, world, "gpu"),
        norms=under_norms(path, overrides, shown, world, cluster),
        cluster=cluster,
        speed=speed(shown, world, cluster),
        room=room,
        reserve=reserve,
        refused=said,
        proposals=found_layouts,
    )


def replace_layout(config: Config, other: Config) -> Config:
    """A config with another's layout and micro-batch."""
    return config.model_copy(update={"parallel": other.parallel, "train": other.train})


def recomputed(config: Config, world: int, device: Device) -> dict[Recompute, Memory]:
    """Memory under each kind of recomputation."""
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    layouts = {kind: config.parallel.model_copy(update={"recompute": kind}) for kind in kinds}
    return {kind: memory(config.model_copy(update={"parallel": layout}), world, device) for kind, layout in layouts.items()}


def under_norms(
    path: str, overrides: Sequence[str], shown: Config, world: int, cluster: Cluster | None
) -> dict[str, UnderNorm]:
    """A config with its own norms, and with each of :data:`COMPARED` at all of their places, in the layout of ``shown``."""
    configs = {shown.model.norm_label(): shown}
    for name in COMPARED:
        other, problems = parse_config(path, [*overrides, f"model.norm={name}"])
        if other is not None and not problems:
            configs.setdefault(other.model.norm_label(), replace_layout(other, shown))
    device: Device = "cpu" if cluster is None else "gpu"
    return {
        label: UnderNorm(memory(config, world, device), None if cluster is None else speed(config, world, cluster))
        for label, config in configs.items()
    }


def _across_nodes(config: Config, world: int, cluster: Cluster) -> Iterator[Problem]:
    tensor = config.parallel.tensor
    if world > cluster.per_node and cluster.per_node % tensor:
        why = f"nodes have {cluster.per_node} GPUs, so that some of its groups would lie across two of them"
        yield Problem("parallel.tensor", str(tensor), why, f"use a divisor of {cluster.per_node}, or set --gpus-per-node")


def _nothing_fits(world: int, room: int) -> Problem:
    why = f"no layout that the stack accepts fits into {room / 2**30:,.1f} GiB each"
    mend = f"try {2 * world}, larger GPUs (--gpu, --memory), or another train.global_batch_size"
    return Problem("--gpus", str(world), why, mend)
