"""What of a run a checkpoint holds: taken from this rank, and given back to it, in the same layout or another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import xxhash
from torch import Tensor

from ..checkpoints.reader import CheckpointReader, tensor_record
from ..checkpoints.record import CheckpointRecord, Run, damages, read_record
from ..checkpoints.writer import Part
from ..config import Config
from ..errors import Problem, UserError
from ..parallel.cpu_compat import device, on_gpu
from ..parallel.engine import Engine
from ..parallel.groups import Groups
from ..parallel.optimizer_state import KINDS, answers_for
from ..parallel.sharding import Sharding
from .callbacks.average import AVERAGE, WeightAverage
from .run_card import layout_of
from .run_folder import RunFolder

#: Sizes of a layout on which a rank's random numbers depend.
_PLACES = ("world_size", "tensor", "pipeline", "context")


def take_part(
    engine: Engine, groups: Groups, config: Config, pool: dict[str, Tensor], more: Mapping[str, Mapping[str, Tensor]] = {}
) -> Part:
    """Copy to the CPU what this rank answers for.

    Args:
        engine: between two steps.
        groups: this rank's place.
        config: the run's.
        pool: where the copies of the last call are, which are overwritten.
        more: further kinds: by kind and parameter, values of all that this rank holds of it.
    """
    tensor_rank, tensor_ranks = groups.tensor_rank, groups.layout.tensor
    part = Part(groups.rank, tensor_rank)
    parameters = {
        name: parameter for name, parameter in engine.module.logical_parameters().items() if answers_for(parameter, tensor_rank)
    }
    held = engine.optimizer_state.fragments(parameters)
    for name, fragment in engine.optimizer_state.own_fragments(parameters).items():
        first = fragment.start - held[name].start
        others = {f"{kind}/{name}": of_names[name][first : first + fragment.length] for kind, of_names in more.items()}
        part.tensors |= others
        part.runs[name] = Run(start=fragment.start, length=fragment.length)
        part.parameters[name] = tensor_record(Sharding.of(parameters[name], tensor_ranks, config.model.vocab_size))
        part.tensors |= {f"{kind}/{name}": value for kind, value in fragment.values.items()}
    if dist.get_rank(groups.replicas) == 0:
        for name, (buffer, sharding) in engine.module.logical_buffers().items():
            if tensor_rank == 0 or sharding.dim is not None:
                part.buffers[name] = tensor_record(sharding)
                part.tensors[f"buffer/{name}"] = buffer
    part.tensors = {name: _copied(pool, name, tensor) for name, tensor in part.tensors.items()}
    part.tensors |= {f"random/{name}": state for name, state in _random_states().items()}
    return part


def _copied(pool: dict[str, Tensor], name: str, tensor: Tensor) -> Tensor:
    if name not in pool or pool[name].shape != tensor.shape:
        pool[name] = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format, pin_memory=on_gpu())
    return pool[name].copy_(tensor)


def head(
    engine: Engine, snapshot: Mapping[str, Any], config: Config, card: Mapping[str, Any], more: Iterable[str] = ()
) -> dict[str, Any]:
    """The record of a checkpoint without its tensors and files: the same on every rank. ``more`` are kinds, as above."""
    state = engine.optimizer_state
    return {
        "format": "ibnorm_megatron checkpoint",
        "version": 1,
        **snapshot,
        "optimizer_steps": state.steps,
        "loss_scale": state.loss_scale(),
        "kinds": [*(KINDS if state.steps else KINDS[:1]), *more],
        "layout": layout_of(config, dist.get_world_size()),
        "config": config.to_dict(),
        "card": dict(card),
    }


def newest_undamaged(folder: RunFolder) -> tuple[str, list[Problem]]:
    """The newest checkpoint that is as it was written, and what is wrong with newer ones. Collective.

    All ranks look, each into its share of the files, and agree.

    Raises:
        UserError: all checkpoints are damaged; on every rank.
    """
    found: list[Problem] = []
    for name in folder.checkpoint_names():
        problems = found_damages(folder.checkpoints / name)
        if not problems:
            return name, found
        found += problems
    raise UserError(*found)


def found_damages(checkpoint: Path) -> list[Problem]:
    """What of a checkpoint is not as it was written; every rank reads its share, and all get the same. Collective."""
    problems: list[list[Problem]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(problems, _damages(checkpoint))
    return list(dict.fromkeys(problem for of_rank in problems for problem in of_rank))


def _damages(checkpoint: Path) -> list[Problem]:
    try:
        record = read_record(checkpoint)
    except UserError as error:
        return list(error.problems)
    return list(damages(checkpoint, record, sorted(record.files)[dist.get_rank() :: dist.get_world_size()]))


def load_checkpoint(
    checkpoint: Path, engine: Engine, groups: Groups, config: Config, average: WeightAverage | None = None
) -> CheckpointRecord:
    """Restore weights, optimizer and random numbers of a checkpoint of any layout; returns its record. Collective.

    The ``average`` of weights is restored too, if there is one in the checkpoint; else it begins with the weights.

    In another layout no rank has the random numbers of one before: they begin anew, from the seed and the step.

    Raises:
        UserError: the checkpoint is of another model; on every rank, if it is so on one.
    """
    reader = CheckpointReader(checkpoint)
    _refuse_what_nobody_has(reader, engine)
    _on_all_ranks(lambda: _load_tensors(reader, engine, groups, config, average))
    record = reader.record
    engine.optimizer_state.end_load(record.loss_scale)
    here = layout_of(config, dist.get_world_size())
    same = all(record.layout.get(name) == here[name] for name in _PLACES)
    states = reader.random(groups.rank) if same else {}
    if states and ("gpu" in states) == on_gpu():  # a GPU's generators take no CPU's state
        _restore_random_states(states)
    else:
        place = f"{config.train.seed} {record.step} {dist.get_rank(groups.replicas)} {groups.stage}"
        groups.seed_random(xxhash.xxh3_64_intdigest(place.encode()) >> 33)
    return record


def _load_tensors(
    reader: CheckpointReader, engine: Engine, groups: Groups, config: Config, average: WeightAverage | None
) -> None:
    if reader.record.optimizer_steps and (lacking := [kind for kind in KINDS if kind not in reader.record.kinds]):
        why = f"it has no {' and no '.join(lacking)}"
        raise UserError(Problem("the checkpoint", str(reader.folder), why, "go on from one that has the optimizer's state"))
    rank, ranks, state = groups.tensor_rank, groups.layout.tensor, engine.optimizer_state
    parameters, buffers = engine.module.logical_parameters(), engine.module.logical_buffers()
    state.begin_load(reader.record.optimizer_steps)
    mean: dict[str, Tensor] = {}
    for name, fragment in state.fragments(parameters).items():
        sharding = Sharding.of(parameters[name], ranks, config.model.vocab_size)
        values = dict(fragment.values)
        if average is not None and AVERAGE in reader.record.kinds:
            values[AVERAGE] = mean[name] = torch.empty_like(values["weight"])
        for kind, value in values.items():
            value.copy_(reader.run(kind, name, sharding, rank, ranks, fragment.start, fragment.length))
    if average is not None:
        average.take_back(mean)
    for name, (buffer, sharding) in buffers.items():
        buffer.copy_(reader.buffer(name, sharding, rank, ranks))


def _refuse_what_nobody_has(reader: CheckpointReader, engine: Engine) -> None:
    """Every parameter and buffer of the checkpoint is one of some stage's. Collective."""
    own = [*engine.module.logical_parameters(), *engine.module.logical_buffers()]
    of_ranks: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(of_ranks, own)
    saved = reader.record.parameters.keys() | reader.record.buffers.keys()
    if others := sorted(saved.difference(*of_ranks)):
        why, mend = "the model has no such tensor", "go on with the model that was saved, or choose another run.dir"
        raise UserError(*(Problem(f"{name} in the checkpoint", str(reader.folder), why, mend) for name in others[:5]))


