"""Everything that a set of finished runs says about its arms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from ..errors import Problem, UserError, nearest
from .multipliers import Joint, fit_alone, fit_arms, is_far, margin_of, multipliers_of, shape_of, surface_of
from .pairing import Key, Table, as_points, pair_arms, timed
from .results import LEVEL, Analysis, Multiplier, Observation, Paired, Surface
from .statistics.paired import least_p
from .statistics.surface import NotIdentified, fit_surface
from .verdicts import give_verdicts

#: Resamples of the cluster bootstrap: the smallest p is one over one more.
RESAMPLES = 4999

#: By which share the sizes and tokens of a pair may differ without a word.
_MATCHED = 1e-3

#: A margin of equivalence of which a reader is reminded.
_WIDE = 0.1


def analyze(
    observations: Sequence[Observation],
    *,
    baseline: str,
    control: str | None,
    equivalence: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
    pending: Sequence[Observation] = (),
) -> Analysis:
    """Compare every arm with the baseline; the same call gives the same numbers.

    Args:
        observations: of all arms; those without a loss too, so that they are counted. What one arm has and another has not
            counts as lost, too.
        baseline: the arm that the others are compared with.
        control: the arm that is the baseline by another code path, if there is one.
        equivalence: share of compute below which a difference is called none.
        seed: of resampling.
        resamples: of the cluster bootstrap.
        pending: runs that are still to come, so that nobody lost them yet; while there are any, all verdicts are interim.

    Raises:
        UserError: the baseline or the control is no arm, the baseline has no loss, or an arm has two runs at the same place.
    """
    table = _table(observations, pending, baseline, control)
    warnings = [*_about_pending(table), *_about_runs(table, control), *_about_values(table, equivalence)]
    surface: Surface | None = None
    found: tuple[Multiplier, ...] = ()
    margin = None
    try:
        if len(table.arms) == 1:
            points = as_points(table, table.arms)
            fit = fit_surface(points)
            surface = fit_alone(fit, resamples, seed)
        else:
            settled = table.settled()
            joint = fit_arms(settled, resamples, seed)
            fit = joint.fit
            surface = surface_of(fit, shape_of(joint.resampled))
            margin = margin_of(fit, equivalence)
            found, why = multipliers_of(settled, joint, control, equivalence)
            warnings += _about_multipliers(settled, joint, found, why)
        warnings += _about_surface(surface, fit.form.tied, fit.at_edge)
    except NotIdentified as error:
        warnings.append(f"No loss surface was fit, so nothing is said in compute: {error}.")
    pairs = pair_arms(table, control, margin or (lambda _: math.nan), seed)
    warnings += _about_control(control, found, pairs)
    verdicts = give_verdicts(table, found, pairs, control, equivalence)
    seen = tuple(observations), pairs, surface, found, verdicts, tuple(warnings), tuple(pending)
    return Analysis(baseline, control, equivalence, *seen)


def _table(observations: Sequence[Observation], pending: Sequence[Observation], baseline: str, control: str | None) -> Table:
    """The observations by arm and place, or what is wrong with them."""
    arms = list(dict.fromkeys(one.arm for one in (*observations, *pending)))
    for role, name in (("baseline", baseline), ("control", control)):
        if name is not None and name not in arms:
            raise UserError(Problem(f"the {role}", repr(name), "no run is of this arm", nearest(name, arms or [baseline])))
    if control == baseline:
        raise UserError(Problem("the control", repr(control), "it is the baseline itself", "name another arm"))
    try:
        table = Table.of(observations, baseline, pending)
    except ValueError as error:
        raise UserError(Problem("the runs", "given", str(error), "keep one of them")) from None
    if not table.good[baseline]:
        why, mend = "none of its runs has a loss", "compare with another arm"
        if table.pending[baseline]:
            why, mend = f"{why} yet", "ask again when one of them has ended"
        raise UserError(Problem("the baseline", repr(baseline), why, mend))
    return table


def _about_pending(table: Table) -> Iterator[str]:
    there = sum(len(found[arm]) for found in (table.good, table.failed) for arm in table.arms)
    of = there + sum(map(len, table.pending.values()))
    if table.open:
        yield (
            f"This is an interim look: {there} of {of} ends of training are there yet. Nothing is claimed before all are: who "
            "looks again and again, and stops when it looks good, finds differences that are not there."
        )
    if early := sum(len(own) for own in table.good.values()) - sum(len(own) for own in table.settled().good.values()):
        yield f"Multipliers leave out {early} ends of training where a run of another arm is still to come."


def _about_runs(table: Table, control: str | None) -> Iterator[str]:
    for arm in table.arms:
        of_reason: dict[str, list[Key]] = {}
        for key, one in table.failed[arm].items():
            of_reason.setdefault(one.failure or "its loss is no positive number", []).append(key)
        for reason, ((size, horizon, seed), *rest) in of_reason.items():
            more = f" and at {len(rest)} more" if rest else ""
            yield f"{arm} has no loss at size {size}, {horizon:g} tokens a parameter, seed {seed}{more}: {reason}."
    gaps: dict[tuple[int, int], list[str]] = {}
    for arm in table.arms[1:]:
        pairs, lost, missed = (len(keys) for keys in (table.pairs(arm), table.lost(arm), table.missed(arm)))
        if lost:
            of = pairs + lost + len(table.awaited(arm))
            yield f"{arm} lacks {lost} of {of} pairs: what is said of it holds for the runs that ended well, and flatters it."
        if missed:
            gaps.setdefault((missed, pairs + missed), []).append(arm)
        if 0 < (known := len(timed(table, arm))) < pairs:
            yield f"{arm}: seconds are known of {known} of {pairs} pairs only, so what is said of the clock is of these."
    for (missed, of), arms in gaps.items():
        yield (
            f"{table.baseline} has no loss at {missed} of the {of} ends of training of {', '.join(arms)}: what is said of them "
            f"holds for the runs that ended well, and flatters {table.baseline}."
        )
    if len(table.arms) == 1:
        return
    seeds = Counter(size for size, _ in {(key[0], key[2]) for key in table.good[table.baseline]})
    if min(seeds.values()) < 3:
        yield "There are fewer than three seeds of a size: intervals over so few are wide, and rest on the sizes being alike."
    clusters, candidates = sum(seeds.values()), sum(arm != control for arm in table.arms[1:])
    if least_p(clusters) > 1 - LEVEL:
        yield (
            f"Pairs of size and seed: {clusters}; with fewer than six no sign-flip test can reach 5 %, so "
            "its intervals are infinite and p is that of t."
        )
    elif least_p(clusters) * candidates > 1 - LEVEL:
        yield (
            f"There are {clusters} pairs of size and seed and {candidates} arms; no sign-flip test can reach 5 % after Holm's "
            "correction then, so p of paired losses is that of t."
        )
    if control is None:
        yield "No arm is the baseline by another code path, so nobody knows what differences this comparison shows by itself."


def _about_values(table: Table, equivalence: float) -> Iterator[str]:
    """What numbers alone give away: a wide margin, rounded losses, and arms of which sizes or tokens differ a little."""
    if equivalence > _WIDE and len(table.arms) > 1:
        yield f"The margin is {100 * equivalence:.3g} % of compute: what is called equivalent may differ by as much."
    if table.step:
        yield (
            f"All losses are multiples of {table.step:g}: they were rounded. Mean differences of no more than that may come "
            "from it and are not claimed; intervals know nothing of it."
        )
    if len(table.arms) == 1:
        return
    for what, of in (("parameters", lambda one: one.parameters), ("tokens", lambda one: one.tokens)):
        apart = 0.0
        for key in table.keys:
            values = [float(of(own[key])) for own in table.good.values() if key in own]
            apart = max(apart, max(values, default=1.0) / min(values, default=1.0) - 1)
        if apart > _MATCHED:
            yield (
                f"Runs that are compared differ by up to {100 * apart:.2g} % in their {what}: multipliers count that, "
                "and paired losses do not."
            )


def _about_surface(surface: Surface, tied: bool, at_edge: bool) -> Iterator[str]:
    if tied:
        yield "With so few combinations of size and tokens, alpha and beta cannot be told apart; they were taken to be equal."
    if at_edge or surface.E.high > 2 * surface.E.low or surface.alpha.low <= 0 or surface.beta.low <= 0:
        yield (
            "The surface's constants E, A, B, alpha and beta are not known one by one from these sizes and horizons; the "
            "multipliers need its slopes only, within the observed range."
        )


def _about_multipliers(table: Table, joint: Joint, found: Sequence[Multiplier], why: str) -> Iterator[str]:
    for arm in table.arms[1:]:
        if arm not in joint.arms and table.pairs(arm) and is_far(table, arm):
            yield (
                f"{arm} has no multiplier: its losses differ from {table.baseline}'s by more than half of what the whole range "
                "of compute is worth, and no surface of both is to be trusted. It is judged by its losses."
            )
        elif arm not in joint.arms:
            yield f"{arm} has no pairs at two sizes or horizons, so it has no multiplier."
    if why:
        yield f"The largest size could not be left out to see how well it is predicted: {why}."
    for one in found:
        if one.u0.low > one.profile_u0.high or one.u0.high < one.profile_u0.low:
            yield (
                f"{one.arm}: the bootstrap's interval of u0 and the likelihood's do not meet; some of its runs are far from "
                "what the surface and Gaussian noise allow."
            )


def _about_control(control: str | None, found: Sequence[Multiplier], pairs: Sequence[Paired]) -> Iterator[str]:
    p = {row.arm: row.p for row in pairs if row.size is None} | {row.arm: row.p_u0 for row in found}
    if control is not None and p.get(control, 1.0) < 0.05:
        yield (
            f"The control {control} differs from the baseline (p {p[control]:.2g}), and should not: the comparison's own noise "
            "is not understood, and no other difference of this size means anything."
        )
    if control is not None and control not in p:
        yield f"The control {control} has no pair with the baseline, so the comparison's own noise is not known."
