"""The training loop. Everything that is not a step of the model is a callback."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..checkpoints.record import CheckpointRecord
from ..config import Config
from ..data.loader import Loader
from ..data.prepared import Prepared
from ..errors import Problem, RunFailure
from ..parallel.cpu_compat import device, on_gpu
from ..parallel.engine import Engine
from ..parallel.groups import Groups
from .callbacks.base import Callback, Record, looks_at_gradients, speaks
from .flops import model_flops_utilization
from .guard import Guard
from .memory import peak_memory
from .pace import Pace
from .run_folder import RunFolder
from .step import StepMetrics, TrainStep
from .whereabouts import Whereabouts


class TrainState:
    """Where a run is: optimizer steps taken, samples and labels they saw. Reading the labels waits for the device."""

    def __init__(self, step: int = 0, samples: int = 0, tokens: int = 0) -> None:
        self.step, self.samples = step, samples
        self._tokens, self._new = tokens, torch.zeros((), dtype=torch.float64, device=device())

    def advance(self, samples: int, tokens: Tensor) -> None:
        """One step more, with so many samples and labels."""
        self.step, self.samples = self.step + 1, self.samples + samples
        self._new += tokens

    @property
    def tokens(self) -> int:
        """Labels seen."""
        return self._tokens + round(float(self._new))


class Trainer:
    """One run on this rank. Attributes are what callbacks may look at; ``summary`` is what they may add to."""

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        groups: Groups,
        engine: Engine,
        loader: Loader,
        folder: RunFolder,
        callbacks: Sequence[Callback],
        guard: Guard,
    ) -> None:
        self.config, self.prepared, self.groups, self.engine, self.folder = config, prepared, groups, engine, folder
        self.state = TrainState()
        self.summary: Record = {}
        self.loader, self.callbacks, self.guard = loader, callbacks, guard
        self.take_step = TrainStep(config.train, groups, engine, self._on_gradient, guard)
        self.failure: Problem | None = None
        self.failure_kind = ""
        self.whereabouts, self.pace = Whereabouts(), Pace()
        self._stopping = False
        self._timed_steps, self._timed_seconds = 0, 0.0  # since the last record, without what callbacks take

    def run(self) -> None:
        """Train to the last step, or until a stop is requested.

        Raises:
            RunFailure: a callback called :meth:`fail`; its state is saved.
        """
        with ExitStack() as closing:
            closing.callback(self.loader.close)
            for callback in self.callbacks:
                closing.callback(callback.close)
                with self.whereabouts.during(callback.doing):
                    callback.on_start(self)
            while self.state.step < self.config.train.steps and not self._stopping:
                record = self._step()
                for callback in self.callbacks if record else ():
                    with self.whereabouts.during(callback.doing):
                        callback.on_record(self, record)
                for callback in self.callbacks:
                    with self.whereabouts.during(callback.doing):
                        callback.after_step(self)
            self.summary["peak_memory_bytes"] = self.peak_memory()  # of training, before any callback measures something
            for callback in self.callbacks:
                with self.whereabouts.during(callback.doing):
                    callback.on_end(self)
            self.whereabouts.enter("ending")
        if self.failure:
            raise RunFailure(self.failure)

    def _step(self) -> Record | None:
        """Take a step; return what the metrics say of it, if it is one that they speak of."""
        started, step = time.perf_counter(), self.state.step + 1
        self.whereabouts.enter("data", step)
        with self.pace.step() as pace:
            batches = self.loader.batches(self.state.samples)
            pace.has_data()
            self.whereabouts.enter("step")
            speaking = [callback for callback in self.callbacks if speaks(callback)]
            metrics, heard = self.take_step(step, batches, [callback.say() for callback in speaking])
        self.state.advance(self.config.train.global_batch_size, metrics.tokens)
        due = step % self.config.log.interval == 0 or step == self.config.train.steps
        record = self._record(metrics) if due else None  # reads from the device, so that the time below is that of its work
        self._timed_steps += 1
        self._timed_seconds += time.perf_counter() - started
        for callback, total in zip(speaking, heard, strict=True):
            callback.hear(self, total)
        if record is None:
            return None
        seconds = self._timed_seconds / self._timed_steps
        self._timed_steps, self._timed_seconds = 0, 0.0
        rate = float(metrics.tokens) / seconds
        utilization = model_flops_utilization(self.config, rate, dist.get_world_size())
        return {**record, "tokens_per_second": rate, "step_seconds": seconds, **utilization}

    def _on_gradient(self) -> None:
        for callback in self.callbacks:
            if looks_at_gradients(callback):
                with self.whereabouts.during(callback.doing):
                    callback.on_gradient(self)

    def _record(self, metrics: StepMetrics) -> Record:
        return {
            "step": self.state.step,
            "tokens": self.state.tokens,
            "loss": metrics.loss(),
            "lr": metrics.lr,
            "grad_norm": metrics.grad_norm(),
            "skipped": metrics.skipped,
            "skipped_steps": self.guard.skipped_steps,
        }

    def stop(self) -> None:
        """Take no step after this one. To be called on all ranks alike, as from :meth:`Callback.hear`."""
        self._stopping = True

    def fail(self, problem: Problem, kind: str) -> None:
        """End the run after this step for a reason that is nobody's mistake. Every rank calls it after the same step.

        What happens at the end of a run happens still: its state is saved. ``kind`` is a word for programs.
        """
        self.failure, self.failure_kind, self._stopping = problem, kind, True

    def notify_event(self, event: Record) -> None:
        """Tell this rank's callbacks of something that does not happen every step; no collectives."""
        for callback in self.callbacks:
            callback.on_event(self, event)

    def notify_evaluation(self, record: Record) -> None:
        """Tell every callback of an evaluation."""
        for callback in self.callbacks:
            callback.on_evaluate(self, record)

    def notify_telemetry(self, record: Record) -> None:
        """Tell every callback of what was measured inside the model."""
        for callback in self.callbacks:
            callback.on_telemetry(self, record)

    def snapshot(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, optimizer and random numbers: plain values, equal on all ranks."""
        callbacks = {type(callback).__name__: callback.state() for callback in self.callbacks}
        state = {"step": self.state.step, "samples": self.state.samples, "tokens": self.state.tokens}
        return {**state, "callbacks": callbacks}

    def restore(self, saved: CheckpointRecord, *, branches: bool = False) -> None:
        """Take a snapshot back. A callback that was not there when it was made begins anew.

        ``branches``: the snapshot is another run's, from which this one branches.
        """
        self.state = TrainState(saved.step, saved.samples, saved.tokens)
        for callback in self.callbacks:
            if (name := type(callback).__name__) in saved.callbacks:
                take = callback.branch if branches else callback.restore
                take(saved.callbacks[name])

    def peak_memory(self) -> int:
        """Most bytes any rank held so far: of GPU memory on GPUs, of the whole process on CPUs."""
        own = torch.cuda.max_memory_allocated() if on_gpu() else peak_memory()
        most = torch.tensor(own, dtype=torch.int64, device=device())
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)