def _on_all_ranks(do: Callable[[], None]) -> None:
    """Do something that one rank may be refused, and let none go on alone."""
    problem = None
    try:
        do()
    except UserError as error:
        problem = error
    failed = torch.tensor(float(problem is not None), device=device())
    dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    if problem is not None:
        raise problem
    if failed:
        why = "another rank was refused it"
        raise UserError(Problem("the checkpoint", "open", why, "see what that rank says"))


def _random_states() -> dict[str, Tensor]:
    """Every generator's state as a tensor: torch's, Megatron-core's named ones, NumPy's and Python's."""
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    states = {"torch": torch.get_rng_state()}
    states |= {f"megatron/{name}": state.cpu() for name, state in get_cuda_rng_tracker().get_states().items()}
    if on_gpu():
        states["gpu"] = torch.cuda.get_rng_state(device())
    _, keys, place, has_gauss, gauss = np.random.get_state()  # a plugin may draw from it
    states["numpy"] = torch.tensor([*map(int, keys), place, has_gauss], dtype=torch.int64)
    states["numpy_gauss"] = torch.tensor([gauss], dtype=torch.float64)
    version, words, gauss_next = random.getstate()
    states["python"] = torch.tensor([version, *words], dtype=torch.int64)
    states["python_gauss"] = torch.tensor([] if gauss_next is None else [gauss_next], dtype=torch.float64)
    return states


def _restore_random_states(states: Mapping[str, Tensor]) -> None:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    torch.set_rng_state(states["torch"])
    prefix = "megatron/"
    get_cuda_rng_tracker().set_states({n.removeprefix(prefix): s for n, s in states.items() if n.startswith(prefix)})
    if on_gpu() and "gpu" in states:
        torch.cuda.set_rng_state(states["gpu"], device())
    *keys, place, has_gauss = states["numpy"].tolist()
    gauss = float(states["numpy_gauss"])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, gauss))
    version, *words = states["python"].tolist()
    random.setstate((version, tuple(words), *(states["python_gauss"].tolist() or [None])))
