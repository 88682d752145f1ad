"""The truths that estimators are held to, by another way of computing them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.information_cases import (
    bit_information,
    classes,
    gaussian,
    gaussian_information,
    parity,
    parity_information,
    shift_of,
)


def test_a_correlation_has_its_textbook_information() -> None:
    one = np.eye(1)
    assert math.isclose(gaussian_information(one, 0.8 * one, one), -0.5 * math.log(1 - 0.64), rel_tol=1e-12)


@pytest.mark.parametrize(("rank", "fall"), [(2, 0.0), (6, 0.0), (3, 1.0)])
def test_rotations_and_scales_change_no_information_and_noise_lowers_it(rank: int, fall: float) -> None:
    assert math.isclose(gaussian(10, 6, 2.0, rank, fall=fall).truth, 2.0, rel_tol=1e-9)
    noisy = gaussian(10, 6, 2.0, rank, fall=fall, noise=0.5).truth
    assert 0.2 < noisy < 1.9
    assert abs(gaussian(10, 6, 0.0, 1, fall=fall, noise=0.5).truth) < 1e-12


def test_round_gaussians_with_noise_have_a_closed_form() -> None:
    # All correlations are r, T has variance 1 and noise s^2: each turns into r^2 / (1 + s^2).
    r2 = -math.expm1(-2 * 2.0 / 5)
    expected = -2.5 * math.log(1 - r2 / 1.25)
    assert math.isclose(gaussian(10, 5, 2.0, 5, noise=0.5).truth, expected, rel_tol=1e-9)


def test_what_is_drawn_has_the_covariance_that_truth_is_of() -> None:
    case = gaussian(200_000, 3, 1.0, 2, fall=1.0)
    assert case.data.x is not None
    joint = np.cov(np.concatenate([case.data.x, case.data.t], axis=1).T)
    assert math.isclose(gaussian_information(joint[:3, :3], joint[:3, 3:], joint[3:, 3:]), 1.0, abs_tol=0.01)


@pytest.mark.parametrize("shift", [0.3, 1.0, 2.5])
def test_a_bits_information_by_sums_over_draws(shift: float) -> None:
    t = shift + np.random.default_rng(0).standard_normal(400_000)
    posterior = 1 / (1 + np.exp(-2 * shift * t))
    entropies = -posterior * np.log(posterior) - (1 - posterior) * np.log1p(-posterior)
    assert math.isclose(bit_information(shift), math.log(2) - float(entropies.mean()), abs_tol=2e-3)
    assert math.isclose(shift_of(bit_information(shift)), shift, rel_tol=1e-8)


def test_the_paritys_information_by_sums_over_draws() -> None:
    t = 1.5 + np.random.default_rng(0).standard_normal((400_000, 2))
    even = (1 + np.tanh(1.5 * t).prod(1)) / 2
    assert math.isclose(parity_information(1.5), math.log(2) + float(np.log(even).mean()), abs_tol=3e-3)


def test_classes_are_as_far_apart_as_their_bits() -> None:
    case = classes(40_000, 5, 2, 0.8)
    labels, rows = case.data.classes, torch.as_tensor(case.data.t).double()
    means = torch.stack([rows[labels == one].mean(0) for one in range(4)])
    inside = torch.cov((rows - means[labels]).T)
    assert torch.allclose(inside, torch.eye(5).double(), atol=0.03)
    assert math.isclose(float((means[0] - means[1]).norm()), 2 * shift_of(0.4), rel_tol=0.02)
    assert case.truth == 0.8 and case.labels == 4
    assert parity(100, 3, 1.5).data.classes.unique().tolist() == [0, 1]
