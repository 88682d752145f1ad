"""The training loop. Everything that is not a step of the model is a callback."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..config import Config
from ..data.dataset import Batch, Loader
from ..data.manifest import Manifest
from ..parallel.cpu_compat import device, on_gpu
from ..parallel.engine import Engine
from ..parallel.groups import Groups
from .callbacks.base import Callback, Record
from .flops import model_flops_utilization
from .run_folder import RunFolder
from .schedule import learning_rate


@dataclass
class TrainState:
    """Where a run is: optimizer steps taken, and labels they saw."""

    step: int = 0
    tokens: int = 0


class Trainer:
    """One run on this rank. Attributes are what callbacks may look at; ``summary`` is what they may add to."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        groups: Groups,
        engine: Engine,
        loader: Loader,
        folder: RunFolder,
        callbacks: Sequence[Callback],
    ) -> None:
        self.config, self.manifest, self.groups, self.engine, self.folder = config, manifest, groups, engine, folder
        self.state = TrainState()
        self.summary: Record = {}
        self._loader, self.callbacks = loader, callbacks
        self._stop_requested = False
        self._stopping = False

    def run(self) -> None:
        """Train to the last step, or until a stop is requested."""
        with ExitStack() as closing:
            for callback in self.callbacks:
                closing.callback(callback.close)
                callback.on_start(self)
            while self.state.step < self.config.train.steps and not self._stopping:
                record = self._step()
                for callback in self.callbacks:
                    callback.after_step(self, record)
            self.summary["peak_memory_bytes"] = self.peak_memory()  # of training, before any callback measures something
            for callback in self.callbacks:
                callback.on_end(self)

    def _step(self) -> Record:
        started = time.perf_counter()
        step = self.state.step + 1
        batches = [batch.to(device()) for batch in self._loader.step(self.state.step)]
        tokens = self._agree_on(batches)
        # DeepSpeed averages over micro-batches and data-parallel ranks; undoing that leaves a sum over all tokens of the
        # step, so that neither their number nor an uneven mask weighs one token more than another.
        scale = len(batches) * self.groups.data_size / tokens
        lr = learning_rate(self.config.train, step)
        self.engine.set_learning_rate(lr)
        nats = torch.zeros((), dtype=torch.float64, device=device())
        for batch in batches:
            loss = self.engine(**vars(batch))
            self.engine.backward(loss * scale)
            nats += loss.detach()
        result = self.engine.step()
        dist.all_reduce(nats, group=self.groups.data)
        self.state = TrainState(step, self.state.tokens + tokens)
        seconds = time.perf_counter() - started
        return {
            "step": step,
            "tokens": self.state.tokens,
            "loss": float(nats) / tokens,
            "lr": lr,
            "grad_norm": result.grad_norm,
            "skipped": result.skipped,
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds,
            **model_flops_utilization(self.config, tokens / seconds, dist.get_world_size()),
        }

    def _agree_on(self, batches: list[Batch]) -> int:
        """Labels that count in this step over all ranks; the same message tells whether any rank was asked to stop."""
        counts = [sum(batch.num_tokens for batch in batches), float(self._stop_requested)]
        mine = torch.tensor(counts, dtype=torch.float64, device=device())
        dist.all_reduce(mine)
        copies = dist.get_world_size() // self.groups.data_size  # ranks that hold the same batch
        self._stopping = bool(mine[1] > 0)
        return round(float(mine[0])) // copies

    def request_stop(self) -> None:
        """Ask all ranks to stop after a step; safe to call from a signal handler."""
        self._stop_requested = True

    def notify_evaluation(self, record: Record) -> None:
        """Tell every callback of an evaluation."""
        for callback in self.callbacks:
            callback.on_evaluate(self, record)

    def snapshot(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, optimizer and random numbers: plain values, equal on all ranks."""
        callbacks = {type(callback).__name__: callback.state() for callback in self.callbacks}
        return {**asdict(self.state), "callbacks": callbacks}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Take a snapshot back. A callback that was not there when it was made begins anew."""
        self.state = TrainState(snapshot["step"], snapshot["tokens"])
        for callback in self.callbacks:
            if (name := type(callback).__name__) in snapshot["callbacks"]:
                callback.restore(snapshot["callbacks"][name])

    def peak_memory(self) -> int:
        """Most bytes any rank held so far: of GPU memory on GPUs, of the whole process on CPUs."""
        own = torch.cuda.max_memory_allocated() if on_gpu() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        most = torch.tensor(own, dtype=torch.int64, device=device())
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)
