"""Bootstrap and likelihood on simulated studies: a smaller version of ``benchmarks.fitter``, and what they must tell apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fitter import (
    FALSE,
    FALSE_CHANGE,
    FALSE_CLOCK,
    FALSE_SAME,
    SCENARIOS,
    SLOWDOWN,
    failures,
    simulate,
    summarize,
)
from ibnorm_megatron.lab.analysis import analyze
from ibnorm_megatron.lab.multipliers import fit_arms
from ibnorm_megatron.lab.pairing import Table

STUDIES = 40


@pytest.mark.slow
def test_intervals_hold_the_truth_and_gains_are_found() -> None:
    """At 40 studies of 2 to 5 arms a true 95 % passes 90 % for sure, and 85 % does not."""
    scenario = replace(SCENARIOS[1], gains={name: SCENARIOS[1].gains[name] for name in ("control", "gain", "none")})
    summary = summarize(scenario, [simulate(scenario, 499, 1000 + number) for number in range(STUDIES)])
    for name, share in summary.coverage.items():
        if not name.endswith("of the surface"):
            assert share >= 0.88, name
    assert summary.found["the 5 % gain found"] == 1.0
    for wrong in (FALSE, FALSE_CHANGE, FALSE_CLOCK):
        assert summary.found[wrong] <= 0.15


def test_what_a_benchmark_refuses() -> None:
    scenario = SCENARIOS[0]
    summary = summarize(scenario, [simulate(scenario, 199, number) for number in range(2)])
    off = replace(
        summary,
        coverage={"u0, bootstrap": 0.91, "u1, profile": 0.99, "E of the surface": 0.5},
        found={FALSE: 0.06, FALSE_CHANGE: 0.07, FALSE_CLOCK: 0.08, FALSE_SAME: 0.09, "the 5 % gain found": 0.8},
    )
    assert len(failures(off)) == 7


def test_what_a_benchmark_counts() -> None:
    scenario = SCENARIOS[0]
    one = simulate(scenario, 199, 0)
    assert scenario.unchanged() == ["none"] and scenario.unchanged(by_clock=True) == ["gain", "none"]
    assert scenario.slowdown("gain") == SLOWDOWN
    said = {"control": 0.9, "gain": 0.9, "none": 0.9, "loss": 0.9, "growing": 0.001}
    right = replace(one, p_change=said, p_clock=said)
    wrong = replace(one, p_change=said | {"loss": 0.04}, p_clock=said | {"gain": 0.04})
    found = summarize(scenario, [right, wrong, wrong, right]).found
    assert (found[FALSE_CHANGE], found[FALSE_CLOCK], found["u1 = 0.01 found"]) == (0.5, 0.5, 1.0)
    assert found[FALSE] == (one.p["none"] < 0.05)


def _table(spread: float, *, shared: float) -> Table:
    """A study in which noise of arms of a seed is common by ``shared``; the decays of a run have the same."""
    draw = np.random.default_rng(2)
    common: dict[tuple[str, int], float] = {}
    own: dict[str, float] = {}
    rows = []
    for one in SCENARIOS[0].observe(0):
        both = common.setdefault((one.size, one.seed), draw.standard_normal())
        alone = own.setdefault(one.cluster, draw.standard_normal())
        true = SCENARIOS[0].loss(one.arm, one.parameters, one.tokens)
        noise = math.sqrt(shared) * both + math.sqrt(1 - shared) * alone + 0.01 * draw.standard_normal()
        rows.append(replace(one, loss=true + spread * noise))
    return Table.of(rows, "base")


def test_noise_that_arms_share_makes_no_interval_wider() -> None:
    """It cancels in pairs: only a twentieth of the variance is an arm's own, so intervals are several times narrower."""
    apart, together = fit_arms(_table(0.004, shared=0.0), 499, 0), fit_arms(_table(0.004, shared=0.95), 499, 0)
    width = [_width(joint.likely.interval(joint.fit.form.u0(1))) for joint in (apart, together)]
    assert width[1] < 0.4 * width[0]
    width = [_width(joint.resampled.interval(5)) for joint in (apart, together)]
    assert width[1] < 0.6 * width[0]


