"""Gaussian information, Ledoit and Wolf's covariance, and the noise model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.information_cases import gaussian
from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.gaussian import Gaussian, Moments, excess_of_sample_covariance, ledoit_wolf
from ibnorm_megatron.information.gaussian import gaussian_information as information_of
from ibnorm_megatron.information.noise import Noise
from ibnorm_megatron.information.observations import Observations, Rows


@pytest.mark.parametrize("fall", [0.0, 1.0])
@pytest.mark.parametrize(("information", "rank"), [(0.0, 1), (2.0, 2), (2.0, 16), (16.0, 16)])
def test_gaussians_read_what_they_hold(information: float, rank: int, fall: float) -> None:
    case = gaussian(4000, 16, information, rank, fall=fall, noise=0.1)
    (found,) = measure(Gaussian(), case.data, 1)
    assert abs(found.value - case.truth) < 0.03 + 0.02 * case.truth
    assert found.low - 0.05 < case.truth < found.high + 0.05 and found.high - found.low < 0.4


def test_the_bias_of_a_sample_covariance_is_the_known_one() -> None:
    draw, values = np.random.default_rng(0), []
    for _ in range(400):
        rows = torch.from_numpy(draw.standard_normal((60, 7)))
        values.append(information_of(Moments.of(rows).covariance(), 3))
    expected = excess_of_sample_covariance(60, 3, 4)
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / 20
    assert math.isclose(expected, 3 * 4 / (2 * 60), rel_tol=0.15)  # its first term


def test_ledoit_and_wolf_term_by_term() -> None:
    rows = np.random.default_rng(3).standard_normal((40, 6)) * np.arange(1, 7)
    rows -= rows.mean(0)
    sample = rows.T @ rows / 40
    level = np.trace(sample) / 6
    spread = np.sum((sample - level * np.eye(6)) ** 2)
    noise = sum(np.sum((np.outer(row, row) - sample) ** 2) for row in rows) / 40**2
    share = min(noise, spread) / spread
    found, shrunk = ledoit_wolf(Moments.of(torch.from_numpy(rows)))
    assert 0 < share < 1 and math.isclose(shrunk, share, rel_tol=1e-10)
    expected = share * level * np.eye(6) + (1 - share) * sample
    assert np.allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_shrinking_loses_information_of_round_data() -> None:
    case = gaussian(4000, 64, 2.0, 2, noise=0.1)
    (shrunk,), (corrected,) = measure(Gaussian(shrink=True), case.data, anywhere=True), measure(Gaussian(), case.data)
    assert shrunk.value < 0.5 < case.truth - 0.2 < corrected.value < case.truth + 0.2
    assert math.isnan(measure(Gaussian(shrink=True), case.data)[0].value)


def test_a_copy_holds_as_much_as_the_noise_lets_through() -> None:
    rows = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    data = Observations(rows, rows.clone(), documents=torch.arange(4000) // 20)
    (found,) = measure(Gaussian(noise=Noise(0.5)), data)
    assert abs(found.value - 1.5 * math.log(5)) < 0.05  # 1/2 log(1 + 1 / 0.25) each


def test_too_few_rows_for_the_columns_are_refused_and_few_documents_have_no_interval() -> None:
    case = gaussian(100, 60, 0.0, 1)
    (found,) = measure(Gaussian(), case.data, anywhere=True)
    assert math.isnan(found.value) and "degrees of freedom" in found.reason
    case = gaussian(150, 2, 1.0, 2, noise=0.1)
    (found,) = measure(Gaussian(), case.data, anywhere=True)
    assert math.isfinite(found.value) and math.isnan(found.low) and "15 documents" in found.reason


def test_noise_is_each_rows_own_and_of_the_stated_size() -> None:
    rows = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    noise = Noise(0.2)
    scale = noise.scale(Rows(rows))
    assert math.isclose(scale, 0.2 * float(rows.var(0, correction=0).mean()) ** 0.5, rel_tol=1e-5)
    drawn = noise.drawn(3000, 4, scale, 7)
    every = drawn(torch.arange(3000), rows) - rows
    assert math.isclose(float(every.std()), scale, rel_tol=0.03)
    assert float(torch.corrcoef(every.T).fill_diagonal_(0).abs().max()) < 0.08
    index = torch.tensor([2999, 5, 700, 5])
    assert torch.allclose(drawn(index, rows[index]) - rows[index], every[index], atol=1e-6)
    assert not torch.allclose(noise.drawn(3000, 4, scale, 8)(torch.arange(3000), rows) - rows, every, atol=1e-3)


def test_chunks_and_order_of_reading_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from ibnorm_megatron.information import observations

    data = gaussian(1000, 4, 1.0, 2).data
    (found,) = measure(Gaussian(), data)
    monkeypatch.setattr(observations, "CHUNK", 300)
    assert math.isclose(measure(Gaussian(), data)[0].value, found.value, rel_tol=1e-6)
