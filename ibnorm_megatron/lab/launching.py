"""Starting a trial as a process of its own, and what became of it: one entry of the ledger, from its records and its end.

FOLDER/configs/NAME.yaml   the config, as ``python -m ibnorm_megatron.train`` takes it     FOLDER/runs/NAME   the run's folder
FOLDER/logs/NAME.log       what it printed, of all its starts
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from ..config import Config
from ..errors import Problem, RunFailure, UserError
from ..files import write_text
from ..printing import printable
from ..processes import ending_with_parent
from ..train.callbacks.base import NOT_FINITE
from ..train.run_folder import RunFolder
from .locks import Claim, is_held, now
from .matching import facts, not_as_asked
from .trials import Entry, Status, Trial

if TYPE_CHECKING:
    from .study import Study

#: What a launcher tells its ranks, and Python's own: none of it is meant for a run that is started from inside a rank.
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")

#: Figures of summary.json that an entry has under its own name.
_ELSEWHERE = ("status", "val_loss", "failure", "reason", "norm")

_SAID = re.compile(r"(?:\[rank \d+\] )?error: (.*)")
_LONGEST_REASON = 500


@dataclass
class Launch:
    """A trial whose process runs."""

    trial: Trial
    key: str
    name: str
    config: Config
    folder: RunFolder
    log: Path
    slot: int
    claim: Claim
    process: subprocess.Popen[bytes]
    log_from: int
    summary_before: tuple[int, ...]
    started: str = field(default_factory=now)

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it started in its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def is_busy(study: Study, trial: Trial) -> bool:
    """Whether some process trains in the trial's folder, such as one that outlived whoever started it."""
    return is_held(run_folder(study, trial).path / ".lock")


def run_folder(study: Study, trial: Trial) -> RunFolder:
    """Where a trial's run is, or will be."""
    return RunFolder(study.folder / "runs" / study.name(trial))


def launch(study: Study, trial: Trial, claim: Claim, *, slot: int, at_once: int) -> Launch:
    """Start a trial's training, or go on with it.

    Args:
        study: what it belongs to.
        trial: which one.
        claim: on it; the process inherits it, so that it holds for as long as the process lives.
        slot: which of the ``at_once`` this one is; GPUs are dealt out by it.
        at_once: how many run side by side on this machine.

    Raises:
        RunFailure: the command cannot be started, or its files not be written.
    """
    name, config = study.name(trial), _config(study, trial)
    file, log = study.folder / "configs" / f"{name}.yaml", study.folder / "logs" / f"{name}.log"
    words = command(study.config.launcher.command, config=file, name=name, folder=study.folder)
    folder = run_folder(study, trial)
    before = _stamp(folder)
    try:
        for place in (file.parent, log.parent):
            place.mkdir(parents=True, exist_ok=True)
        write_text(file, config.to_yaml())
        with open(log, "ab") as output:
            output.write(f"--- {now()} {' '.join(words)}\n".encode())
            output.flush()
            log_from = output.tell()
            process = _start(words, output, claim, environment(os.environ, slot=slot, at_once=at_once))
    except OSError as error:
        why, mend = f"it cannot be written ({error.strerror})", "mend that; the same command goes on"
        raise RunFailure(Problem("the study's folder", str(study.folder), why, mend)) from None
    return Launch(trial, study.key(trial), name, config, folder, log, slot, claim, process, log_from, before)


