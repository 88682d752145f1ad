"""The smallest gain that a design finds, against simulation and against what has to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ibnorm_megatron.lab.power import Cells, cells_of, found_share, smallest_gain, standard_error

from .studies import study


@pytest.mark.parametrize(("sizes", "seeds", "ends", "arms"), [(2, 3, 2, 3), (3, 5, 3, 4), (1, 6, 1, 1)])
def test_the_smallest_gain_is_found_in_four_of_five_simulations(sizes: int, seeds: int, ends: int, arms: int) -> None:
    slopes = np.repeat(np.linspace(0.5, 0.3, sizes)[:, None] * np.linspace(1, 0.7, ends), seeds, axis=0)
    cells = Cells(slopes, arms)
    gain = smallest_gain(cells, 0.005)
    assert found_share(cells, gain, 0.005) == pytest.approx(0.8, abs=0.06)
    assert found_share(cells, 0.0, 0.005) <= 1.6 * 0.05 / arms
    assert found_share(cells, 2 * gain, 0.005) > 0.95


def test_it_falls_with_seeds_and_grows_with_noise_and_arms(tmp_path: Path) -> None:
    few, many = (cells_of(study(_new(tmp_path, str(n)), seeds=list(range(1, n + 1)))) for n in (3, 12))
    assert smallest_gain(many) < 0.5 * smallest_gain(few) + 0.001
    assert standard_error(many) == pytest.approx(standard_error(few) / 2)
    assert smallest_gain(few, 0.010) > 1.9 * smallest_gain(few, 0.005)
    assert smallest_gain(Cells(few.slopes, 10)) > smallest_gain(few)
    assert few.arms == 3  # neither the baseline nor the control
    assert smallest_gain(Cells(few.slopes[:1], 1)) == float("inf")


def test_slopes_are_those_of_the_surface(tmp_path: Path) -> None:
    cells = cells_of(study(tmp_path))
    assert cells.slopes.shape == (6, 2)
    assert (cells.slopes > 0).all() and (cells.slopes < 1).all()
    assert (np.diff(cells.slopes, axis=1) < 0).all()  # longer training gains less
    assert cells.slopes[0, 0] > cells.slopes[-1, 0]  # and so do larger models


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
