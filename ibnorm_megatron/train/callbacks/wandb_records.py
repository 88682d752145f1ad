"""Records to Weights & Biases, from a thread of its own: whatever happens there, a run neither waits for it nor ends by it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ...printing import printable
from ...redaction import hide_secrets
from ..config import LogConfig
from ..run_folder import RunFolder
from ..wandb_mode import Mode, wandb_mode
from .base import Callback, Record
from .records import flat

if TYPE_CHECKING:
    from ..loop import Trainer

#: Seconds for a server to take a run up; then its records go into the run's folder.
_OPENING = 60.0

#: Seconds that a run waits, where it ends, until what it recorded has arrived; and for a checkpoint as well.
_ENDING, _UPLOADING = 60.0, 1800.0

#: Nothing of the terminal, the command line, the repository's address or the installed packages goes anywhere: run card and
#: config say what has to be known, and the others may hold a secret. Settings that a version of wandb lacks are left out.
_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": _OPENING,
}


class Wandb(Callback):
    """Metrics, evaluations and telemetry of the first rank, by step; config, run card and summary; artifacts if asked for.

    The run's id is in its folder, so that it goes on in the same record after a stop or a kill, online and offline. wandb holds
    rows back for up to 15 s, which a kill loses; so where a run goes on, what the server lacks is taken from the run's own
    files, and an offline record begins anew with all of it, in the place of those before.

    What fails is said once: a server that does not answer leaves the records in the run's folder, and anything else ends the
    recording.
    """

    def __init__(self, log: LogConfig) -> None:
        self._log = log
        self._sender: _Sender | None = None
        self._folder: RunFolder | None = None
        self._failed, self._complete = True, False  # until the end is reached
        self._patience = _ENDING

    def on_start(self, trainer: Trainer) -> None:
        if not trainer.groups.first:
            return
        mode = wandb_mode(self._log)
        if mode == "off":  # auto without wandb, or with WANDB_MODE=disabled
            return
        self._folder = trainer.folder
        try:
            identity = trainer.folder.wandb_id()
        except OSError as error:
            _warn(f"{error.strerror}: {error.filename}; this run is not recorded there")
            return
        if self._log.console:
            print(f"wandb: {mode}, run {identity} of project {self._log.wandb_project}", flush=True)
        start = {
            "project": self._log.wandb_project,
            "dir": str(trainer.folder.path.absolute()),
            "name": trainer.folder.path.absolute().name,
            "config": {**trainer.config.to_dict(), "run_card": trainer.folder.read_card()},
            "id": identity,
            "resume": "allow",
            "tags": list(self._log.wandb_tags) or None,
        }
        longest = _UPLOADING if self._log.wandb_artifacts == "checkpoint" else _ENDING
        self._patience = min(longest, trainer.config.run.stall_after / 2)  # who waits longer counts as stalled
        rows = _rows_so_far(trainer.folder) if trainer.state.step else []
        self._sender = _Sender(start, mode, trainer.folder, rows, self._patience)
        self._sender.start()

    def on_record(self, trainer: Trainer, record: Record) -> None:
        self._write("train", record)

    def on_evaluate(self, trainer: Trainer, record: Record) -> None:
        self._write("validation", record)

    def on_telemetry(self, trainer: Trainer, record: Record) -> None:
        self._write("telemetry", flat(record))

    def on_end(self, trainer: Trainer) -> None:
        self._failed = trainer.failure is not None
        self._complete = not self._failed and trainer.state.step == trainer.config.train.steps

    def close(self) -> None:
        if self._sender is None:
            return
        assert self._folder is not None
        folder, artifacts = self._folder, self._log.wandb_artifacts
        failed = self._failed or sys.exc_info()[0] is not None
        self._sender.tell(lambda run: run.summary.update(folder.read_summary() or {}))
        uploads = artifacts == "checkpoint" and self._complete
        if artifacts != "none":
            self._sender.tell(lambda run: _log_artifacts(run, folder, uploads))
        self._sender.finish(1 if failed else 0, self._patience if uploads else min(_ENDING, self._patience))

    def _write(self, prefix: str, record: Record) -> None:
        if self._sender:
            row = _row(prefix, record)
            self._sender.tell(lambda run: run.log(row))


def _row(prefix: str, record: Record) -> Record:
    return {name if name == "step" else f"{prefix}/{name}": value for name, value in record.items()}


def _rows_so_far(folder: RunFolder) -> list[Record]:
    """What the run's files say of the steps up to the one that it goes on from, in order."""
    metrics = [record for record in folder.read_metrics() if "event" not in record]
    rows = [_row("validation" if "val_loss" in record else "train", record) for record in metrics]
    rows += [_row("telemetry", flat(record)) for record in folder.read_telemetry()]
    return sorted(rows, key=lambda row: row["step"])


