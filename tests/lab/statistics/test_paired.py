"""Paired statistics against closed forms and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ibnorm_megatron.lab.statistics.paired import Clusters, by_signs, by_t, equivalence, half_width, holm, least_p

RNG = np.random.default_rng(5)


def _alone(values: list[float] | np.ndarray) -> Clusters:
    return Clusters.of(list(values), range(len(values)))


def test_t_is_scipys() -> None:
    values = RNG.normal(0.01, 0.02, 8)
    interval, p = by_t(_alone(values))
    theirs = stats.ttest_1samp(values, 0.0)
    low, high = theirs.confidence_interval(0.95)
    assert (interval.low, interval.high, p) == pytest.approx((low, high, theirs.pvalue), rel=1e-12)
    assert half_width(_alone(values), p) == pytest.approx(abs(interval.value), rel=1e-9)


def test_clusters_of_equal_size_count_as_their_means() -> None:
    values = RNG.normal(0, 1, (6, 3))
    interval, p = by_t(Clusters.of(values.ravel().tolist(), np.repeat(np.arange(6), 3).tolist()))
    expected, expected_p = by_t(_alone(values.mean(axis=1)))
    assert (interval.low, interval.high, p) == pytest.approx((expected.low, expected.high, expected_p))


def test_what_sizes_differ_by_is_no_noise() -> None:
    values = RNG.normal(0, 1, (3, 4))
    apart = values + np.array([[0.0], [10.0], [-7.0]])
    sizes = np.repeat(["a", "b", "c"], 4).tolist()
    together, moved = (Clusters.of(one.ravel().tolist(), range(12), sizes) for one in (values, apart))
    assert together.freedom == 9
    assert moved.standard_error == pytest.approx(together.standard_error)
    assert moved.standard_error == pytest.approx(math.sqrt(values.var(axis=1, ddof=1).mean() / 12))
    # A size with one seed has no spread of its own.
    assert Clusters.of([1.0, 2.0, 9.0], range(3), ["a", "a", "b"]).freedom == 2


@pytest.mark.parametrize("n", [6, 9])
def test_sign_flips_are_all_of_them(n: int) -> None:
    values = RNG.normal(0.7, 1, n)
    interval, p = by_signs(_alone(values))
    assert math.isfinite(interval.low)
    assert p == pytest.approx(_brute(values, 0.0))
    # Inside an end the test keeps the mean, outside it refuses it.
    for end, outward in ((interval.low, -1e-9), (interval.high, 1e-9)):
        assert _brute(values, end - outward) > 0.05
        assert _brute(values, end + outward) <= 0.05


def _brute(values: np.ndarray, mean: float) -> float:
    """The two-sided p of a mean, one flip after the other."""
    centred = values - mean
    flips = [abs((np.array(signs) * centred).sum()) for signs in itertools.product((1, -1), repeat=len(values))]
    return float(np.mean(np.array(flips) >= abs(centred.sum()) - 1e-12))


def test_few_clusters_have_infinite_ends_and_say_so() -> None:
    interval, p = by_signs(_alone([1.0, 1.1, 0.9, 1.05, 1.2]))
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert p == least_p(5) == 2 / 2**5


def test_many_clusters_are_sampled_and_repeat() -> None:
    values = RNG.normal(0.5, 1, 40)
    first, p = by_signs(_alone(values), seed=3)
    assert by_signs(_alone(values), seed=3) == (first, p)
    by_student, p_student = by_t(_alone(values))
    assert (first.low, first.high) == pytest.approx((by_student.low, by_student.high), abs=0.06)
    assert p == pytest.approx(p_student, abs=0.01)


def test_equivalence_is_the_ninety_percent_interval_within_the_margin() -> None:
    values = RNG.normal(0, 0.01, 12)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.90)
    widest = max(-low, high)
    assert equivalence(_alone(values), widest * 1.001) < 0.05 < equivalence(_alone(values), widest * 0.999)
    assert math.isnan(equivalence(_alone(values), math.nan))
    assert equivalence(_alone([0.0]), 1.0) == 1.0


def test_holm_by_hand() -> None:
    assert holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.5}) == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})
    assert holm({}) == {}


def test_differences_without_any_noise() -> None:
    assert by_t(_alone([0.0] * 7))[1] == 1.0
    assert by_t(_alone([0.1] * 7))[1] < 1e-9
    assert by_signs(_alone([0.0] * 7))[1] == 1.0


def test_hundreds_of_clusters_are_summed_in_blocks() -> None:
    values = RNG.normal(0.05, 1, 300)
    (interval, p), (student, p_student) = by_signs(_alone(values)), by_t(_alone(values))
    assert (interval.low, interval.high) == pytest.approx((student.low, student.high), abs=0.02)
    assert p == pytest.approx(p_student, abs=0.01)
