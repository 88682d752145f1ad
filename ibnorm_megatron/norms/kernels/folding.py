"""What a kernel is told of a plan: which compression, and a handful of numbers with every constant folded in.

A constant factor on g changes nothing but eps, because the standardization divides it out. So a kernel works with
whatever multiple h of g is cheapest to evaluate, g = amplitude * h, and standardizes h with eps / amplitude^2: ln 2 of a
base-2 logarithm, the gain of the unit-slope form and the 1 / lambda of ``linear`` all vanish into one number per launch.

With v = |c| / lambda (or |u| / lambda for the relative scale), per element:

    kind       h, exact         h, fast                 slope s           dh/dv = chain * s
    identity   c                c                       1                 chain 1
    log        ln(1 + v)        lg2(1 + v)              1 / (1 + v)       1, fast log2(e)
    tanh       tanh(v)          tanh(v) / 2             e / (1 + e)^2     4, fast 2;  e = exp(-2 v)
    softsign   v / (1 + v)      v / (1 + v)             1 / (1 + v)^2     1
    asinh      ln(v + sqrt(1 + v^2))   lg2(...)         1 / sqrt(1 + v^2) 1, fast log2(e)

Nothing here imports Triton or torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..plan import Plan

IDENTITY, LOG, TANH, SOFTSIGN, ASINH = range(5)

#: The compressions that have a kernel. ``linear`` is the identity with another eps.
KINDS = {"identity": IDENTITY, "linear": IDENTITY, "log": LOG, "tanh": TANH, "softsign": SOFTSIGN, "asinh": ASINH}

_FAST_AMPLITUDE = {LOG: math.log(2), TANH: 2.0, ASINH: math.log(2)}
_FAST_CHAIN = {LOG: 1 / math.log(2), TANH: 2.0, ASINH: 1 / math.log(2)}
_EXACT_CHAIN = {TANH: 4.0}


class Settings(NamedTuple):
    """A :class:`Plan` in plain numbers, which is what the schema of a custom op can carry; the fields mean the same."""

    compression: str
    lam: float
    gain: float
    eps: float
    relative: bool
    center: bool

    @staticmethod
    def of(plan: Plan) -> Settings:
        """The settings of a plan whose compression has a kernel."""
        return Settings(plan.compression.name, plan.lam, plan.gain, plan.eps, plan.relative, plan.center)


@dataclass(frozen=True)
class Folded:
    """The numbers of one launch.

    Attributes:
        kind: one of the values of :data:`KINDS`.
        inv_lam: 1 / lambda; 1 for the identity.
        chain: dh/du = chain * inv_lam * slope.
        eps_h: eps / amplitude^2, what is added to the variance of h.
    """

    kind: int
    inv_lam: float
    chain: float
    eps_h: float


@lru_cache(maxsize=256)
def fold(settings: Settings, fast: bool) -> Folded:
    """Fold the gain, lambda and the kernel's own constants together, for the fast forms or the exact ones.

    h is then of the size of |c| / lambda, and its square must not underflow float32: lambda may be 1e15 times the deviations.
    """
    kind = KINDS[settings.compression]
    amplitude = settings.gain / settings.lam if settings.compression == "linear" else settings.gain
    chain = _EXACT_CHAIN.get(kind, 1.0)
    if fast:
        amplitude *= _FAST_AMPLITUDE.get(kind, 1.0)
        chain = _FAST_CHAIN.get(kind, 1.0)
    return Folded(kind, 1.0 if kind == IDENTITY else 1.0 / settings.lam, chain, settings.eps / amplitude**2)


@dataclass(frozen=True)
class Slots:
    """Where the saved float32 statistics of a row lie in ``[count, rows]``; -1 for what is not saved.

    Slot 0 is the mean and slot 1 its low part, where they exist: a mean of 1e4 rounded to float32 is off by 5e-4, and
    an error of the mean is a first-order error of g. bf16 and fp16 rows need no low part, because an input with a mean
    that large holds no deviation as small.

    Attributes:
        scale: 1 / sqrt(mean(c^2) + eps) of the relative scale.
        mean_h: mean of h; zero by itself for the identity.
        rho: 1 / sqrt(var(h) + eps_h).
        count: how many there are; 4 bytes a row each.
    """

    scale: int
    mean_h: int
    rho: int
    count: int


@lru_cache(maxsize=256)
def slots(settings: Settings, fast: bool) -> Slots:
    """The slots that a kernel with these settings saves."""
    means = (1 if fast else 2) if settings.center else 0
    mean_h = means + settings.relative if settings.center and KINDS[settings.compression] != IDENTITY else -1
    rho = means + settings.relative + (mean_h >= 0)
    return Slots(means if settings.relative else -1, mean_h, rho, rho + 1)
