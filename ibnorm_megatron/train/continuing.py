"""Whether a run can go on from the state that it finds: its own, or that of another run from which it branches. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoints.record import RECORD, CheckpointRecord, hash_of, read_record
from ..config import Config
from ..errors import Problem, UserError, nearest
from .config import TrainConfig
from .run_folder import RunFolder, differences, step_of_checkpoint
from .schedule import learning_rate

#: Fields that change no curve, or change it by rounding only: a run may go on with others.
_FREE = ("run.", "log.", "checkpoint.", "evaluate.", "data.path", "data.index_cache", "parallel.")
_FREE += ("train.micro_batch_size", "train.replica_audit", "guard.stop_after")

#: Fields that say how a run ends, in which a branch may differ as well; :func:`_rate_problems` says how far.
_ENDING = ("train.steps", "train.schedule", "train.warmup_fraction", "train.decay_fraction", "train.min_lr_ratio")

_BRANCH = "run.branch_from"
_DATA_HASHES = {"data": "hash", "tokenizer": "tokenizer"}

#: A field, what it was, and what it is now.
_Entry = tuple[str, Any, Any]


def branch_point(folder: RunFolder, config: Config) -> Path | None:
    """The checkpoint of another run at which the run in ``folder`` begins; None once it has a checkpoint of its own."""
    if not config.run.branch_from or folder.latest_checkpoint():
        return None
    return Path(config.run.branch_from).expanduser()


def parent_of(config: Config, record: CheckpointRecord) -> dict[str, Any]:
    """What a branch's run card says of the run that it branches from, and of the one that this branched from, and so on."""
    return {
        "path": config.run.branch_from,
        "step": record.step,
        "hash": hash_of(record),
        "seconds": record.callbacks.get("Summary", {}).get("seconds"),
        "skipped_steps": record.callbacks.get("GuardReports", {}).get("skipped_steps"),
        "parent": record.card.get("parent"),
    }


def continuing_problems(folder: RunFolder, config: Config, identity: dict[str, Any]) -> Iterator[Problem]:
    """Why the run in ``folder``, if there is one, cannot go on as this one, or this one cannot begin where it is to branch.

    Raises:
        UserError: the folder's records are damaged.
    """
    if folder.config_path.is_file():
        yield from _resume_problems(folder, config, identity)
    if (checkpoint := branch_point(folder, config)) is not None:
        yield from _branch_problems(checkpoint, config, identity)


def _resume_problems(folder: RunFolder, config: Config, identity: dict[str, Any]) -> Iterator[Problem]:
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
    entries = [entry for entry in differences(was["config"], config.to_dict()) if not _is_free(entry[0])]
    if latest:
        entries += _identity_entries(was["card"], identity)
    yield from _unknown_allowed(config, entries)
    for name, old, new in _refused(config, entries):
        mend = f"set it back, allow it with run.allow=[{name}], or choose another run.dir for a new run"
        yield Problem(name, _shown(name, new), f"the run in {folder.path} was begun with {old!r}", mend)


def _branch_problems(checkpoint: Path, config: Config, identity: dict[str, Any]) -> Iterator[Problem]:
    given = config.run.branch_from
    if not os.path.isfile(checkpoint / RECORD):
        why = "it is no checkpoint" if os.path.isdir(checkpoint) else "there is no such folder"
        yield Problem(_BRANCH, given, why, "give the folder of a checkpoint, checkpoints/step-NNNNNNNN in a run's")
        return
    try:
        record = read_record(checkpoint)
    except UserError as error:
        yield from error.problems
        return
    found = differences(record.config, config.to_dict())
    entries = [entry for entry in found if not _is_free(entry[0]) and entry[0] not in _ENDING and entry[0] != _BRANCH]
    entries += _identity_entries(record.card, identity)
    yield from _unknown_allowed(config, entries)
    for name, old, new in _refused(config, entries):
        mend = f"set it so, or allow it with run.allow=[{name}]"
        yield Problem(name, _shown(name, new), f"the run that {_BRANCH} is of has {old!r}", mend)
    if record.step >= config.train.steps:
        why = f"{_BRANCH} is of step {record.step} already"
        yield Problem("train.steps", str(config.train.steps), why, "set more, or choose an earlier checkpoint")
        return
    fields = {name: value for name, value in record.config.get("train", {}).items() if name in TrainConfig.model_fields}
    parent = TrainConfig.model_validate(fields)
    yield from _rate_problems(parent, config.train, record.step, given)
    yield from _ramp_problems(parent, config, record.step, given)


