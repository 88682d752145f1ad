"""A run's checkpoint as a model on one process, whatever layout wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..checkpoints.reader import CheckpointReader
from ..checkpoints.record import CheckpointRecord, damages, read_record
from ..config import Config, parse_values
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, raise_if_any
from ..model.language_model import LanguageModel
from ..model.norm_slots import norms_of
from ..parallel.config import Layout
from ..parallel.cpu_compat import device, install, on_gpu
from ..parallel.groups import Groups, World, model_parallel, process_group
from ..parallel.sharding import Sharding
from ..train.run_folder import checkpoints_at

install()  # before DeepSpeed looks for an accelerator


@dataclass(frozen=True)
class Source:
    """A checkpoint that can be opened.

    Attributes:
        given: what the user named, a run's folder or a checkpoint's.
        checkpoint: the checkpoint's folder.
        record: what it says of itself.
        config: the run's, with the layout of one process.
        data: the prepared text that the run names, or None where it is not there; ``missing`` says why.
    """

    given: Path
    checkpoint: Path
    record: CheckpointRecord
    config: Config
    data: Prepared | None
    missing: tuple[Problem, ...] = ()

    @property
    def norm(self) -> str:
        """The norm's label: runs of one label are seeds of one arm."""
        return self.config.model.norm_label()

    @property
    def seed(self) -> int:
        """Of initial weights and data order."""
        return self.config.train.seed


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Read what checkpoints say of themselves; every byte of them is checked.

    Args:
        paths: folders of runs, whose newest checkpoint is taken, or of checkpoints.

    Raises:
        UserError: a folder is neither, is given twice, its checkpoint is damaged, or its config is none of this version's; all
            of it at once.
    """
    found: list[Source] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in paths:
        try:
            source = _find(path)
        except UserError as error:
            problems += error.problems
            continue
        if (place := source.checkpoint.resolve()) in seen:
            problems.append(Problem("the run", str(path), "it is given twice", "give every run once"))
        seen.add(place)
        found.append(source)
    raise_if_any(problems)
    return found


def _find(path: Path) -> Source:
    checkpoint = checkpoints_at(path)[0]
    record = read_record(checkpoint)
    raise_if_any(damages(checkpoint, record, record.files))
    overrides = ["model.dropout=0", "model.compile=none"]
    if not on_gpu():  # its kernels want 16 bits; a CPU has no reason to round what was saved in 32
        overrides.append("train.precision=fp32")
    config, problems = parse_values({**record.config, "parallel": {}}, overrides)
    raise_if_any(replace(problem, where=f"{problem.where} of {checkpoint}") for problem in problems)
    try:
        return Source(path, checkpoint, record, config, read_prepared(config.data))
    except UserError as error:
        return Source(path, checkpoint, record, config, None, error.problems)


@contextmanager
def one_process(seed: int = 0) -> Iterator[Groups]:
    """The world in which models are opened: this process alone."""
    with process_group(World(0, 1, 0), timedelta(minutes=5), dist.HashStore()), model_parallel(Layout(), seed) as groups:
        yield groups


def open_model(source: Source, groups: Groups) -> LanguageModel:
    """The checkpoint's model, to evaluate: weights as they were saved, norms as they stand after its step.

    Raises:
        UserError: the checkpoint is of another model than its config says.
    """
    config, reader = source.config, CheckpointReader(source.checkpoint)
    module = LanguageModel(config.model, groups, config.train.precision, config.train.seed).to(device())
    with torch.no_grad():
        for name, parameter in module.logical_parameters().items():
            sharding = Sharding.of(parameter, 1, config.model.vocab_size)
            whole = reader.run("weight", name, sharding, 0, 1, 0, parameter.numel())
            parameter.copy_(whole.view(parameter.shape))
        for name, (buffer, sharding) in module.logical_buffers().items():
            buffer.copy_(reader.buffer(name, sharding, 0, 1))
    for norm in norms_of(module).values():
        norm.set_step(source.record.step, config.train.steps)
    return module.eval()
