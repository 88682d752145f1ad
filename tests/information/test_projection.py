"""Leading directions: those of most variance, orthonormal, from mapped files too; and what they share is at most the whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.information_cases import gaussian
from ibnorm_megatron.information import observations
from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.gaussian import Gaussian
from ibnorm_megatron.information.observations import Observations
from ibnorm_megatron.information.projection import leading


def test_they_are_the_first_of_a_singular_value_decomposition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    rows = (draw.normal(size=(500, 12)) * np.linspace(3, 1, 12) @ np.linalg.qr(draw.normal(size=(12, 12)))[0] + 5).astype(
        np.float32
    )
    np.save(tmp_path / "rows.npy", rows)
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(vt[np.arange(12), np.abs(vt).argmax(1)])
    expected = (u * s * signs)[:, :4]
    monkeypatch.setattr(observations, "CHUNK", 12 * 37)  # many parts
    for matrix in (rows, torch.from_numpy(rows), np.load(tmp_path / "rows.npy", mmap_mode="r")):
        found = leading(matrix, 4)
        assert found.shape == (500, 4)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(leading(rows, 12), rows)
    assert np.array_equal(leading(rows, 20), rows)


def test_what_they_share_is_at_most_the_whole_and_most_of_it_where_it_lies_there() -> None:
    case = gaussian(4000, 16, 1.5, 2, fall=1.0, noise=0.1)
    assert case.data.x is not None
    few = Observations(leading(case.data.t, 8), leading(case.data.x, 8), documents=case.data.documents)
    (part,), (whole,) = measure(Gaussian(), few), measure(Gaussian(), case.data)
    assert not math.isnan(part.value)
    assert part.value < whole.value + 0.02
