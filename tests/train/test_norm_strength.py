"""The figure that says how far rows reach beyond lambda, against torch's own variance."""

from __future__ import annotations

import math

import pytest
import torch

from ibnorm_megatron.norms.modules import IBNorm
from ibnorm_megatron.train.callbacks.norm_strength import _ratio, _variance


def test_sigma_is_the_root_of_the_mean_variance_of_all_ranks_rows() -> None:
    x = 3.0 + torch.randn(7, 2, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 4.0])[:, None]
    norm = IBNorm(16)
    shards = [(None, 4.0, *_variance(norm, part)) for part in (x[:5], x[5:])]
    sigma = math.sqrt(float(x.double().var(-1, unbiased=False).mean()))
    assert _ratio(shards) == pytest.approx(sigma / 4.0, rel=1e-12)


def test_in_units_of_sigma_it_is_one_over_lambda() -> None:
    norm = IBNorm(16, scale="relative")
    assert _ratio([(1.0, 4.0, *_variance(norm, torch.randn(3, 16)))]) == 0.25
