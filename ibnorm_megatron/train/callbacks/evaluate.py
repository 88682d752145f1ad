"""Loss, perplexity and bits a byte on the validation split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ...data.loader import Loader
from ...errors import Problem
from ...parallel.cpu_compat import device
from ..step import inputs, own_share
from .average import WeightAverage
from .base import NOT_FINITE, Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer


class Evaluate(Callback):
    """Evaluate every ``interval`` steps (0: never in between) and after the last step. One whose last loss is not finite fails.

    Args:
        loader: of the validation split.
        token_bytes: bytes of text every token stands for, ``[vocab_size]``, so that bits a byte are exact for the tokens
            that were evaluated.
        interval: steps between evaluations.
        batches: global batches an evaluation takes at most.
        average: evaluated as well, if there is one: ``average_val_loss`` and so on.
    """

    doing = "evaluating"

    def __init__(
        self, loader: Loader, token_bytes: torch.Tensor, interval: int, batches: int, average: WeightAverage | None = None
    ) -> None:
        self._loader, self._token_bytes = loader, token_bytes
        self._interval, self._batches, self._average = interval, batches, average
        self._loss = 0.0  # the last that was found

    def after_step(self, trainer: Trainer) -> None:
        step, last = trainer.state.step, trainer.config.train.steps
        if step == last or (self._interval and step % self._interval == 0):
            found = self._evaluate(trainer)
            if self._average is not None:
                with self._average.in_place(trainer.engine):
                    found |= {f"average_{name}": value for name, value in self._evaluate(trainer).items()}
            self._loss = found["val_loss"]
            trainer.notify_evaluation({"step": step, **found})

    def on_end(self, trainer: Trainer) -> None:
        step = trainer.state.step
        if step == trainer.config.train.steps and not math.isfinite(self._loss) and trainer.failure is None:
            mend = "set a lower train.lr, and look into metrics.jsonl for where it began"
            where = f"the validation loss after step {step}"
            trainer.fail(Problem(where, str(self._loss), "the run has diverged", mend), NOT_FINITE)

    def state(self) -> Record:
        return {"val_loss": str(self._loss)}  # JSON has no nan

    def restore(self, state: Record) -> None:
        self._loss = float(state["val_loss"])

    def close(self) -> None:
        self._loader.close()

    def _evaluate(self, trainer: Trainer) -> Record:
        sums = torch.zeros(3, dtype=torch.float64)  # nats, tokens, bytes
        for whole in self._loader.one_pass(self._batches):
            trainer.whereabouts.moved()
            batches = [own_share(batch, trainer.groups) for batch in whole]
            sums[0] += trainer.engine.evaluate([inputs(batch) for batch in batches]).cpu()
            sums[1] += sum(batch.num_tokens for batch in batches)
            sums[2] += sum(float((self._token_bytes[batch.labels] * batch.loss_mask).sum()) for batch in batches)
        sums = (sums * trainer.groups.counts).to(device())
        dist.all_reduce(sums)
        nats, tokens, text_bytes = sums.tolist()
        loss = nats / tokens
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(loss) if loss < 700 else math.inf,
            "val_bits_per_byte": nats / math.log(2) / text_bytes,
            "val_tokens": int(tokens),
        }
