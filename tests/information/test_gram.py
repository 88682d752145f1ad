"""Matrix-based entropies against values known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from benchmarks.information_cases import classes, gaussian
from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.gram import (
    entropy_of_spectrum,
    gaussian_gram,
    label_gram,
    matrix_entropy,
    median_square,
    squared_distances,
)
from ibnorm_megatron.information.renyi import Renyi


@pytest.mark.parametrize("alpha", [0.5, 1, 1.01, 2.0, 5.0])
def test_a_flat_spectrum_has_the_logarithm_of_its_size(alpha: float) -> None:
    assert math.isclose(entropy_of_spectrum(torch.full((12,), 3.0).double(), alpha), math.log(12), rel_tol=1e-12)
    assert entropy_of_spectrum(torch.tensor([2.0, 0.0, -1e-18]).double(), alpha) == 0


def test_orders_near_one_tend_to_shannon() -> None:
    spectrum = torch.tensor([0.5, 0.25, 0.125, 0.125]).double()
    shannon = 1.75 * math.log(2)
    assert math.isclose(entropy_of_spectrum(spectrum, 1), shannon, rel_tol=1e-12)
    # dS/dalpha at 1 is minus half the variance of -log p.
    surprise = [-math.log(p) for p in spectrum.tolist()]
    variance = sum(p * (s - shannon) ** 2 for p, s in zip(spectrum.tolist(), surprise, strict=True))
    assert math.isclose(entropy_of_spectrum(spectrum, 1 + 1e-4), shannon - 0.5e-4 * variance, abs_tol=1e-8)


def test_order_two_without_eigenvalues_is_the_same() -> None:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    squares = squared_distances(rows)
    gram = gaussian_gram(squares, 1.0, median_square(squares))
    assert math.isclose(matrix_entropy(gram, (2,))[0], matrix_entropy(gram, (2.0, 3.0))[0], rel_tol=1e-12)


def test_distances_and_the_bandwidth_rule() -> None:
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) + 1e3
    squares = squared_distances(rows)
    assert torch.allclose(squares, torch.cdist(rows.double(), rows.double()).square(), rtol=1e-9, atol=1e-9)
    median = median_square(squares)
    gram = gaussian_gram(squares, 1.0, median)
    off = gram[~torch.eye(30, dtype=torch.bool)]
    assert abs(float((off >= math.exp(-1)).double().mean()) - 0.5) < 0.01
    assert torch.allclose(gaussian_gram(squares, 2.0, median), gram**0.25)


def test_the_entropy_of_labels_is_that_of_their_frequencies() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    expected = stats.entropy([0.5, 0.3, 0.2])
    assert math.isclose(matrix_entropy(label_gram(labels), (1,))[0], expected, rel_tol=1e-10)
    # Labels beside themselves: the joint entropy is the entropy, so the information is too.
    gram = label_gram(labels)
    assert math.isclose(matrix_entropy(gram * gram, (1,))[0], expected, rel_tol=1e-10)


def test_renyi_comes_with_its_null_for_every_order_and_bandwidth() -> None:
    case = gaussian(200, 3, 1.0, 3)
    found = measure(Renyi(multiples=(0.5, 1.0, 2.0), permutations=19), case.data, anywhere=True)
    assert [(one.details["alpha"], one.details["multiple"]) for one in found] == [
        (alpha, multiple) for alpha in (1.01, 2.0) for multiple in (0.5, 1.0, 2.0)
    ]
    for one in found:
        assert one.null and one.null.permutations == 19 and one.null.low <= one.null.mean <= one.null.high
        assert one.excess == one.value - one.null.mean > 0
        assert one.p == 0.05 and "null" in one.reason
    again = measure(Renyi(multiples=(0.5, 1.0, 2.0), permutations=19), case.data, anywhere=True)
    assert again == found


def test_the_null_is_what_independent_data_reads() -> None:
    (of_x,) = measure(Renyi(alphas=(1.01,), multiples=(0.5,), permutations=39), gaussian(200, 4, 0.0, 1).data, anywhere=True)
    (of_y,) = measure(Renyi("labels", (1.01,), (0.5,), 39), classes(200, 4, 2, 0.0).data, anywhere=True)
    for one in (of_x, of_y):
        assert one.null and one.null.low < one.value < one.null.high and one.p > 0.05
        assert one.value > 0.5 > 20 * abs(one.excess) > 0  # and yet the value itself is far from 0


def test_a_wide_gaussian_reads_the_same_with_and_without_dependence() -> None:
    values = []
    for information in (0.0, 5.0):
        case = gaussian(300, 256, information, 256)
        values.append(measure(Renyi(alphas=(1.01,), multiples=(1.0,), permutations=1), case.data, anywhere=True)[0].value)
    assert values[0] > 2 and abs(values[1] - values[0]) < 0.05


def test_rows_that_are_mostly_equal_have_a_kernel_too() -> None:
    squares = squared_distances(torch.zeros(9, 2).index_fill(0, torch.tensor([4]), 1.0))
    gram = gaussian_gram(squares, 1.0, median_square(squares))
    assert gram.unique().tolist() == [0, 1] and gram[4].sum() == 1
