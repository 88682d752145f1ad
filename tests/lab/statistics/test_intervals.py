"""Bootstrap and likelihood on simulated studies: a smaller version of ``benchmarks.fitter``, and what they must tell apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fitter import FALSE, SCENARIOS, failures, simulate, summarize
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
    assert summary.found[FALSE] <= 0.15


def test_what_a_benchmark_refuses() -> None:
    scenario = SCENARIOS[0]
    summary = summarize(scenario, [simulate(scenario, 199, number) for number in range(2)])
    off = replace(
        summary,
        coverage={"u0, bootstrap": 0.91, "u1, profile": 0.99, "E of the surface": 0.5},
        found={FALSE: 0.06, "the 5 % gain found": 0.8},
    )
    assert len(failures(off)) == 4


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
