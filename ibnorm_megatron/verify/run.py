"""Verify a config's layouts against one process: check everything, run the references, run the layouts, report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import Config, load_config, parse_config
from ..errors import Problem, raise_if_any
from .layouts import DEFAULT_LAYOUTS, Case, parse_layout
from .messages import Job, Served
from .report import Report, Row
from .shrink import base_values
from .world import World, WorldFailed

#: A CPU with more ranks than this is a mistake; GPUs may be as many as there are.
_MOST_PROCESSES = 16


@dataclass(frozen=True)
class Options:
    """What the command line says beside the config.

    Attributes:
        layouts: names; None for :data:`.layouts.DEFAULT_LAYOUTS`, of which those are left out that the model cannot have.
        steps: optimizer steps to compare.
        full: leave the model as large as it is.
        timeout: seconds that a layout may take before it counts as hanging.
        initializer: what the layouts' ranks, and not the reference's, work in; see :func:`.worker.serve`.
    """

    layouts: tuple[str, ...] | None = None
    steps: int = 3
    full: bool = False
    timeout: float = 120.0
    initializer: str | None = None


@dataclass(frozen=True)
class _Plan:
    """What will be run: the base config's values, the cases, and those left out, each with its reason."""

    base: dict[str, Any]
    notes: list[str]
    cases: list[Case]
    left_out: dict[str, str]


def verify(path: str, overrides: Sequence[str], options: Options, on_row: Callable[[Row], None] = lambda row: None) -> Report:
    """Run the model of a config in every layout and compare it with one process.

    Args:
        path: the config's file.
        overrides: of the config.
        options: what to run.
        on_row: told of every layout that is done.

    Raises:
        UserError: everything that cannot work, at once, before anything is started.
    """
    started = time.monotonic()
    config = load_config(path, overrides)
    with tempfile.TemporaryDirectory(prefix="ibnorm-verify-") as name:
        folder = Path(name)
        plan = _plan(config, options, folder)
        gpus = _gpus()
        use_gpu = gpus >= max(case.processes for case in plan.cases)
        if gpus and not use_gpu:
            plan.notes.append(f"{gpus} GPUs are fewer than the layouts' ranks: everything runs on the CPU")
        rows: list[Row] = []
        with _Worlds(folder, options, use_gpu) as worlds:
            for row in _serve(plan, folder, worlds):
                rows.append(row)
                on_row(row)
    return Report(
        path=path,
        overrides=list(overrides),
        config=plan.base,
        notes=plan.notes,
        steps=options.steps,
        rows=sorted(rows, key=lambda row: [case.name for case in plan.cases].index(row.name)),
        left_out=plan.left_out,
        seconds=time.monotonic() - started,
    )


def _plan(config: Config, options: Options, folder: Path) -> _Plan:
    """Read the names, shrink the model, and let the config's own checks look at every layout."""
    names = list(dict.fromkeys(DEFAULT_LAYOUTS if options.layouts is None else options.layouts))
    read = [parse_layout(name, config) for name in names]
    raise_if_any(problem for _, found in read for problem in found)
    cases = [case for case, _ in read]
    large = [case for case in cases if case.processes > max(_MOST_PROCESSES, _gpus())]
    raise_if_any(
        Problem("the layout", repr(case.name), f"it needs {case.processes} processes", "name a smaller one") for case in large
    )
    left_out: dict[str, str] = {}
    while True:  # again without those that are left out: they have no say in what the model is shrunk to
        base, notes = base_values(config, cases, options.steps, full=options.full)
        path = folder / "base.yaml"
        path.write_text(yaml.safe_dump(base, sort_keys=False))
        refused = {case.name: found for case in cases if (found := _problems(case, path, base))}
        if options.layouts is not None or len(refused) == len(cases):
            raise_if_any(_named(name, problem) for name, found in refused.items() for problem in found)
        if not refused:
            return _Plan(base, notes, cases, left_out)
        left_out |= {name: str(found[0]) for name, found in refused.items()}
        cases = [case for case in cases if case.name not in refused]


def _problems(case: Case, base: Path, values: dict[str, Any]) -> list[Problem]:
    settings = [*case.for_batch(values["train"]["global_batch_size"]), *case.variant]
    return parse_config(base, settings, world_size=case.processes)[1]


def _named(layout: str, problem: Problem) -> Problem:
    return Problem(f"in the layout {layout}, {problem.where}", problem.value, problem.why, problem.mend)


def _gpus() -> int:
    """GPUs of this machine. Without a driver's device file there are none, and torch takes seconds to say so."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return 0
    import torch

    return torch.cuda.device_count()


class _Worlds:
    """One world for the references and one for each number of ranks, each started again after a failure."""

    def __init__(self, folder: Path, options: Options, use_gpu: bool) -> None:
        self._folder, self._options, self._use_gpu = folder, options, use_gpu
        self._worlds: dict[int, World] = {}
        self._started = 0

    def __enter__(self) -> _Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        for world in self._worlds.values():
            world.kill()

    def start(self, size: int) -> None:
        """Have a world of this size; 0 stands for the one process of the references."""
        if size not in self._worlds:
            self._started += 1
            initializer = self._options.initializer if size else None
            folder = self._folder / f"world-{self._started}"
            self._worlds[size] = World(max(1, size), folder, self._options.timeout, initializer, self._use_gpu)

    def run(self, size: int, job: Job) -> Served:
        """Let a world of this size do a job.

        Raises:
            WorldFailed: it could not.
        """
        self.start(size)
        try:
            return self._worlds[size].run(job)
        except WorldFailed:
            del self._worlds[size]
            raise

    def close(self, size: int) -> None:
        """Let a world go that is not needed any more, and its memory with it."""
        if size in self._worlds:
            self._worlds.pop(size).close()


def _serve(plan: _Plan, folder: Path, worlds: _Worlds) -> Iterator[Row]:
    """References first; then layouts by their number of ranks, so that a world is started once."""
    sizes = sorted({case.processes for case in plan.cases})
    for size in (0, *sizes):
        worlds.start(size)  # they get ready while others work
    base, batch = folder / "base.yaml", plan.base["train"]["global_batch_size"]
    references: dict[tuple[tuple[str, ...], bool], tuple[Path, Served] | WorldFailed] = {}
    for variant, documents in dict.fromkeys((case.variant, case.documents) for case in plan.cases):
        path = folder / f"reference-{len(references)}.pt"
        job = Job(base, ("parallel.zero_stage=0", *variant), path, None, documents)
        try:
            references[variant, documents] = (path, worlds.run(0, job))
        except WorldFailed as failure:
            references[variant, documents] = failure
    worlds.close(0)
    for size in sizes:
        for case in (case for case in plan.cases if case.processes == size):
            reference = references[case.variant, case.documents]
            if isinstance(reference, WorldFailed):
                yield Row.failed(case, f"the reference failed: {reference.reason}", reference.details)
                continue
            path, of_reference = reference
            settings = (*case.for_batch(batch), *case.variant, f"train.adam_eps={of_reference.adam_eps!r}")
            began = time.monotonic()
            try:
                served = worlds.run(size, Job(base, settings, path, case, case.documents))
            except WorldFailed as failure:
                yield Row.failed(case, failure.reason, failure.details, time.monotonic() - began)
            else:
                yield Row.of(case, settings, served)
        worlds.close(size)