def _rate_problems(parent: TrainConfig, own: TrainConfig, step: int, given: str) -> Iterator[Problem]:
    """Why the learning rate would not go on from ``step`` as that of a run which is this one from its first step on.

    It does where all rates up to there are equal, and where both runs are at the peak.
    """
    if all(learning_rate(parent, before) == learning_rate(own, before) for before in range(1, step + 1)):
        return
    if step > parent.peak_until:
        until = parent.peak_until
        why = f"it is of step {step}, and the learning rate of its run falls after step {until}"
        wsd = "" if parent.schedule == "wsd" else ", or begin with a run of train.schedule=wsd"
        yield Problem(_BRANCH, given, why, f"choose a checkpoint of step {until} or before{wsd}")
    elif step > own.peak_until and own.schedule == "cosine":
        why = f"its learning rate would have fallen since step {own.peak_until}, and {_BRANCH} is of step {step} at the peak"
        yield Problem("train.schedule", own.schedule, why, "set train.schedule=wsd")
    elif step > own.peak_until:
        ending = f"with train.steps {own.steps} and train.decay_fraction {own.decay_fraction}"
        why = f"it is of step {step}, and {ending} the learning rate falls after step {own.peak_until}"
        mend = f"choose a checkpoint of step {own.peak_until} or before, or set more train.steps"
        yield Problem(_BRANCH, given, why, mend)
    elif own.warmup_steps != parent.warmup_steps and step < (longest := max(own.warmup_steps, parent.warmup_steps)):
        here = f"{_BRANCH} is of step {step} of a run with {parent.warmup_steps}"
        why = f"that is a warm-up of {own.warmup_steps} steps, and {here}"
        mend = f"set train.warmup_fraction={parent.warmup_steps / own.steps}, or choose a checkpoint of step {longest} or later"
        yield Problem("train.warmup_fraction", str(own.warmup_fraction), why, mend)


def _ramp_problems(parent: TrainConfig, config: Config, step: int, given: str) -> Iterator[Problem]:
    """Norms that change by themselves over a share of the run, which are not done with it and would jump."""
    for norm in dict.fromkeys(config.model.norm_sites().values()):
        ends = {norm.changes_until(parent.steps), norm.changes_until(config.train.steps)}
        if len(ends) > 1 and step < max(ends):
            why = f"it is of step {step}, and {norm.label()} changes until step {max(ends)}, as a share of train.steps"
            yield Problem(_BRANCH, given, why, f"choose a checkpoint of step {max(ends)} or later")


def _is_free(name: str) -> bool:
    return name.startswith(_FREE) and name != _BRANCH


def _identity_entries(card: dict[str, Any], identity: dict[str, Any]) -> list[_Entry]:
    """Data and plugins are known by what they are."""
    data = card.get("data", {})
    entries = [("plugins", card.get("plugins", {}), identity["plugins"])]
    return entries + [(name, data.get(key), identity["data"][key]) for name, key in _DATA_HASHES.items()]


def _unknown_allowed(config: Config, entries: Iterable[_Entry]) -> Iterator[Problem]:
    fields = {*_fields(config.to_dict()), *(name for name, _, _ in entries)}
    for name in config.run.allow:
        if name not in fields:
            yield Problem("run.allow", repr(name), "there is no such field", nearest(name, fields))


def _refused(config: Config, entries: Iterable[_Entry]) -> Iterator[_Entry]:
    for name, old, new in entries:
        if old != new and not any(name == field or name.startswith(f"{field}.") for field in config.run.allow):
            yield name, old, new


def _shown(name: str, value: Any) -> str:
    return f"its hash is {value!r}" if name in _DATA_HASHES else repr(value)


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
