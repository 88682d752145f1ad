"""The bijection audit: what an estimator says before and after a map that loses nothing.

An injective map changes no mutual information. So whatever an estimator changes by, where only such a map was applied, is the
estimator's and not the representation's, and a difference of that size between two models is evidence of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .estimator import Estimator, measure
from .measure import Measure
from .observations import CHUNK, Matrix, Observations, Rows
from .tradeoff import information_bottleneck


@dataclass(frozen=True)
class Audited:
    """One setting of one estimator.

    Attributes:
        before: of the activations as they are.
        after: of the same activations behind the map.
        bijection: its name.
    """

    before: Measure
    after: Measure
    bijection: str

    @property
    def change(self) -> float:
        """after - before; of information itself it would be 0."""
        return self.after.value - self.before.value


def audit(
    estimator: Estimator,
    data: Observations,
    bijection: Callable[[Tensor], Tensor],
    name: str,
    seed: int = 0,
    *,
    anywhere: bool = False,
) -> tuple[Audited, ...]:
    """An estimator before and after a bijection of T, with the same seed: the same splits, noise and permutations.

    Args:
        bijection: of rows ``[m, d]``, row by row. IBNorm without gamma and beta is one of LayerNorm's rows before gamma and
            beta, up to rounding: the pre-image of z is the only g^-1(s z + m) of mean 0 and variance 1, since its variance
            grows with s (docs/information.md).
    """
    changed = mapped(data, bijection)
    pairs = zip(
        measure(estimator, data, seed, anywhere=anywhere), measure(estimator, changed, seed, anywhere=anywhere), strict=True
    )
    return tuple(Audited(before, after, name) for before, after in pairs)


def audit_bottleneck(of_y: Audited, of_x: Audited, beta: float) -> tuple[float, float]:
    """The IB value before and after, for one beta of a curve."""
    before, after = (
        information_bottleneck(getattr(of_y, when), getattr(of_x, when), [beta])[0].value for when in ("before", "after")
    )
    return before, after


def mapped(data: Observations, bijection: Callable[[Tensor], Tensor]) -> Observations:
    """The observations with T behind a map, in float32."""
    return replace(data, t=_apply(data.t, bijection))


def _apply(matrix: Matrix, bijection: Callable[[Tensor], Tensor]) -> Tensor:
    def parts() -> Iterator[Tensor]:
        rows = Rows(matrix)
        for _, part in rows.chunks():
            yield bijection(part)

    assert matrix.shape[1] <= CHUNK
    with torch.no_grad():
        return torch.cat(list(parts()))
