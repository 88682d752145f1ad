"""Learning rates as pure functions of the step, so that there is nothing to save and resuming is exact."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """Learning rate of a step, counted from 1 to ``train.steps``.

    Linear warm-up to the peak, then either schedule down to ``min_lr_ratio`` of it:

    * cosine: half a cosine over all steps after the warm-up (Loshchilov & Hutter, arXiv 1608.03983, without restarts).
    * wsd: constant, then a linear decay over the last ``decay_fraction`` of all steps (warmup-stable-decay,
      Hu et al., arXiv 2404.06395; linear decay as in Hagele et al., arXiv 2405.18392).
    """
    if step <= train.warmup_steps:
        return train.lr * step / train.warmup_steps
    floor = train.min_lr_ratio
    if train.schedule == "cosine":
        progress = (step - train.warmup_steps) / (train.steps - train.warmup_steps)
        return train.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    left = min(train.decay_steps, train.steps - step)
    return train.lr * (floor + (1 - floor) * left / train.decay_steps)
