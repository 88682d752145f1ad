"""A plugin whose norms and compressions each break one promise; the name says which."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ibnorm_megatron.norms import Compression, Norm, NormConfig, register_compression, register_norm
from ibnorm_megatron.norms.compression import Odd


def _compression(name: str, **changed: Any) -> None:
    right = {
        "f": lambda r, lam: (r / lam).tanh(),
        "slope": lambda r, lam: (1 - (r / lam).tanh().square()) / lam,
        "slope_at_zero": lambda lam: 1 / lam,
        "bounded": "it is not, or something else is wrong",
    }
    register_compression(Compression(name=name, **{**right, **changed}))


_compression("falling", f=lambda r, lam: r / (1 + (r / lam).square()) / lam)
_compression("unbounded", f=lambda r, lam: (r / lam).square())
_compression("wrong_slope", slope=lambda r, lam: (1 - (r / lam).tanh().square()) / lam * 1.001)
_compression("wrong_slope_at_zero", slope_at_zero=lambda lam: (1 if lam < 3 else 2) / lam)
_compression("wrong_odd", odd=Odd(lambda v: (1.01 * v.tanh(), None), lambda dg, v, kept: dg * 1.01 * (1 - v.tanh().square())))
_compression("raising", f=lambda r, lam: r.no_such_method())
_compression("offset", f=lambda r, lam: (r / lam).tanh() + 1e-3)


class _Broken(Norm):
    """x over its root mean square, with one fault."""

    def __init__(self, hidden_size: int, *, fault: str, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.fault = fault
        self.weight = self.vector(1.0)
        if fault == "unmarked":
            self.weight.sequence_parallel = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "raises" or (self.fault == "raises_on_one_rank" and dist.is_initialized() and dist.get_rank() == 1):
            raise ValueError("it cannot be computed")
        wide = x if self.fault == "low_precision" else x.to(torch.promote_types(x.dtype, torch.float32))
        size = wide.square()
        if self.fault == "rows":
            size = size + 0 * wide.sum()
        if self.fault == "detached":
            size = size.detach()
        if self.fault == "nan_on_the_last_rank" and self.process_group is not None and dist.get_rank() == 1:
            wide = wide * float("nan")
        y = wide / (size.mean(-1, keepdim=True) + 1e-6).sqrt() * self.weight
        return y.to(x.dtype)


class _BrokenConfig(NormConfig):
    fault: str = ""

    def module_class(self) -> type[Norm]:
        return _Broken

    def num_params(self, width: int) -> int:
        return width + (self.fault == "miscounted")


register_norm("broken")(_BrokenConfig)


class _UnshardedConfig(_BrokenConfig):
    """The same norm without a fault, which says that it cannot take sharded columns."""

    sharded_columns = False


register_norm("unsharded")(_UnshardedConfig)


class _DemandingConfig(NormConfig):
    """A norm with an option that has no default."""

    power: float

    def num_params(self, width: int) -> int:
        return 0


register_norm("demanding")(_DemandingConfig)
