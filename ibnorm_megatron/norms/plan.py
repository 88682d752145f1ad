"""What one call of the norm computes, apart from its tensors: the settings every implementation receives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .compression import Compression, get_compression

Scale = Literal["absolute", "relative"]
Form = Literal["unit_slope", "literal"]
Strength = Literal["fixed", "learnable", "scheduled"]


@dataclass(frozen=True)
class Plan:
    """The settings of one IBNorm call, checked once.

    Attributes:
        compression: the bounded compression f.
        lam: its strength lambda > 0 where that is a number, else 1; in units of x if ``relative`` is false, in units of
            the row's standard deviation otherwise.
        eps: added to the variance inside the root.
        relative: compress c / sqrt(mean(c^2) + eps) instead of c.
        gain: what f is multiplied by: 1 in the literal form, 1 / f'(0) in the unit-slope form.
        unit_slope: whether it is the unit-slope form.
        center: subtract the row's mean before and after compressing. False gives the RMSNorm-like sibling.
    """

    compression: Compression
    lam: float
    eps: float
    relative: bool
    gain: float
    unit_slope: bool
    center: bool

    @staticmethod
    def of(compression: str | Compression, lam: float, eps: float, scale: Scale, form: Form, center: bool) -> Plan:
        """Check the settings and bind them.

        Raises:
            ValueError: an unknown compression, scale or form, or a lambda or eps that is not a positive finite number.
        """
        found = compression if isinstance(compression, Compression) else get_compression(compression)
        for name, number in (("lam", lam), ("eps", eps)):
            if not (math.isfinite(number) and number > 0):
                raise ValueError(f"{name} is {number!r}: it must be a positive finite number")
        for name, value, known in (("scale", scale, get_args(Scale)), ("form", form, get_args(Form))):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: choose {' or '.join(known)}")
        gain = 1.0 / found.slope_at_zero(lam) if form == "unit_slope" else 1.0
        return Plan(found, float(lam), float(eps), scale == "relative", gain, form == "unit_slope", center)

    def compress(self, u: Tensor) -> Tensor:
        """g(u) = sign(u) * gain * f(|u|), elementwise; same shape as u."""
        size = self.compression.f(u.abs(), self.lam)
        return torch.copysign(size if self.gain == 1.0 else size * self.gain, u)

    def slope(self, u: Tensor) -> Tensor:
        """g'(u) = gain * f'(|u|), elementwise; f'(0) where u is 0."""
        slope = self.compression.slope(u.abs(), self.lam)
        return slope if self.gain == 1.0 else slope * self.gain


def rows_of(x: Tensor) -> Tensor:
    """x ``[..., d]`` as contiguous rows ``[n, d]`` in the type that statistics need: float64 stays, the rest is float32."""
    return wide(x.reshape(-1, x.shape[-1])).contiguous()


def wide(x: Tensor) -> Tensor:
    """x in the type that norms compute in: float64 stays, the rest is float32."""
    return x.to(accumulation_dtype(x))


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The type that statistics of x need: float64 for float64, float32 for the rest."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
