"""The joint surface: published constants, derivatives, exact data, and designs that cannot be fit."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fitter import EPOCH, SCENARIOS
from ibnorm_megatron.lab.multipliers import fit_alone
from ibnorm_megatron.lab.pairing import Table, as_points
from ibnorm_megatron.lab.statistics.surface import (
    Form,
    NotIdentified,
    Points,
    fit_joint,
    fit_surface,
    levels,
    make_form,
    minimize,
    predict,
)

#: Besiroglu et al., table 1 and their notebook: estimates and standard errors of E, A, B, alpha, beta.
STANDARD_ERRORS = (0.02566, 124.52232, 1293.28410, 0.01540, 0.02060)

#: What their notebook prints for the plain sum of Huber losses, which is our objective, and its value.
HUBER = (1.817235504463726, 477.84171252965143, 2143.8637880335505, 0.34731265761033453, 0.3671826173946711)
HUBER_COST = 0.0010182740346154362


def _published() -> Points:
    with open(Path(__file__).parent / "data" / "hoffmann_figure_4.csv", encoding="utf-8") as file:
        rows = np.array([[float(cell) for cell in row.values()] for row in csv.DictReader(file)])
    n, c, loss = rows[rows[:, 2] < np.sort(rows[:, 2])[-5]].T
    places = np.arange(len(n))
    return Points(np.log(n), np.log(c / (6 * n)), np.log(c), np.log(loss), 0 * places, places, places, places, 1)


def test_recovers_the_published_constants() -> None:
    points = _published()
    assert len(points.arm) == 240
    fit = fit_surface(points)
    for found, published, error in zip(fit.constants, EPOCH, STANDARD_ERRORS, strict=True):
        assert abs(found - published) < 0.5 * error
    assert fit.constants == pytest.approx(HUBER, rel=1e-3)
    assert fit.cost == pytest.approx(HUBER_COST, rel=1e-5)
    assert not fit.at_edge


def test_intervals_of_the_published_constants_are_as_wide_as_theirs() -> None:
    fit = fit_surface(_published())
    # Theirs are fits to resampled runs, and so are ours where there are so many.
    surface = fit_alone(fit, 999, 0)
    for name, published, error in zip(("E", "A", "B", "alpha", "beta"), EPOCH, STANDARD_ERRORS, strict=True):
        found = getattr(surface, name)
        assert found.low < published < found.high
        assert 0.7 < (found.high - found.low) / (2 * 1.96 * error) < 1.4


@pytest.mark.parametrize("tied", [False, True])
def test_derivatives(tied: bool) -> None:
    points = as_points(*_arms())
    form = make_form(points, tied=tied)
    free = _somewhere(form)
    _, derivatives = form.evaluate(free, points)
    for place in range(form.size):
        ahead, behind = free.copy(), free.copy()
        ahead[place] += 1e-6
        behind[place] -= 1e-6
        numeric = (form.evaluate(ahead, points)[0] - form.evaluate(behind, points)[0]) / 2e-6
        assert derivatives[:, place] == pytest.approx(numeric, abs=1e-8)


def _arms() -> tuple[Table, tuple[str, ...]]:
    table = Table.of(SCENARIOS[0].observe(0), "base")
    return table, table.arms


def _somewhere(form: Form) -> np.ndarray:
    return np.concatenate([[0.5, 0.3, 0.2, 0.35, 0.4][: form.shape], 0.05 * np.arange(1, form.size - form.shape + 1)])


def _exact() -> Points:
    """The scenario's losses without noise."""
    scenario = SCENARIOS[0]
    noisy = as_points(*_arms())
    names = ("base", *scenario.gains)
    loss = [
        scenario.loss(names[arm], np.exp(n), np.exp(d)) for arm, n, d in zip(noisy.arm, noisy.log_n, noisy.log_d, strict=True)
    ]
    return replace(noisy, log_loss=np.log(loss))


def test_exact_losses_give_back_the_truth() -> None:
    fit = fit_joint(_exact())
    assert fit.constants == pytest.approx(SCENARIOS[0].truth, rel=1e-3)
    for number, (u0, u1) in enumerate(SCENARIOS[0].gains.values(), start=1):
        assert fit.free[fit.form.u0(number)] == pytest.approx(u0, abs=1e-5)
        assert fit.free[fit.form.u0(number) + 1] == pytest.approx(u1, abs=1e-5)


def test_one_wild_run_moves_nothing() -> None:
    points = _exact()
    wild = points.log_loss.copy()
    wild[np.flatnonzero(points.arm == 2)[4]] += 0.5
    fit = fit_joint(replace(points, log_loss=wild))
    assert fit.free[fit.form.u0(2)] == pytest.approx(np.log(1.05), abs=2e-3)


def test_no_start_nearby_ends_lower() -> None:
    points = as_points(*_arms())
    alone = replace(points, arm=0 * points.arm, arms=1)
    fit = fit_surface(points)
    draw = np.random.default_rng(0)
    costs = [minimize(fit.form, alone, fit.free + draw.normal(0, 0.5, fit.form.size)).cost for _ in range(20)]
    assert fit.cost <= min(costs) * (1 + 1e-4)


def test_a_surface_predicts_a_size_it_has_not_seen() -> None:
    points = _exact()
    largest = points.log_n == points.log_n.max()
    # Two sizes are left, so alpha and beta are tied although they are not equal.
    fit = fit_joint(points.where(~largest))
    assert fit.form.tied
    assert np.abs(predict(fit, points.where(largest)) - points.log_loss[largest]).max() < 0.01


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        (lambda points: points.log_n == points.log_n.min(), "there is one size"),
        (lambda points: np.isclose(points.log_d - points.log_n, np.log(5), atol=0.1), "there is one horizon"),
    ],
)
def test_designs_that_cannot_tell_are_refused(keep: object, why: str) -> None:
    points = as_points(*_arms())
    with pytest.raises(NotIdentified, match=why):
        fit_joint(points.where(keep(points)))  # type: ignore[operator]


def test_too_few_combinations_are_refused() -> None:
    points = as_points(*_arms())
    n, d = np.unique(points.log_n), points.log_d - points.log_n
    few = (points.log_n == n[0]) | ((points.log_n == n[1]) & (d < 2))
    with pytest.raises(NotIdentified, match="3 combinations"):
        fit_joint(points.where(few))


def test_levels_have_no_steps_that_part_what_is_near() -> None:
    near = np.log([98_944, 98_450, 299_000, 303_000, 306_000, 1e6])
    assert levels(near).tolist() == [0, 0, 1, 1, 2, 3]
    assert levels(0.0099 * np.arange(7)[::-1]).tolist() == [2, 1, 1, 1, 0, 0, 0], "no chain of neighbours makes one of all"


def test_one_number_of_tokens_is_refused() -> None:
    points = as_points(*_arms())
    with pytest.raises(NotIdentified, match="there is one number of tokens"):
        fit_joint(replace(points, log_d=np.full_like(points.log_d, 15.1)))
