"""InfoNCE and nearest neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.information_cases import gaussian
from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.infonce import SATURATED, Critic, InfoNce, log_ratio
from ibnorm_megatron.information.ksg import Ksg, ksg_information
from ibnorm_megatron.information.noise import Noise
from ibnorm_megatron.information.observations import Observations

SMALL = InfoNce(negatives=128, width=8, hidden=16, penalties=(1e-3,))


def test_the_bound_is_below_the_information_and_near_it() -> None:
    case = gaussian(4000, 2, 1.0, 2, noise=0.1)
    (found,) = measure(SMALL, case.data, anywhere=True)
    assert case.truth - 0.15 < found.value < case.truth + 0.06
    assert found.low < found.value < found.high and "log 128" in found.relative_to
    assert found.details["ceiling"] == math.log(128)


def test_independence_reads_nothing() -> None:
    (found,) = measure(SMALL, gaussian(2000, 3, 0.0, 1).data, anywhere=True)
    assert found.low <= 0 and abs(found.value) < 0.02


def test_what_comes_near_the_ceiling_is_withheld() -> None:
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    data = Observations(rows, rows.clone(), documents=torch.arange(2000) // 20)
    one = InfoNce(Noise(0.01), negatives=64, penalties=(1e-4,))
    (found,) = measure(one, data, anywhere=True)
    assert math.isnan(found.value) and math.isnan(found.low) and "ceiling log 64 = 4.16" in found.reason
    assert float(found.reason.split()[0]) > SATURATED * math.log(64)


def test_too_few_rows_to_choose_among() -> None:
    (found,) = measure(InfoNce(), gaussian(1000, 2, 1.0, 2).data, anywhere=True)
    assert math.isnan(found.value) and "fewer than the 512" in found.reason


def test_an_ideal_critic_reads_the_information_less_what_sampling_costs() -> None:
    """log p(t | x) / p(t) as the critic: the bound's formula itself, in one dimension with correlation 0.8."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((40, 256))
    t = 0.8 * x + 0.6 * draw.standard_normal((40, 256))

    class Ideal(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return -((t.T - 0.8 * x) ** 2) / (2 * 0.36) + t.T**2 / 2

    pairs = zip(torch.from_numpy(x), torch.from_numpy(t), strict=True)
    values = [float(log_ratio(Ideal(), one[:, None], other[:, None]).mean()) for one, other in pairs]  # type: ignore[arg-type]
    truth = -0.5 * math.log(0.36)
    assert truth - 0.05 < np.mean(values) < truth + 0.02


def test_a_critic_begins_at_nothing() -> None:
    critic = Critic(3, 5, 4, 8, 0)
    gains = log_ratio(critic, torch.randn(16, 3), torch.randn(16, 5))
    assert torch.allclose(gains, torch.zeros(16), atol=1e-6)


@pytest.mark.parametrize("information", [0.0, 1.0])
def test_neighbours_read_two_dimensions(information: float) -> None:
    case = gaussian(2000, 2, information, 2 if information else 1)
    (found,) = measure(Ksg(), case.data)
    assert abs(found.value - information) < 0.06 and found.low < information + 0.03 and found.high > information - 0.03


def test_neighbours_by_counting_pairs() -> None:
    draw = np.random.default_rng(1)
    x, t = draw.standard_normal((60, 1)), draw.standard_normal((60, 2))
    t[:, :1] += x
    far_x, far_t = (np.abs(rows[:, None] - rows[None]).max(2) for rows in (x, t))
    joint = np.maximum(far_x, far_t)
    reach = np.sort(joint, axis=1)[:, 4]  # the row itself is the first
    from scipy.special import digamma

    counts = [(far < reach[:, None]).sum(1) - 1 for far in (far_x, far_t)]
    expected = digamma(4) + digamma(60) - np.mean(digamma(counts[0] + 1) + digamma(counts[1] + 1))
    assert math.isclose(ksg_information(x, t, 4), expected, rel_tol=1e-12)


def test_neighbours_refuse_what_they_cannot_see() -> None:
    (wide,) = measure(Ksg(), gaussian(4000, 8, 2.0, 8).data)
    assert math.isnan(wide.value) and "width 8 is above 2" in wide.reason
    rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 1
    (flat,) = measure(Ksg(), Observations(rows, rows.clone()))
    assert math.isnan(flat.value) and "never changes" in flat.reason
