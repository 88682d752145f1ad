"""A plugin: a norm that goes wrong in some steps, on one rank or on all."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from ibnorm_megatron.norms import Norm, NormConfig, register_norm


class _Turned(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return torch.full_like(dy, torch.inf)


class FailingNorm(Norm):
    """x over its root mean square, but in steps ``first`` to ``last``."""

    def __init__(self, hidden_size: int, *, fault: str, first: int, last: int, rank: int, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.fault, self.first, self.last, self.rank = fault, first, last, rank
        self.fails = False
        self.weight = self.vector(1.0)

    def set_step(self, done: int, steps: int) -> None:
        own = self.rank < 0 or dist.get_rank() == self.rank
        self.fails = own and self.first <= done + 1 <= self.last

    def forward(self, x: Tensor) -> Tensor:
        x = _Turned.apply(x) if self.fails and self.fault == "gradient" else x
        y = x * (x.float().square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt().to(x.dtype) * self.weight
        if self.fails and self.fault == ("output" if self.training else "evaluation"):
            y = y / 0
        return y * 100 if self.fails and self.training and self.fault == "jump" else y


@register_norm("failing")
class FailingConfig(NormConfig):
    """Its options."""

    fault: Literal["output", "gradient", "jump", "evaluation"] = "output"
    first: int = Field(4)
    last: int = Field(1000)
    rank: int = Field(-1, description="-1: on every rank")

    def module_class(self) -> type[Norm]:
        return FailingNorm

    def num_params(self, width: int) -> int:
        return width
