"""Loss, perplexity and bits a byte on the validation split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ...data.dataset import Loader
from ...parallel.cpu_compat import device
from .base import Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer


class Evaluate(Callback):
    """Evaluate every ``interval`` steps (0: never in between) and after the last step.

    Args:
        loader: of the validation split.
        token_bytes: bytes of text every token stands for, ``[vocab_size]``, so that bits a byte are exact for the tokens
            that were evaluated.
        interval: steps between evaluations.
        batches: global batches an evaluation takes at most.
    """

    def __init__(self, loader: Loader, token_bytes: torch.Tensor, interval: int, batches: int) -> None:
        self._loader, self._token_bytes = loader, token_bytes
        self._interval, self._batches = interval, min(batches, loader.passes())

    def after_step(self, trainer: Trainer, record: Record) -> None:
        step, last = record["step"], trainer.config.train.steps
        if step == last or (self._interval and step % self._interval == 0):
            trainer.notify_evaluation({"step": step, **self._evaluate(trainer)})

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer) -> Record:
        sums = torch.zeros(3, dtype=torch.float64, device=device())  # nats, tokens, bytes
        trainer.engine.deepspeed.eval()
        for step in range(self._batches):
            for batch in self._loader.once(step):
                counted = self._token_bytes[batch.labels] * batch.loss_mask
                on_device = batch.to(device())
                sums[0] += trainer.engine(**vars(on_device)).double()
                sums[1] += batch.num_tokens
                sums[2] += float(counted.sum())
        trainer.engine.deepspeed.train()
        dist.all_reduce(sums, group=trainer.groups.data)
        nats, tokens, text_bytes = sums.tolist()
        loss = nats / tokens
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(loss) if loss < 700 else math.inf,
            "val_bits_per_byte": nats / math.log(2) / text_bytes,
            "val_tokens": int(tokens),
        }