def _start(words: Sequence[str], output: IO[bytes], claim: Claim, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 (words of the study's file, without a shell)
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            process_group=0,  # a terminal's Ctrl-C reaches the study alone, which passes it on
            pass_fds=(claim.descriptor,),
            preexec_fn=ending_with_parent(),  # it saves then, and ends
        )
    except (OSError, ValueError) as error:
        why = f"it cannot be started ({getattr(error, 'strerror', None) or error})"
        raise RunFailure(Problem("launcher.command", words[0], why, "mend that; the same command goes on")) from None


def _config(study: Study, trial: Trial) -> Config:
    """The trial's config; runs of one study share the indices of the order of samples, which do not depend on the model."""
    config = study.run_config(trial)
    if config.data.index_cache:
        return config
    data = config.data.model_copy(update={"index_cache": str(study.folder / "index")})
    return config.model_copy(update={"data": data})


def command(words: Sequence[str], *, config: Path, name: str, folder: Path) -> list[str]:
    """A launcher's words with {python}, {config}, {name} and {folder} filled in. Other braces stay as they are."""
    known = {"python": sys.executable, "config": str(config), "name": name, "folder": str(folder)}
    return [re.sub(r"\{(python|config|name|folder)\}", lambda found: known[found[1]], word) for word in words]


def environment(given: Mapping[str, str], *, slot: int, at_once: int) -> dict[str, str]:
    """What a run finds: as many threads as it has cores to itself, and its share of the GPUs."""
    kept = {name: value for name, value in given.items() if name not in _OF_A_RANK and not name.startswith("TORCHELASTIC_")}
    kept.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // at_once)))
    if at_once > 1 and (devices := _devices(given)):
        # With fewer GPUs than runs, some share one.
        share = max(1, len(devices) // at_once)
        mine = [devices[(slot * share + number) % len(devices)] for number in range(share)]
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return kept


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices(given: Mapping[str, str]) -> list[str]:
    """The GPUs that may be used; looked for without torch, which would hold some of their memory."""
    if (said := given.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device for device in said.split(",") if device]
    found = sorted(int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*"))
    return [str(number) for number in found]


def recorded(study: Study, trial: Trial) -> Entry | None:
    """The entry of a run that is complete in its folder, though no ledger says so; None for any other.

    Whoever trained it was killed before it could write the entry. It is not started again: its checkpoints may be gone.
    """
    folder = run_folder(study, trial)
    summary = _summary(folder)
    if summary.get("status") != "complete" or summary.get("step") != study.run_config(trial).train.steps:
        return None
    return _entry(study, trial, "", summary, started=_card(folder).get("started", ""))


def ended(study: Study, launched: Launch, *, stopping: bool) -> Entry | None:
    """What became of a run whose process has ended; None where it was stopped, and goes on with what it saved.

    Args:
        study: what it belongs to.
        launched: its process has been waited for.
        stopping: whether it had been asked to stop. Who stops before it can listen says nothing of it.
    """
    code, summary = launched.process.returncode, _summary(launched.folder)
    new = _stamp(launched.folder) != launched.summary_before
    if new and summary.get("status") == "stopped":
        return None
    if not new and code != 0:
        if stopping:
            return None
        summary = {}  # of an earlier start
    said = "" if code == 0 else _reason(launched, code)
    return _entry(study, launched.trial, said, summary, started=launched.started)


def failed(study: Study, launched: Launch, reason: str) -> Entry:
    """An entry for a run that has ended in a way that its records do not tell."""
    return _entry(study, launched.trial, reason, {}, started=launched.started)


def _entry(study: Study, trial: Trial, said: str, summary: Mapping[str, Any], *, started: str) -> Entry:
    config, folder = study.run_config(trial), run_folder(study, trial)
    status, reason = _status(summary, said)
    matching, wrong = _recorded(study, trial, config)
    if wrong and status != "failed":
        status, matching = "failed", {}  # of another run than this one
        reason = f"{wrong}; launcher.command has to hand {{config}} on as it is"
    step = summary.get("step_seconds")
    return Entry(
        trial=trial,
        key=study.key(trial),
        folder=str(folder.path.relative_to(study.folder)),
        status=status,
        reason=reason,
        parameters=study.parameters(trial.size),
        tokens=int(summary.get("tokens", 0)),
        flops=study.flops(trial),
        loss=summary["val_loss"] if status == "complete" else None,
        seconds=None if step is None else step * config.train.steps,
        found={name: value for name, value in summary.items() if name not in _ELSEWHERE},
        matching=matching,
        started=started or now(),
        ended=now(),
    )


def _recorded(study: Study, trial: Trial, config: Config) -> tuple[dict[str, Any], str]:
    """What a run's own records say of it, nothing where they cannot be read; and in what it did not do as it was asked."""
    folder = run_folder(study, trial)
    try:
        found, card = folder.read_config(), folder.read_card()
        flops = float(card["tokens"] * study.flops_per_token(trial.size))
        return facts(found, card, flops), not_as_asked(yaml.safe_load(config.to_yaml()), found)
    except (UserError, KeyError, TypeError, AttributeError):  # not there, damaged, or of another program
        return {}, ""


def _status(summary: Mapping[str, Any], said: str) -> tuple[Status, str]:
    """complete only with a finite loss; diverged where the records say that numbers were not finite."""
    if summary.get("status") == "complete":
        if summary.get("val_loss") is not None:
            return "complete", ""
        return "diverged", "the validation loss is not finite"
    if summary.get("failure") == NOT_FINITE:
        return "diverged", _short(summary.get("reason") or said)
    why = "its command ended without a word, and no record says that the run is complete"
    return "failed", said or f"{why}: launcher.command has to stay until it is"


def _reason(launched: Launch, code: int) -> str:
    """Why a process ended: the last sentence of an error in what it printed, or else its last line, or its signal."""
    lines: list[str] = []
    with suppress(OSError), open(launched.log, "rb") as file:  # somebody may have tidied up
        file.seek(launched.log_from)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    sentences = [found[1] for line in lines if (found := _SAID.match(line))]
    if sentences:
        return _short(sentences[-1])
    how = f"exit code {code}" if code > 0 else f"ended by {_signal(-code)}"
    return _short(f"{how}: {lines[-1]}") if lines else how


def _signal(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name}, as the kernel sends where memory is short" if name == "SIGKILL" else name


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 4]} ..."


def _stamp(folder: RunFolder) -> tuple[int, ...]:
    """What changes whenever a run writes how it ended."""
    try:
        found = (folder.path / "summary.json").stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _summary(folder: RunFolder) -> dict[str, Any]:
    try:
        return folder.read_summary() or {}
    except UserError:  # damaged, so it says nothing
        return {}


def _card(folder: RunFolder) -> dict[str, Any]:
    try:
        return folder.read_card()
    except UserError:
        return {}
