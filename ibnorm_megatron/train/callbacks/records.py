"""Where records go: metrics.jsonl, telemetry.jsonl and summary.json always, and TensorBoard on request."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

from .base import Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer


class JsonLines(Callback):
    """metrics.jsonl and telemetry.jsonl: one object a line, floats in full precision."""

    def on_record(self, trainer: Trainer, record: Record) -> None:
        if trainer.groups.first:
            trainer.folder.append_metrics(record)

    def on_evaluate(self, trainer: Trainer, record: Record) -> None:
        if trainer.groups.first:
            trainer.folder.append_metrics(record)

    def on_event(self, trainer: Trainer, event: Record) -> None:
        if trainer.groups.first:
            trainer.folder.append_metrics(event)

    def on_telemetry(self, trainer: Trainer, record: Record) -> None:
        if trainer.groups.first:
            trainer.folder.append_telemetry(record)


class Summary(Callback):
    """summary.json: how the run ended, from its metrics (of all its starts) and from what other callbacks measured.

    loss and val_* are the last ones, step_seconds the median, norm_share is norm_seconds / step_seconds. grad_norm_median and
    grad_norm_max are over recorded steps with a finite one, spikes counts the steps that jumped (the guard's events), and
    skipped_steps all that were left out. A run that failed has a ``failure``, its kind in a word, and a ``reason``, the
    sentence. Of a run that branches from another all this is its own, but for tokens.
    """

    def __init__(self) -> None:
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def on_end(self, trainer: Trainer) -> None:
        if not trainer.groups.first:
            return
        summary, config = trainer.summary, trainer.config
        records = trainer.folder.read_metrics()
        steps = [record for record in records if "step_seconds" in record]
        norms = [record["grad_norm"] for record in steps if record["grad_norm"] is not None]
        evaluations = [record for record in records if "val_loss" in record]
        if steps:
            step = median(record["step_seconds"] for record in steps)
            summary.update(loss=steps[-1]["loss"], step_seconds=step, tokens_per_second=config.train.tokens_per_step() / step)
            if "norm_seconds" in summary:
                summary["norm_share"] = summary["norm_seconds"] / step
        if norms:
            summary.update(grad_norm_median=median(norms), grad_norm_max=max(norms))
        if trainer.failure:
            summary.update(failure=trainer.failure_kind, reason=str(trainer.failure))
        if evaluations:
            summary.update({key: value for key, value in evaluations[-1].items() if key != "step"})
        ended = "complete" if trainer.state.step == config.train.steps else "stopped"
        summary.update(
            status="failed" if trainer.failure else ended,
            norm=config.model.norm_label(),
            step=trainer.state.step,
            tokens=trainer.state.tokens,
            spikes=len({record["step"] for record in records if record.get("event") == "spike"}),
            skipped_steps=trainer.guard.skipped_steps,
            unigram_entropy=trainer.prepared.unigram_entropy(),
            seconds=self._seconds(),
        )
        trainer.folder.write_summary(summary)

    def state(self) -> Record:
        return {"seconds": self._seconds()}

    def restore(self, state: Record) -> None:
        self._seconds_before = state["seconds"]

    def branch(self, state: Record) -> None:
        """Seconds are counted from here."""

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


class TensorBoard(Callback):
    """Event files in the run folder's ``tensorboard``."""

    def __init__(self) -> None:
        self._writer: Any = None

    def on_start(self, trainer: Trainer) -> None:
        if trainer.groups.first:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(trainer.folder.path / "tensorboard"), purge_step=trainer.state.step + 1)

    def on_record(self, trainer: Trainer, record: Record) -> None:
        self._write("train", record)

    def on_evaluate(self, trainer: Trainer, record: Record) -> None:
        self._write("validation", record)

    def on_telemetry(self, trainer: Trainer, record: Record) -> None:
        self._write("telemetry", flat(record))

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def _write(self, prefix: str, record: Record) -> None:
        if self._writer:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(f"{prefix}/{name}", value, record["step"])


def flat(record: Record) -> Record:
    """Telemetry as single numbers: ``grad_norm/mlp``, ``layers.0.attn_in/kurtosis``. What a site does not have is left out."""
    parts = {f"grad_norm/{part}": value for part, value in record["grad_norm"].items()}
    sites = {f"{site}/{name}": value for site, figures in record["sites"].items() for name, value in figures.items()}
    return {"step": record["step"], **{name: value for name, value in {**parts, **sites}.items() if value is not None}}
