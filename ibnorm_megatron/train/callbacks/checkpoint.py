"""When state is saved: its copy is taken between two steps, and written while training goes on."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ...checkpoints.writer import Part, write_part, write_whole
from ...errors import Problem, RunFailure, UserError
from ...parallel.cpu_compat import device
from ...printing import printable
from ..checkpoint import head, take_part
from ..config import CheckpointConfig
from .average import AVERAGE, WeightAverage
from .base import Callback

if TYPE_CHECKING:
    from torch import Tensor

    from ..loop import Trainer

#: What a rank says that could not write its part, beside the 1 that says it is done: more than there are ranks.
_FAILED = float(1 << 32)

#: Seconds before each further attempt to save where a run ends: somebody may make room meanwhile.
_LAST_ATTEMPTS = (2.0, 4.0, 8.0, 16.0)


@dataclass
class _Save:
    """A checkpoint that is being written: its step, this rank's part, and the record's head."""

    step: int
    head: dict[str, Any]
    written: Future[None]


@dataclass(frozen=True)
class _Failure:
    """A save that was not done, and why; ``said`` where another rank says so on stderr."""

    step: int
    why: str
    said: bool = False


class Checkpoint(Callback):
    """Save every ``interval`` steps (0: never in between), at the steps named, and where the run ends or stops.

    A save takes a copy of this rank's part, and goes on in a thread. Ranks tell each other with the steps' own messages who
    is done; when all are, the first rank writes the record, gives the checkpoint its name and points to it. There is one save
    at a time: another waits for it. A save that fails is said, its draft removed, and the next is tried as if nothing
    had happened; only where the run ends must it succeed.

    Raises:
        RunFailure: the last state could not be saved, after several attempts.
    """

    doing = "saving"

    def __init__(self, config: CheckpointConfig, average: WeightAverage | None = None) -> None:
        self._config, self._average = config, average
        self._saving: _Save | None = None
        self._commit: Future[None] | None = None  # of the first rank
        self._saved_at = 0
        self._pool: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._blocked_seconds = 0.0
        self._failures: SimpleQueue[_Failure] = SimpleQueue()  # from the thread
        self._card: dict[str, Any] = {}  # of the first rank

    def on_start(self, trainer: Trainer) -> None:
        self._saved_at = trainer.state.step
        if trainer.groups.first:
            self._card = trainer.folder.read_card()  # once: the folder may be gone when it is saved
            self._prune(trainer)

    def after_step(self, trainer: Trainer) -> None:
        self._tell(trainer)
        step, interval = trainer.state.step, self._config.interval
        if step in self._config.at or (interval and step % interval == 0):
            started = time.perf_counter()
            self._settle(trainer)
            self._begin(trainer)
            if not self._config.background:
                self._settle(trainer)
            self._blocked_seconds += time.perf_counter() - started

    def say(self) -> float:
        if self._saving is None or not self._saving.written.done():
            return 0.0
        return 1.0 + (_FAILED if self._saving.written.exception() else 0.0)

    def hear(self, trainer: Trainer, total: float) -> None:
        if self._saving is not None and total % _FAILED == dist.get_world_size():
            self._conclude(trainer, failed=total >= _FAILED)

    def on_end(self, trainer: Trainer) -> None:
        self._settle(trainer)
        for seconds in (0.0, *_LAST_ATTEMPTS):
            if self._is_saved(trainer):
                break
            time.sleep(seconds)
            trainer.whereabouts.moved()
            self._begin(trainer)
            self._settle(trainer)
            self._tell(trainer)
        if not self._is_saved(trainer):
            mend = "make room or mend what was said above; the same command goes on from the checkpoint before"
            raise RunFailure(Problem("the state after step", str(trainer.state.step), "it could not be saved", mend))
        trainer.summary["checkpoint_seconds"] = self._blocked_seconds

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, trainer: Trainer) -> None:
        """Copy, and begin to write. Nothing here waits for another rank."""
        step = trainer.state.step
        more = {AVERAGE: self._average.values()} if self._average else {}
        record = head(trainer.engine, trainer.snapshot(), trainer.config, self._card, more)
        part = take_part(trainer.engine, trainer.groups, trainer.config, self._pool, more)
        self._saving = _Save(step, record, self._thread.submit(self._write, trainer, step, part))

    def _write(self, trainer: Trainer, step: int, part: Part) -> None:
        try:
            write_part(trainer.folder.draft_checkpoint(step), part)
        except OSError as error:
            self._failures.put(_Failure(step, str(error)))
            raise

    def _settle(self, trainer: Trainer) -> None:
        """Wait until the save in progress has ended, well or not. Collective."""
        if self._saving is not None:
            failed = torch.tensor(float(self._saving.written.exception() is not None), device=device())
            dist.all_reduce(failed, op=dist.ReduceOp.MAX)
            self._conclude(trainer, failed=bool(failed))
        if self._commit is not None:
            self._commit.result()

    def _conclude(self, trainer: Trainer, *, failed: bool) -> None:
        """All ranks have written their parts, or some could not."""
        assert self._saving is not None
        save, self._saving = self._saving, None
        if (error := save.written.exception()) is not None and not isinstance(error, OSError):
            raise error
        if trainer.groups.first:
            if failed and error is None:  # the rank that could not says why; the records are this one's
                self._failures.put(_Failure(save.step, "another rank could not write its part", said=True))
            self._commit = self._thread.submit(self._make_whole, trainer, save, failed)

    def _make_whole(self, trainer: Trainer, save: _Save, failed: bool) -> None:
        folder = trainer.folder
        if not failed:
            try:
                write_whole(folder.draft_checkpoint(save.step), dist.get_world_size(), save.head)
                folder.commit_checkpoint(save.step)
                self._saved_at = save.step
                self._prune(trainer)
                return
            except (OSError, UserError, RunFailure) as error:
                self._failures.put(_Failure(save.step, str(error)))
        folder.drop_draft(save.step)

    def _prune(self, trainer: Trainer) -> None:
        """Remove old checkpoints. One that cannot be removed makes no save of a newer one undone."""
        try:
            trainer.folder.prune(self._config.keep_last, self._config.keep_every, self._config.at)
        except OSError as error:
            print(f"warning: an old checkpoint was not removed: {printable(str(error).rstrip('.'))}", file=sys.stderr)

    def _tell(self, trainer: Trainer) -> None:
        """Say which saves this rank could not do: on stderr, and of the first rank in the records."""
        while not self._failures.empty():
            failure = self._failures.get()
            step = failure.step
            going = "training goes on, and the next one is tried when it is due"
            says = f"the checkpoint of step {step} was not saved: {printable(failure.why.rstrip('.'))}; {going}"
            if not failure.said:
                print(f"[rank {trainer.groups.rank}] warning: {says}", file=sys.stderr)
            trainer.notify_event({"step": step, "event": "checkpoint_failed", "says": says})

    def _is_saved(self, trainer: Trainer) -> bool:
        """Whether the first rank has the state of this step on disk. Collective."""
        saved = torch.tensor(float(self._saved_at == trainer.state.step and trainer.groups.first), device=device())
        dist.all_reduce(saved)
        return bool(saved)
