"""One rank of a world that serves many layouts, one after another."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..config import Config, load_config
from ..parallel.cpu_compat import on_gpu
from ..parallel.groups import World, process_group
from ..quiet import quiet
from .bounds import derive
from .compare import compare, same
from .layouts import Case
from .measure import Measured, measure
from .messages import Finding, Job, Served


def serve(
    rank: int, size: int, connection: Connection, folder: Path, timeout: float, initializer: str | None, use_gpu: bool
) -> None:
    """Join a world of ``size`` ranks, answer every job that comes with None (ranks but the first), :class:`Served`, or the
    text of an error, and end on None or when nobody is there to ask.

    Args:
        rank: of this process.
        size: of the world.
        connection: to the parent. The first rank sends the port where the world meets, and the others get it.
        folder: for this rank's output: ``rank-N.log``, and where it stands when it is sent SIGUSR1: ``rank-N.stack``.
        timeout: seconds that a collective may wait.
        initializer: ``module:function`` of a context manager to work in; for tests, which break something in it.
        use_gpu: false hides GPUs.
    """
    log = open(folder / f"rank-{rank}.log", "w")  # noqa: SIM115 (as long as the process lives)
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    stack = open(folder / f"rank-{rank}.stack", "w")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if not use_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    quiet()
    torch.set_num_threads(1)
    try:
        store = _meet(rank, size, connection, timeout)
        with process_group(World(rank, size, rank), timedelta(seconds=timeout), store), _initialized(initializer):
            connection.send(None)
            while (job := connection.recv()) is not None:
                connection.send(_answer(job, rank, size))
    except EOFError:
        pass
    except Exception as error:
        connection.send(_told(error))


def _meet(rank: int, size: int, connection: Connection, timeout: float) -> dist.Store:
    wait = timedelta(seconds=timeout)
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False, timeout=wait)
        connection.send(store.port)
        return store
    return dist.TCPStore("127.0.0.1", connection.recv(), size, is_master=False, timeout=wait)


def _initialized(initializer: str | None) -> AbstractContextManager[Any]:
    if initializer is None:
        return nullcontext()
    module, _, function = initializer.partition(":")
    manager: Callable[[], AbstractContextManager[Any]] = getattr(importlib.import_module(module), function)
    return manager()


def _told(error: BaseException) -> str:
    """The error in one line, where it was raised, and the whole traceback below."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    first = f"{type(error).__name__}: {str(error).partition(chr(10))[0]} ({Path(frame.filename).name}:{frame.lineno})"
    return f"{first}\n{''.join(traceback.format_exception(error))}"


def _answer(job: Job, rank: int, size: int) -> Served | str | None:
    started = time.monotonic()
    try:
        config = load_config(job.base, job.overrides, world_size=size)
        measured = measure(config, choose_eps=job.case is None, documents=job.documents)
        findings: list[Finding] = []
        if job.case is None:
            if rank == 0:
                torch.save(asdict(measured), job.reference)
        else:
            again = _again(config, job, measured)
            if rank == 0:
                reference = Measured(**torch.load(job.reference, weights_only=True))
                findings = list(_findings(reference, measured, again, config, job.case))
    except Exception as error:
        return _told(error)
    if rank > 0:
        return None
    device = torch.cuda.get_device_name() if on_gpu() else "CPU"
    norms = [float(norm) for norm in measured.grad_norms]
    return Served(time.monotonic() - started, measured.losses, norms, findings, measured.adam_eps, device)


def _again(config: Config, job: Job, measured: Measured) -> Measured | None:
    """The layout a second time where it draws random numbers, and without recomputing: both have to draw the same."""
    if not measured.random:
        return None
    layout = config.parallel.model_copy(update={"recompute": "none"})
    return measure(config.model_copy(update={"parallel": layout}), documents=job.documents)


def _findings(reference: Measured, measured: Measured, again: Measured | None, config: Config, case: Case) -> list[Finding]:
    train = config.train
    bounds = derive(
        config.model,
        case,
        train.precision,
        sequence_length=train.sequence_length,
        sequences=train.global_batch_size,
        labels=min(reference.labels),
    )
    if again is None:
        return list(compare(reference, measured, bounds, train))
    at_start = replace(reference, losses=[], gradients=[], final=reference.initial)
    unmoved = replace(measured, losses=[], grad_norms=[], gradients=[], final=measured.initial, skipped=[])
    findings = [_dropped(reference, measured, config.model.dropout)] if config.model.dropout > 0 else []
    findings += compare(at_start, unmoved, bounds, train)
    # A GPU's attention adds up its backward pass in no fixed order.
    findings += same(measured, again, "when it is run again", bounds if on_gpu() else None)
    return findings


def _dropped(reference: Measured, measured: Measured, share: float) -> Finding:
    """Dropping a share p of a tensor changes it by sqrt(p / (1 - p)) of its norm: some gradient has to show half of that."""
    least = 0.5 * (share / (1 - share)) ** 0.5
    moved = max(
        float((measured.gradients[0][name] - gradient).norm() / gradient.norm())
        for name, gradient in reference.gradients[0].items()
        if gradient.norm() > 0
    )
    return Finding("dropout that drops nothing", "", "", 0.0 if moved >= least else float("inf"), 0.0)
