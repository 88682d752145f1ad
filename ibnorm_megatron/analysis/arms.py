"""From single runs to arms: means over seeds, and differences from the first arm paired by seed, with Student's intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..lab.results import Estimate
from ..lab.statistics import paired
from .asking import Answer
from .information import Informed


@dataclass(frozen=True)
class Quantity:
    """What is measured, as told apart in tables.

    Attributes:
        report, name: which.
        site: the norm whose output it is about; empty where it is about the whole model.
        layer: of which it is the share of what another quantity has of all; None for all.
    """

    report: str
    name: str
    site: str = ""
    layer: int | None = None


@dataclass(frozen=True)
class Figure:
    """One quantity of one arm.

    Attributes:
        report, name, site, layer: which :class:`Quantity`.
        arm: the norm's label.
        seeds: of the runs it is the mean of.
        value: the mean over seeds with Student's interval; of one run with the interval that its documents give.
        difference: from the first arm, over seeds that both have, with Student's interval; None for the first arm itself,
            or without two such seeds.
        p: two-sided, of no difference; ``p_holm`` after Holm's correction over arms. NaN without a difference.
    """

    report: str
    name: str
    arm: str
    seeds: tuple[int, ...]
    value: Estimate
    difference: Estimate | None
    p: float
    p_holm: float = math.nan
    site: str = ""
    layer: int | None = None


def figures(answers: Sequence[Answer]) -> list[Figure]:
    """Every quantity of every arm; arms and quantities in the order in which they come."""
    name_of = _names(answers)
    arms = list(dict.fromkeys(map(name_of, answers)))
    quantities: dict[Quantity, dict[str, dict[int, Estimate]]] = {}
    for answer in answers:
        for quantity, estimate in _estimates(answer):
            quantities.setdefault(quantity, {}).setdefault(name_of(answer), {})[answer.seed] = estimate
    found = []
    for quantity, by_arm in quantities.items():
        rows = [_figure(quantity, arm, by_arm[arm], by_arm.get(arms[0], {}), arm == arms[0]) for arm in arms if arm in by_arm]
        corrected = paired.holm({row.arm: row.p for row in rows if not math.isnan(row.p)})
        found += [replace(row, p_holm=corrected.get(row.arm, math.nan)) for row in rows]
    return found


def _names(answers: Sequence[Answer]) -> Callable[[Answer], str]:
    """The norm's label; with the step where checkpoints of one run are set beside each other."""
    runs = [(answer.norm, answer.seed) for answer in answers]
    if len(set(runs)) == len(runs):
        return lambda answer: answer.norm
    return lambda answer: f"{answer.norm}, step {answer.step}"


def _estimates(answer: Answer) -> Iterator[tuple[Quantity, Estimate]]:
    yield Quantity("loss", "validation"), answer.loss
    for one in answer.quantized:
        where = "" if one.layer is None else f", layer {one.layer}"
        yield Quantity("quantization", f"{one.place}, {one.scaling}, {one.format}{where}", layer=one.layer), one.rise
    for disturbed in answer.disturbed:
        yield Quantity("robustness", f"{disturbed.kind} {disturbed.strength:g}"), disturbed.rise
    for domain in answer.domains:
        yield Quantity("domain", f"{domain.name}, bits a byte"), domain.bits_per_byte
    if answer.gap is not None:
        yield Quantity("domain", "validation less training"), answer.gap
    if answer.informed is not None:
        yield from _information(answer.informed)


def _information(found: Informed) -> Iterator[tuple[Quantity, Estimate]]:
    """Measures by site; of those that mean nothing without a permutation null, what is above it."""
    for told in found.told:
        one = told.measure
        kernel = f", {one.relative_to.partition(', ')[2]}" if one.null is not None else ""
        name = f"{told.site}: {one.quantity} by {one.estimator}{kernel}"
        if one.null is None:
            yield Quantity("information", name, told.site), Estimate(one.value, one.low, one.high)
        else:
            yield Quantity("information", f"{name}, above its null", told.site), Estimate(one.excess, math.nan, math.nan)
    for site, audited in found.audits:
        one = audited.before
        kernel = one.relative_to.partition(", ")[2]
        name = f"{site}: {one.quantity} by {one.estimator}, {kernel}, change by {audited.bijection}"
        yield Quantity("audit", name, site), Estimate(audited.change, math.nan, math.nan)
    for curve in found.curves:
        for point in curve.points:
            yield (
                Quantity("bottleneck", f"{curve.site}, beta {point.beta:g}", curve.site),
                Estimate(point.value, point.low, point.high),
            )


def _figure(quantity: Quantity, arm: str, own: dict[int, Estimate], first: dict[int, Estimate], is_first: bool) -> Figure:
    seeds = tuple(own)
    value = next(iter(own.values())) if len(own) == 1 else _over_seeds(list(seeds), lambda seed: own[seed].value)[0]
    shared = [seed for seed in seeds if seed in first]
    difference, p = None, math.nan
    if not is_first and len(shared) > 1:
        difference, p = _over_seeds(shared, lambda seed: own[seed].value - first[seed].value)
    return Figure(quantity.report, quantity.name, arm, seeds, value, difference, p, site=quantity.site, layer=quantity.layer)


def _over_seeds(seeds: list[int], value: Callable[[int], float]) -> tuple[Estimate, float]:
    return paired.by_t(paired.Clusters.of([value(seed) for seed in seeds], seeds))
