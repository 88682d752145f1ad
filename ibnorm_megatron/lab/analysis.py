"""Everything that a set of finished runs says about its arms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from ..errors import Problem, UserError, nearest
from .multipliers import Joint, fit_alone, fit_arms, margin_of, multipliers_of, shape_of, surface_of
from .pairing import Table, as_points, pair_arms
from .results import Analysis, Multiplier, Observation, Paired, Surface
from .statistics.surface import NotIdentified, fit_surface
from .verdicts import give_verdicts

#: Resamples of the cluster bootstrap: the smallest p is one over one more.
RESAMPLES = 4999


def analyze(
    observations: Sequence[Observation],
    *,
    baseline: str,
    control: str | None,
    equivalence: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Analysis:
    """Compare every arm with the baseline; the same call gives the same numbers.

    Args:
        observations: of all arms; those without a loss too, so that they are counted.
        baseline: the arm that the others are compared with.
        control: the arm that is the baseline by another code path, if there is one.
        equivalence: share of compute below which a difference is called none.
        seed: of resampling.
        resamples: of the cluster bootstrap.

    Raises:
        UserError: the baseline or the control is no arm, the baseline has no loss, or an arm has two runs at the same place.
    """
    _refuse(observations, baseline, control)
    table = Table.of(observations, baseline)
    warnings = list(_about_runs(table, control))
    surface: Surface | None = None
    found: tuple[Multiplier, ...] = ()
    margin = None
    try:
        if len(table.arms) == 1:
            points = as_points(table, table.arms)
            fit = fit_surface(points)
            surface = fit_alone(fit, resamples, seed)
        else:
            joint = fit_arms(table, resamples, seed)
            fit = joint.fit
            surface = surface_of(fit, shape_of(joint.resampled))
            margin = margin_of(fit, equivalence)
            found, why = multipliers_of(table, joint, control, equivalence)
            warnings += _about_multipliers(table, joint, found, why)
        warnings += _about_surface(surface, fit.form.tied, fit.at_edge)
    except NotIdentified as error:
        warnings.append(f"No loss surface was fit, so nothing is said in compute: {error}.")
    pairs = pair_arms(table, control, margin or (lambda _: math.nan), seed)
    warnings += _about_control(control, found, pairs)
    verdicts = give_verdicts(table, found, pairs, control, equivalence)
    return Analysis(baseline, control, equivalence, tuple(observations), pairs, surface, found, verdicts, tuple(warnings))


def _refuse(observations: Sequence[Observation], baseline: str, control: str | None) -> None:
    arms = list(dict.fromkeys(one.arm for one in observations))
    for role, name in (("baseline", baseline), ("control", control)):
        if name is not None and name not in arms:
            raise UserError(Problem(f"the {role}", repr(name), "no run is of this arm", nearest(name, arms or [baseline])))
    if control == baseline:
        raise UserError(Problem("the control", repr(control), "it is the baseline itself", "name another arm"))
    try:
        table = Table.of(observations, baseline)
    except ValueError as error:
        raise UserError(Problem("the runs", "given", str(error), "keep one of them")) from None
    if not table.good[baseline]:
        raise UserError(Problem("the baseline", repr(baseline), "none of its runs has a loss", "compare with another arm"))


def _about_runs(table: Table, control: str | None) -> Iterator[str]:
    for arm in table.arms:
        for (size, horizon, seed), one in table.failed[arm].items():
            reason = one.failure or "its loss is no positive number"
            yield f"{arm} has no loss at size {size}, {horizon:g} tokens a parameter, seed {seed}: {reason}."
    for arm in table.arms[1:]:
        lost = len(table.lost(arm))
        if lost:
            of = len(table.good[table.arms[0]])
            yield f"{arm} lacks {lost} of {of} pairs: what is said of it holds for the runs that ended well, and flatters it."
    if len(table.arms) == 1:
        return
    seeds = Counter(size for size, _ in {(key[0], key[2]) for key in table.good[table.arms[0]]})
    if min(seeds.values()) < 3:
        yield "There are fewer than three seeds of a size: intervals over so few are wide, and rest on the sizes being alike."
    if sum(seeds.values()) < 6:
        yield (
            f"There are {sum(seeds.values())} pairs of size and seed; with fewer than six no sign-flip test can reach 5 %, so "
            "its intervals are infinite and p is that of t."
        )
    if control is None:
        yield "No arm is the baseline by another code path, so nobody knows what differences this comparison shows by itself."


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
        if arm not in joint.arms:
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
