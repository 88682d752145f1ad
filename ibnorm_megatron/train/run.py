"""One run from a config: check everything, build everything, train."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, parse_config
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, raise_if_any
from .continuing import branch_point, continuing_problems, parent_of
from .environment import environment_problems
from .run_card import run_card, run_identity
from .run_folder import RunFolder, checkpoint_name

if TYPE_CHECKING:
    from torch import nn

    from ..checkpoints.record import CheckpointRecord
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
                problems += continuing_problems(folder, config, run_identity(config, prepared, world_size))
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


#: A variable with the exit code of ranks that were told to stop. Kubernetes counts a pod that ends with 0 as done.
STOPPED_CODE = "IBNORM_STOPPED_EXIT_CODE"
#: How long a restarted run waits for the lock of the one before it.
_LOCK_SECONDS = 60.0


def run(config: Config, prepared: Prepared, world: World) -> int:
    """Train, or go on training, what ``config`` describes. Returns the process's exit code.

    Raises:
        UserError: another process trains in the run's folder, its newest checkpoint or the one that it branches from is
            damaged, or DeepSpeed refuses what ``parallel.deepspeed`` says.
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
    from .checkpoint import found_damages
    from .liveness import watched
    from .whereabouts import Whereabouts

    check_overrides(config.parallel, _deepspeed_config(config, config.parallel.data(world.size)))
    whereabouts = Whereabouts()
    with ExitStack() as held:
        held.enter_context(process_group(world, meeting=timedelta(seconds=config.run.stall_after)))
        held.enter_context(watched(world, config.run, folder.path, whereabouts))
        if (parent := branch_point(folder, config)) is not None:
            raise_if_any(found_damages(parent))
        if world.rank == 0:
            # A launcher that restarts ranks may do so before the kernel has ended those that it killed.
            restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
            held.enter_context(folder.claim(config.to_yaml(), wait=_LOCK_SECONDS if restarted else 0.0))
        with model_parallel(config.parallel, config.train.seed) as groups:
            complete = train(config, prepared, groups, whereabouts)
    return 0 if complete else stopped_code()


def stopped_code(environ: Mapping[str, str] = os.environ) -> int:
    """What ranks end with that were told to stop: 0, or what a scheduler needs to see that the run is not done."""
    code = environ.get(STOPPED_CODE, "")
    return int(code) if code.isascii() and code.isdecimal() and int(code) < 256 else 0


def train(config: Config, prepared: Prepared, groups: Groups, whereabouts: Whereabouts | None = None) -> bool:
    """Train to the end as one rank of a laid-out world, from the newest checkpoint if there is one, or from another run's.

    Returns whether that is where it came to; a run that was told to stop has saved its state.

    Raises:
        UserError: every checkpoint is damaged, or the one to begin at is of another model.
        RunFailure: the run ended before its end.
    """
    import torch.distributed as dist

    from .checkpoint import newest_undamaged
    from .digests import digest_of_samples, digest_of_weights

    folder = RunFolder(config.run.dir)
    parent = branch_point(folder, config)
    start = newest_undamaged(folder) if folder.latest_checkpoint() else None  # before anything is written
    digests: dict[str, Any] = {}

    def look(module: nn.Module) -> None:
        if start is None and parent is None:
            digests["initial_weights"] = digest_of_weights(module, groups, config.model.vocab_size)

    trainer = build_trainer(config, prepared, groups, look)
    trainer.whereabouts = whereabouts or trainer.whereabouts
    ancestry: dict[str, Any] = {}
    if start is not None:
        _go_on(trainer, *start)
    elif parent is not None:
        record = _load(trainer, parent, branches=True)
        digests |= record.card.get("digests", {})
        ancestry["parent"] = parent_of(config, record)
    if groups.first:
        if start is None:
            digests["samples"] = digest_of_samples(trainer.loader.dataset, config.train.steps * config.train.global_batch_size)
        card = {**run_card(config, prepared, dist.get_world_size()), "digests": digests, **ancestry}
        folder.begin(card, trainer.state.step, branches=parent is not None)
    trainer.run()
    trainer.engine.close()
    return trainer.state.step == config.train.steps


def _load(trainer: Trainer, checkpoint: Path, *, branches: bool = False) -> CheckpointRecord:
    """Take back a checkpoint: of this run, or of the one that it ``branches`` from."""
    from .callbacks.average import WeightAverage
    from .checkpoint import load_checkpoint

    trainer.whereabouts.enter("reading the checkpoint")
    average = next((callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)), None)
    record = load_checkpoint(checkpoint, trainer.engine, trainer.groups, trainer.config, average)
    trainer.restore(record, branches=branches)
    return record


def _go_on(trainer: Trainer, name: str, damaged: list[Problem]) -> None:
    """Take back a checkpoint, and put newer ones aside, which are damaged."""
    folder = trainer.folder
    _load(trainer, folder.checkpoints / name)
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
    from .callbacks.norm_strength import NormStrength
    from .callbacks.norms import NormSteps
    from .callbacks.records import JsonLines, Summary, TensorBoard
    from .callbacks.signals import StopOnSignal
    from .callbacks.stragglers import Stragglers
    from .callbacks.telemetry import Telemetry
    from .callbacks.wandb_records import Wandb
    from .guard import Guard
    from .loop import Trainer
    from .norm_view import NormView

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
    view = NormView(validation.dataset, train)
    guard = Guard(config.guard)
    average = WeightAverage(train.average_decay) if train.average_decay else None
    callbacks = [
        GuardReports(guard),  # the first: a diagnosis sees the model as the step left it
        ReplicaAudit(train.replica_audit),  # before anything is kept of a model whose copies differ
        NormSteps(),  # early, so that an evaluation sees the norms of the step it stands before, resumed or not
        JsonLines(),
        TensorBoard() if log.tensorboard else None,
        Wandb(log) if log.wandb != "off" else None,
        StopOnSignal(),
        Stragglers(),
        average,
        Telemetry(log.telemetry, view) if log.telemetry else None,
        Evaluate(validation, sizes, config.evaluate.interval, config.evaluate.batches, average),
        Checkpoint(config.checkpoint, average),
        NormStrength(view),
        NormCost(validation) if log.norm_cost else None,
        Summary(),
        Console() if log.console else None,  # the last to speak, when everything it speaks of is done
    ]
    chosen = [callback for callback in callbacks if callback]
    return Trainer(config, prepared, groups, engine, loader("train", train.seed), folder, chosen, guard)
