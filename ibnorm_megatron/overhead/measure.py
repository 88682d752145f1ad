"""Train the models of several norms side by side for a few steps, and measure what their norms take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ..config import Config
from ..data.prepared import Prepared
from ..model.compiled import uncompiled
from ..norms.base import Norm
from ..parallel.cpu_compat import on_gpu
from ..parallel.groups import Groups
from ..train.callbacks.norms import tell_norms
from ..train.run import build_trainer
from .counting import Counted, count
from .spans import Pass, norm_spans

#: Steps of every model before anything is measured, and under the profiler.
WARM_UP, PROFILED = 2, 3

_STEP, _PASSES = "ibnorm: step", ("ibnorm: forward", "ibnorm: backward")


@dataclass(frozen=True)
class Share:
    """Shares of a step's time that its norms take, under the profiler."""

    forward: float
    backward: float


@dataclass
class Measured:
    """What was measured of one norm's model.

    Attributes:
        counted: in one step.
        share: in :data:`PROFILED` steps together.
        seconds: of every step that was timed.
    """

    counted: Counted
    share: Share
    seconds: list[float] = field(default_factory=list)


def measure(
    configs: Sequence[Config], prepared: Prepared, groups: Groups, rounds: int, done: Callable[[], None]
) -> list[Measured]:
    """Train the configs' models side by side; in every round each takes one step, another one first than in the last.

    Args:
        configs: differ in their norms.
        prepared: data that all of them train on.
        groups: of one process.
        rounds: steps of each that are timed.
        done: called after every step of any.
    """
    arms = [_Arm(config, prepared, groups, done) for config in configs]
    try:
        for arm in arms:
            for _ in range(WARM_UP):
                arm.step()
        found = [Measured(arm.counted(), arm.share()) for arm in arms]
        for number in range(rounds):
            for turn in range(len(arms)):
                which = (number + turn) % len(arms)
                found[which].seconds.append(arms[which].step())
    finally:
        for arm in arms:
            arm.close()
    return found


class _Arm:
    """One model in training, with the steps that a run takes: data, forward, backward, clipping, optimizer."""

    def __init__(self, config: Config, prepared: Prepared, groups: Groups, done: Callable[[], None]) -> None:
        self._config, self._done = config, done
        self._trainer = build_trainer(config, prepared, groups)
        tell_norms(self._trainer.engine.module, 0, config.train.steps)

    def step(self) -> float:
        """Take the next step; its seconds, without those of making its batches."""
        trainer, steps = self._trainer, self._config.train.steps
        batches = trainer.loader.batches(trainer.state.samples)
        number = min(trainer.state.step + 1, steps)  # a short run's schedule knows no later one
        _synchronize()
        started = clock()
        metrics, _ = trainer.take_step(number, batches)
        _synchronize()
        seconds = clock() - started
        trainer.state.advance(self._config.train.global_batch_size, metrics.tokens)
        tell_norms(trainer.engine.module, min(trainer.state.step, steps), steps)
        self._done()
        return seconds

    def counted(self) -> Counted:
        """Count in the next step."""
        with self._attributable():
            return count(self._trainer.engine.module, self.step)

    def share(self) -> Share:
        """Take steps under the profiler."""
        ranges: list[Any] = []

        def begin(norm: Norm, name: Pass) -> None:
            ranges.append(record_function(f"ibnorm: {name}"))
            ranges[-1].__enter__()

        def end(norm: Norm, name: Pass) -> None:
            ranges.pop().__exit__(None, None, None)

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu() else [])]
        with (
            self._attributable(),
            norm_spans(self._trainer.engine.module, begin, end),
            profile(activities=activities) as profiler,
        ):
            for _ in range(PROFILED):
                with record_function(_STEP):
                    self.step()
        return _share(profiler.events())

    @contextmanager
    def _attributable(self) -> Iterator[None]:
        with nullcontext() if self._config.model.compile == "none" else uncompiled():
            yield

    def close(self) -> None:
        """Let go of threads and of the engine."""
        self._trainer.loader.close()
        self._trainer.engine.close()


def _share(events: Iterable[Any]) -> Share:
    """From the profiler's events. On a GPU times are its kernels', by the call on the host that launched them."""
    times = dict.fromkeys((_STEP, *_PASSES), 0.0)
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:  # it repeats what is counted with the call
            continue
        if on_gpu():
            times[_STEP] += event.self_device_time_total  # backward nodes run in another thread than the step
        if event.name in _PASSES or (event.name == _STEP and not on_gpu()):
            times[event.name] += event.device_time_total if on_gpu() else event.cpu_time_total
    return Share(*(times[name] / times[_STEP] for name in _PASSES))


def computes_alone() -> bool:
    """Whether one thread of the CPU does all the work, so that its own time is that of an idle machine."""
    return not on_gpu() and torch.get_num_threads() == 1


def clock() -> float:
    """Seconds: of this process's computing where :func:`computes_alone`, else of the clock on the wall."""
    return time.process_time() if computes_alone() else time.perf_counter()


def _synchronize() -> None:
    if on_gpu():
        torch.cuda.synchronize()