def _missing(rows: list[Record], summary: Record) -> Iterator[Record]:
    """The rows that a run does not have whose summary, the newest value of each name, is this."""
    last = summary.get("step", 0)
    for row in rows:
        there = all(summary.get(name) == value for name, value in row.items() if value is not None)
        if row["step"] > last or (row["step"] == last and not there):
            yield row


def _log_artifacts(run: Any, folder: RunFolder, checkpoint: bool) -> None:
    """The run's records, and its last checkpoint where there is one, as artifacts that name their run."""
    import wandb

    records = wandb.Artifact(f"records-{run.id}", "records")
    for path in folder.records():
        records.add_file(str(path), skip_cache=True, policy="immutable")
    run.log_artifact(records)
    name = folder.latest_checkpoint() if checkpoint else None
    if name:
        state = wandb.Artifact(f"checkpoint-{run.id}", "checkpoint", metadata={"checkpoint": name})
        state.add_dir(str(folder.checkpoints / name), skip_cache=True, policy="immutable")
        run.log_artifact(state, aliases=["latest", name])


class _Sender(threading.Thread):
    """A thread that opens a run of wandb's and does with it what it is told, in order, until something fails.

    Args:
        start: what ``wandb.init`` is given.
        mode: how the run is opened.
        folder: the run's.
        rows: of earlier starts, for a server or a file that lacks them.
        ending: seconds that wandb itself may take where the run ends.
    """

    def __init__(self, start: Record, mode: Mode, folder: RunFolder, rows: list[Record], ending: float) -> None:
        super().__init__(name="wandb", daemon=True)
        self._start, self._mode, self._folder, self._rows, self._ending = start, mode, folder, rows, ending
        self._where = f"{start['dir']}/wandb"
        self._jobs: SimpleQueue[Callable[[Any], object] | None] = SimpleQueue()
        self._lost = False
        self._exit_code = 0

    def tell(self, job: Callable[[Any], object]) -> None:
        """Do that with the run, when its turn comes. Returns at once."""
        if not self._lost:
            self._jobs.put(job)

    def finish(self, exit_code: int, seconds: float) -> None:
        """End the run, and wait until all is done, or so long."""
        self._exit_code = exit_code
        self._jobs.put(None)
        self.join(seconds)
        if self.is_alive():
            _warn(f"it has not taken all records within {seconds:.0f} s; what it lacks is in {self._where}: wandb sync")

    def run(self) -> None:
        try:
            run = self._open()
            # Steps that a killed run takes again come again. Under wandb's own count of rows, which must grow, they would be
            # dropped online, and get other numbers when an offline record is sent.
            run.define_metric("*", step_metric="step")
            for row in _missing(self._rows, dict(run.summary)):
                run.log(row)
        except Exception as error:
            self._lose(error)
            return
        while (job := self._jobs.get()) is not None:
            try:
                job(run)
            except Exception as error:
                self._lose(error)
                break
        try:
            run.finish(exit_code=self._exit_code)
        except Exception as error:
            self._lose(error)

    def _open(self) -> Any:
        """A run, online if that is asked for and the server answers, or else offline."""
        # Not to its makers either, unless its user wants that: nothing is sent to anybody from a run that is offline.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        wanted = {**_SETTINGS, "finish_timeout": self._ending}
        known = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
        wandb.setup(wandb.Settings(silent=True))  # else it tells where it found a key
        if self._mode == "online":
            try:
                return wandb.init(**self._start, mode="online", settings=wandb.Settings(**known))
            except Exception as error:
                _warn(f"{_first_line(error)}; records go into {self._where}, and wandb sync sends them")
                wandb.teardown()  # what it has of this run's id would be in the way
        self._folder.put_wandb_aside(self._start["id"])
        return wandb.init(**self._start, mode="offline", settings=wandb.Settings(**known))

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            self._lost = True
            _warn(f"{_first_line(error)}; it gets no more records of this run, which goes on")


def _warn(text: str) -> None:
    """Say what went wrong, once."""
    print(f"warning: wandb: {hide_secrets(printable(text))}", file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line.rstrip(".")