def _width(interval: object) -> float:
    return interval.high - interval.low  # type: ignore[attr-defined,no-any-return]


def test_the_profile_is_its_quadratic_for_a_nearly_linear_parameter() -> None:
    from scipy import stats

    joint = fit_arms(_table(0.004, shared=0.5), 199, 0)
    likely, place = joint.likely, joint.fit.form.u0(2)
    half = stats.t.ppf(0.975, likely.freedom) * math.sqrt(likely.covariance[place, place])
    interval = likely.interval(place)
    assert (interval.high - interval.value, interval.value - interval.low) == pytest.approx((half, half), rel=0.03)


def test_resampling_repeats_and_its_p_agrees_with_its_interval() -> None:
    joint, again = (fit_arms(_table(0.004, shared=0.5), 499, 7) for _ in range(2))
    for place in range(5, len(joint.resampled.values)):
        interval = joint.resampled.interval(place)
        assert interval == again.resampled.interval(place)
        for end in (interval.low, interval.high):
            assert joint.resampled.p(place, end) == pytest.approx(0.05, abs=0.003)


def test_an_arm_whose_gain_changes_makes_no_other_interval_wider() -> None:
    def widths(trend: float) -> list[float]:
        rows = [
            replace(one, loss=one.loss * (1 + trend * math.log(one.parameters / 3e5))) if one.arm == "fourth" else one
            for one in SCENARIOS[2].observe(4)
        ]
        found = analyze(rows, baseline="base", control="control", equivalence=0.01, resamples=499)
        return [_width(one.mean) for one in found.multipliers[:-1]]

    assert widths(0.01) == pytest.approx(widths(0.0), rel=0.2)


def test_an_arm_is_known_by_the_clusters_that_it_shares_with_the_baseline() -> None:
    """However many clusters other arms have: nine here, of which one arm has three."""
    rows = [one for one in SCENARIOS[2].observe(1) if one.arm != "fourth" or one.seed == 0]
    joint = fit_arms(Table.of(rows, "base"), 499, 0)
    numbers = {arm: place for place, arm in enumerate(joint.arms)}
    freedom = {arm: int(joint.resampled.freedom[5 + (number - 1) * 10]) for arm, number in numbers.items() if number}
    assert freedom == {"control": 7, "first": 7, "second": 7, "third": 7, "fourth": 1}
    assert joint.likely.freedom == 4 * 7 + 1


def test_what_one_cluster_alone_tells_has_no_interval() -> None:
    """Leaving it out leaves nothing of the arm, and a pseudo-inverse would call that no change."""
    rows = [one for one in SCENARIOS[2].observe(1) if one.arm != "fourth" or (one.seed == 0 and one.size == "size 0")]
    joint = fit_arms(Table.of(rows, "base"), 499, 0)
    place = 5 + (joint.arms.index("fourth") - 1) * 10
    assert math.isinf(joint.resampled.errors[place]) and joint.resampled.p(place) == 1.0
    assert joint.resampled.interval(place).high == math.inf
    assert np.isfinite(joint.resampled.errors[5])


def test_multipliers_are_given_where_the_arm_was_run() -> None:
    rows = [one for one in SCENARIOS[2].observe(1) if one.arm != "fourth" or one.size != "size 2"]
    analysis = analyze(rows, baseline="base", control="control", equivalence=0.01, resamples=199)
    found = {one.arm: one for one in analysis.multipliers}
    for arm, largest in (("first", 6 * 1e6 * 2e7), ("fourth", 6 * 3e5 * 6e6)):
        inside = [one.flops for one in found[arm].at if not one.extrapolated]
        assert inside[-1] == pytest.approx(largest) and len(inside) == 5
        assert found[arm].at[-1].flops == pytest.approx(100 * largest)
