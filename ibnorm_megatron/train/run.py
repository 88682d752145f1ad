"""One run from a config: check everything, build everything, train."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.record import read_record
from ..config import Config, parse_config
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, nearest, raise_if_any
from .environment import environment_problems
from .run_card import run_card, run_identity
from .run_folder import RunFolder, checkpoint_name, differences, step_of_checkpoint

if TYPE_CHECKING:
    from torch import nn

    from ..parallel.engine import Engine
    from ..parallel.groups import Groups, World
    from .loop import Trainer
    from .whereabouts import Whereabouts


def check_run(path: str, overrides: list[str], world_size: int) -> tuple[Config, Prepared]:
    """Check config, data, world size and run folder together, before anything is imported, started or written.

    Raises:
        UserError: everything that is wrong, at once.
    """
    config, problems = parse_config(path, overrides, world_size=world_size)
    prepared: Prepared | None = None
    if config is not None:
        folder = RunFolder(config.run.dir)
        try:
            prepared = read_prepared(config.data)
            problems += data_problems(config, prepared)
        except UserError as error:
            problems += error.problems
        try:
            folder.check()
            if prepared and not problems:
                problems += _resume_problems(folder, config, run_identity(config, prepared, world_size))
        except UserError as error:
            problems += error.problems
        problems += environment_problems(config, world_size)
    raise_if_any(problems)
    assert config is not None
    assert prepared is not None
    return config, prepared


def data_problems(config: Config, prepared: Prepared) -> Iterator[Problem]:
    """What of the config does not fit the prepared data."""
    vocabulary = prepared.tokenizer.vocab_size
    if vocabulary > config.model.vocab_size:
        why = f"the tokenizer of {prepared.where} has {vocabulary} entries"
        yield Problem("model.vocab_size", str(config.model.vocab_size), why, f"set model.vocab_size={vocabulary} or more")
    yield from prepared.problems(config.train.sequence_length)


def _resume_problems(folder: RunFolder, config: Config, identity: dict[str, Any]) -> Iterator[Problem]:
    """Why the run in ``folder``, if there is one, cannot go on as this one.

    Raises:
        UserError: the folder's records are damaged.
    """
    if not folder.config_path.is_file():
        return
    if config.run.resume == "never":
        why = "it holds a run, and run.resume is never"
        yield Problem("run.dir", str(folder.path), why, "choose another run.dir or set run.resume=auto")
        return
    latest = folder.latest_checkpoint()
    if latest and step_of_checkpoint(latest) > config.train.steps:
        why = f"the run in {folder.path} is at step {step_of_checkpoint(latest)} already"
        mend = f"set more, or write the name of an older checkpoint into {folder.checkpoints / 'latest'}"
        yield Problem("train.steps", str(config.train.steps), why, mend)
    was = _begun(folder)
    entries = [entry for entry in differences(was["config"], config.to_dict()) if not entry[0].startswith(_FREE)]
    if latest:  # data is known by what it is
        old, new = was["card"], identity
        entries += [("plugins", old.get("plugins", {}), new["plugins"])]
        entries += [(name, old["data"][key], new["data"][key]) for name, key in _DATA_HASHES.items()]
    allowed = config.run.allow
    fields = {*_fields(config.to_dict()), *(name for name, _, _ in entries)}
    for name in allowed:
        if name not in fields:
            yield Problem("run.allow", repr(name), "there is no such field", nearest(name, fields))
    for name, old, new in entries:
        if old != new and not any(name == field or name.startswith(f"{field}.") for field in allowed):
            what = f"its hash is {new!r}" if name in _DATA_HASHES else repr(new)
            mend = f"set it back, allow it with run.allow=[{name}], or choose another run.dir for a new run"
            yield Problem(name, what, f"the run in {folder.path} was begun with {old!r}", mend)


def _fields(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields, and of the mappings that hold them."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{key}.")


def _begun(folder: RunFolder) -> dict[str, Any]:
    """Config and card of the run in ``folder``, as its newest checkpoint has them, or else as its files have.

    Raises:
        UserError: the folder's records are damaged.
    """
    if latest := folder.latest_checkpoint():
        with suppress(UserError):  # a damaged one is not the one to go on from
            record = read_record(folder.checkpoints / latest)
            return {"config": record.config, "card": record.card}
    return {"config": folder.read_config(), "card": folder.read_card() if latest else {}}


#: Fields that change no curve, or change it by rounding only: a run may go on with others.
_FREE = ("run.", "log.", "checkpoint.", "evaluate.", "data.path", "data.index_cache", "parallel.")
_FREE += ("train.micro_batch_size", "train.replica_audit", "guard.stop_after")
_DATA_HASHES = {"data": "hash", "tokenizer": "tokenizer"}

#: How long a restarted run waits for the lock of the one before it.
_LOCK_SECONDS = 60.0


def run(config: Config, prepared: Prepared, world: World) -> int:
    """Train, or go on training, what ``config`` describes. Returns the process's exit code.

    Raises:
        UserError: another process trains in the run's folder, its newest checkpoint is damaged, or DeepSpeed refuses
            what ``parallel.deepspeed`` says.
        RunFailure: another rank ended, or never came; the gradient was not finite for too many steps in a row, or copies of a
            weight differ.
    """
    folder = RunFolder(config.run.dir)
    latest = folder.latest_checkpoint()
    ended = folder.read_summary() or {}
    # Who has written an older checkpoint's name into ``latest`` goes on from there, whatever the summary says.
    at_end = latest == checkpoint_name(config.train.steps) and ended.get("step") == config.train.steps
    if at_end and ended.get("status") == "complete":
        if world.rank == 0:
            print(f"{folder.path} holds this run, complete; nothing to do")
        return 0

    from ..parallel.engine import check_overrides
    from ..parallel.groups import model_parallel, process_group
    from .liveness import watched
    from .whereabouts import Whereabouts

    check_overrides(config.parallel, _deepspeed_config(config, config.parallel.data(world.size)))
    whereabouts = Whereabouts()
    with ExitStack() as held:
        held.enter_context(process_group(world, meeting=timedelta(seconds=config.run.stall_after)))
        held.enter_context(watched(world, config.run, folder.path, whereabouts))
        if world.rank == 0:
            # A launcher that restarts ranks may do so before the kernel has ended those that it killed.
            restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
            held.enter_context(folder.claim(config.to_yaml(), wait=_LOCK_SECONDS if restarted else 0.0))
        with model_parallel(config.parallel, config.train.seed) as groups:
            train(config, prepared, groups, whereabouts)
    return 0


def train(config: Config, prepared: Prepared, groups: Groups, whereabouts: Whereabouts | None = None) -> None:
    """Train to the end as one rank of a laid-out world, from the newest checkpoint if there is one.

    Raises:
        UserError: every checkpoint is damaged, or the newest is of another model.
        RunFailure: the run ended before its end.
    """
    import torch.distributed as dist

    from .checkpoint import newest_undamaged

    folder = RunFolder(config.run.dir)
    start = newest_undamaged(folder) if folder.latest_checkpoint() else None  # before anything is written
    trainer = build_trainer(config, prepared, groups)
    trainer.whereabouts = whereabouts or trainer.whereabouts
    if start is not None:
        _go_on(trainer, *start)
    if groups.first:
        folder.begin(run_card(config, prepared, dist.get_world_size()), trainer.state.step)
    trainer.run()
    trainer.engine.close()


def _go_on(trainer: Trainer, name: str, damaged: list[Problem]) -> None:
    """Take back a checkpoint, and put newer ones aside, which are damaged."""
    from .callbacks.average import WeightAverage
    from .checkpoint import load_checkpoint

    trainer.whereabouts.enter("reading the checkpoint")
    folder = trainer.folder
    average = next((callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)), None)
    checkpoint = folder.checkpoints / name
    trainer.restore(load_checkpoint(checkpoint, trainer.engine, trainer.groups, trainer.config, average))
    if damaged and trainer.groups.first:
        for problem in damaged:
            print(f"warning: {problem}", file=sys.stderr)
        print(f"warning: going on from {name}, the newest checkpoint that is whole", file=sys.stderr)
        folder.put_aside(folder.checkpoint_names()[: folder.checkpoint_names().index(name)], name)


def _deepspeed_config(config: Config, data_size: int) -> dict[str, Any]:
    from ..parallel.engine import deepspeed_config

    return deepspeed_config(
        config.parallel,
        config.train.precision,
        micro_batch_size=config.train.micro_batch(data_size),
        micro_batches=config.train.micro_batches(data_size),
        grad_clip=config.train.grad_clip,
    )


def build_engine(config: Config, groups: Groups, prepare_module: Callable[[nn.Module], None] = lambda module: None) -> Engine:
    """Model, optimizer and engine of a run on this rank.

    ``prepare_module`` may change the initialized model before the engine takes its weights.
    """
    from ..model.language_model import LanguageModel
    from ..parallel.engine import Engine
    from .optimizer import build_optimizer

    train = config.train
    module = LanguageModel(config.model, groups, train.precision, train.seed)
    prepare_module(module)
    return Engine(module, build_optimizer(module, train), groups, _deepspeed_config(config, groups.data_size), train.grad_clip)


def build_trainer(
    config: Config, prepared: Prepared, groups: Groups, prepare_module: Callable[[nn.Module], None] = lambda module: None
) -> Trainer:
    """Model, engine, data and callbacks of a run on this rank; ``prepare_module`` as for :func:`build_engine`."""
    import torch

    from ..data.dataset import SequenceDataset
    from ..data.loader import Loader
    from ..data.manifest import SplitName
    from ..data.tokenizer import token_bytes
    from ..parallel.cpu_compat import on_gpu
    from .callbacks.audit import ReplicaAudit
    from .callbacks.average import WeightAverage
    from .callbacks.checkpoint import Checkpoint
    from .callbacks.console import Console
    from .callbacks.evaluate import Evaluate
    from .callbacks.guard import GuardReports
    from .callbacks.norm_cost import NormCost
    from .callbacks.norms import NormSteps
    from .callbacks.records import JsonLines, Summary, TensorBoard, Wandb
    from .callbacks.signals import StopOnSignal
    from .callbacks.stragglers import Stragglers
    from .guard import Guard
    from .loop import Trainer

    train, log, data = config.train, config.log, config.data
    folder = RunFolder(config.run.dir)
    cache = Path(data.index_cache).expanduser() if data.index_cache else folder.index_cache

    def loader(split: SplitName, seed: int) -> Loader:
        sequences = SequenceDataset(
            prepared,
            split,
            train.sequence_length,
            seed,
            cache,
            document_mask=data.document_mask,
            loss_on_end_of_document=data.loss_on_end_of_document,
        )
        return Loader(
            sequences,
            global_batch_size=train.global_batch_size,
            micro_batch_size=train.micro_batch(groups.data_size),
            data_rank=groups.data_rank,
            data_size=groups.data_size,
            ahead=1,
            pin=on_gpu(),
        )

    validation = loader("validation", 0)  # the same sequences whatever the seed of the run
    engine = build_engine(config, groups, prepare_module)
    sizes = torch.from_numpy(token_bytes(prepared.folders[0], prepared.tokenizer))
    guard = Guard(config.guard)
    average = WeightAverage(train.average_decay) if train.average_decay else None
    callbacks = [
        GuardReports(guard),  # the first: a diagnosis sees the model as the step left it
        ReplicaAudit(train.replica_audit),  # before anything is kept of a model whose copies differ
        NormSteps(),  # early, so that an evaluation sees the norms of the step it stands before, resumed or not
        JsonLines(),
        TensorBoard() if log.tensorboard else None,
        Wandb(log.wandb, log.wandb_project) if log.wandb != "off" else None,
        StopOnSignal(),
        Stragglers(),
        average,
        Evaluate(validation, sizes, config.evaluate.interval, config.evaluate.batches, average),
        Checkpoint(config.checkpoint, average),
        NormCost(validation) if log.norm_cost else None,
        Summary(),
        Console() if log.console else None,  # the last to speak, when everything it speaks of is done
    ]
    chosen = [callback for callback in callbacks if callback]
    return Trainer(config, prepared, groups, engine, loader("train", train.seed), folder, chosen, guard)
