"""One run from a config: check everything, build everything, train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, parse_config
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, raise_if_any
from .environment import environment_problems
from .run_card import run_card, run_identity
from .run_folder import RunFolder, differences

if TYPE_CHECKING:
    from torch import nn

    from ..parallel.engine import Engine
    from ..parallel.groups import Groups, World
    from .loop import Trainer


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
    free = ("run.", "log.", "checkpoint.", "evaluate.", "data.path", "data.index_cache")  # none of them changes the curve
    found = [entry for entry in differences(folder.read_config(), config.to_dict()) if not entry[0].startswith(free)]
    if folder.latest_checkpoint():  # data and world are known by what they are, from the card
        was = folder.read_card()
        found += [("the world size", was["layout"]["world_size"], identity["layout"]["world_size"])]
        found += [("the plugins' content", was.get("plugins", {}), identity["plugins"])]
        found += [(f"the hash of {name}", was["data"][key], identity["data"][key]) for name, key in _DATA_HASHES.items()]
    for name, old, new in found:
        if old != new:
            mend = "set it back, or choose another run.dir for a new run"
            yield Problem(name, repr(new), f"the run in {folder.path} was begun with {old!r}", mend)


_DATA_HASHES = {"the data": "hash", "its tokenizer": "tokenizer"}


def run(config: Config, prepared: Prepared, world: World) -> int:
    """Train, or go on training, what ``config`` describes. Returns the process's exit code.

    Raises:
        UserError: another process trains in the run's folder, its newest checkpoint is damaged, or DeepSpeed refuses
            what ``parallel.deepspeed`` says.
    """
    folder = RunFolder(config.run.dir)
    latest = folder.latest_checkpoint()
    if latest and (folder.read_summary() or {}).get("status") == "complete":
        if world.rank == 0:
            print(f"{folder.path} holds this run, complete; nothing to do")
        return 0

    from ..parallel.engine import check_overrides
    from ..parallel.groups import model_parallel, process_group

    check_overrides(config.parallel, _deepspeed_config(config, config.parallel.data(world.size)))
    with process_group(world), ExitStack() as held:
        if world.rank == 0:
            held.enter_context(folder.claim(config.to_yaml()))
        with model_parallel(config.parallel, config.train.seed) as groups:
            trainer = build_trainer(config, prepared, groups)
            if latest:
                from .checkpoint import load_checkpoint

                trainer.restore(load_checkpoint(folder, trainer.engine, latest))
            if groups.first:
                folder.begin(run_card(config, prepared, world.size), trainer.state.step)
            trainer.run()
            trainer.engine.close()
    return 0


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
    from .callbacks.checkpoint import Checkpoint, StopOnSignal
    from .callbacks.console import Console
    from .callbacks.evaluate import Evaluate
    from .callbacks.norm_cost import NormCost
    from .callbacks.norms import NormSteps
    from .callbacks.records import JsonLines, Summary, TensorBoard, Wandb
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
    callbacks = [
        ReplicaAudit(train.replica_audit),  # before anything is kept of a model whose copies differ
        NormSteps(),  # early, so that an evaluation sees the norms of the step it stands before, resumed or not
        JsonLines(),
        TensorBoard() if log.tensorboard else None,
        Wandb(log.wandb, log.wandb_project) if log.wandb != "off" else None,
        StopOnSignal(),
        Evaluate(validation, sizes, config.evaluate.interval, config.evaluate.batches),
        Checkpoint(config.checkpoint.interval, config.checkpoint.keep_last),
        NormCost(validation) if log.norm_cost else None,
        Summary(),
        Console() if log.console else None,  # the last to speak, when everything it speaks of is done
    ]
    chosen = [callback for callback in callbacks if callback]
    return Trainer(config, prepared, groups, engine, loader("train", train.seed), folder, chosen)
