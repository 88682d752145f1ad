"""AdamW with weight decay on matrices only, and muP's learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..model.width import width_ratio
from .config import TrainConfig


def build_optimizer(module: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); parameters with one dimension (norms, biases) are not decayed.

    A group's ``lr_factor`` is what its learning rate is of the run's: below 1 for matrices that muP makes slower
    (``model.width``), whose weight decay is as much larger.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in (parameter for parameter in module.parameters() if parameter.requires_grad):
        groups.setdefault((parameter.dim() <= 1, width_ratio(parameter)), []).append(parameter)
    return torch.optim.AdamW(
        [_group(groups[key], key[1], 0.0 if key[0] else train.weight_decay, train.lr) for key in sorted(groups)],
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.adam_eps,
        fused=True,
    )


def _group(parameters: list[nn.Parameter], ratio: float, weight_decay: float, lr: float) -> dict[str, Any]:
    return {"params": parameters, "weight_decay": weight_decay * ratio, "lr": lr / ratio, "lr_factor": 1 / ratio}
