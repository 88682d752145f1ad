"""What counts as a jump, how many failures are too many, and that a guard that was put down and taken up judges alike."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibnorm_megatron.train.config import GuardConfig
from ibnorm_megatron.train.guard import Guard, Usual


def _guard(**fields: Any) -> Guard:
    return Guard(GuardConfig(**{"spikes": "skip", "spike_window": 16, **fields}))


def _take(guard: Guard, loss: float, grad_norm: float = 1.0, searching: bool = False) -> bool:
    """One step as TrainStep has it; the engine skips what is not finite."""
    skipped = guard.judge(loss, grad_norm) or not math.isfinite(grad_norm)
    guard.count(skipped=skipped, searching=searching)
    return skipped


def _noise(number: int) -> list[float]:
    draws = torch.randn(number, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (3 + 0.1 * draws).tolist()


def test_deviations_are_those_of_median_and_mad() -> None:
    usual = Usual(16)
    for value in [1, 2, 3, 4, 5, 6, 7, 100]:  # median 4.5, absolute deviations from it 0.5 0.5 1.5 1.5 2.5 2.5 3.5 95.5
        usual.add(float(value))
    assert usual.deviations(10.0) == (4.5, pytest.approx(5.5 / (1.4826 * 2)))
    assert usual.deviations(0.0)[1] < 0


def test_only_upward_jumps_count_and_only_once_half_a_window_is_known() -> None:
    guard = _guard()
    assert not any(_take(guard, loss) for loss in [3.0, 300.0, *_noise(6)]), "too little is known"
    assert not _take(guard, 0.001, 0.0001), "a fall is no jump"
    assert _take(guard, 30.0)
    (spike,) = guard.spikes
    assert (spike.of, spike.value) == ("loss", 30.0)
    assert spike.usual == pytest.approx(3, abs=0.2) and spike.deviations > 10
    assert _take(guard, 3.0, 50.0) and [spike.of for spike in guard.spikes] == ["grad_norm"]
    assert _take(guard, 30.0, 50.0) and [spike.of for spike in guard.spikes] == ["loss", "grad_norm"]
    assert guard.skipped_steps == 3


@pytest.mark.parametrize("value", [2.5, 1e-20, 0.0])
def test_noise_of_a_series_that_hardly_changes_is_no_jump(value: float) -> None:
    guard = _guard()
    for number in range(40):
        assert not _take(guard, value * (1 + 1e-3 * (number % 3)), value * (1 + 1e-3 * (number % 2)))
    assert not _take(guard, value * 1.05, value)
    assert _take(guard, value * 1.2 + 1e-20, value)


def test_a_report_leaves_every_step_in() -> None:
    guard = _guard(spikes="report")
    assert not any(_take(guard, loss) for loss in [*_noise(16), 30.0])
    (event,) = guard.events(17)
    assert (event["event"], event["of"], event["step"], event["skipped"]) == ("spike", "loss", 17, False)
    assert "skipped" not in event["says"]
    json.dumps(event, allow_nan=False)


@pytest.mark.parametrize("spikes", ["skip", "report"])
def test_a_new_level_is_taken_after_a_quarter_of_a_window(spikes: str) -> None:
    """And a run never leaves out steps for ever."""
    guard = _guard(spikes=spikes, spike_window=32)
    for loss in _noise(32):
        _take(guard, loss)
    flagged = [bool(_take(guard, 30.0 + 0.1 * (number % 3)) or guard.spikes) for number in range(60)]
    assert flagged == [True] * 8 + [False] * 52
    assert guard.skipped_steps == (7 if spikes == "skip" else 0), "the eighth is taken"
    assert not _take(guard, 3.0) and _take(guard, 300.0) == (spikes == "skip")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_no_series_is_left_out_for_long(losses: list[float]) -> None:
    guard = _guard()
    in_a_row = [0]
    for loss in losses:
        in_a_row.append(in_a_row[-1] + 1 if _take(guard, loss) else 0)
    assert max(in_a_row) < 4


def test_failures_are_counted_in_a_row() -> None:
    guard = _guard(stop_after=3)
    assert not guard.at_the_brink
    assert _take(guard, math.nan, math.inf)
    assert _take(guard, math.inf, 1.0), "a finite gradient of a loss that is not"
    assert (guard.failed_in_a_row, guard.at_the_brink, guard.exhausted) == (2, True, False)
    (event,) = guard.events(2)
    assert (event["event"], event["in_a_row"]) == ("not_finite", 2)
    _take(guard, 3.0)
    assert guard.failed_in_a_row == 0 and guard.events(3) == []
    for _ in range(3):
        _take(guard, 3.0, math.inf)
    assert guard.exhausted and guard.skipped_steps == 5
    guard.reprieve()
    assert not guard.exhausted


def test_a_search_for_a_loss_scale_is_no_failure_but_a_loss_that_is_not_finite_is() -> None:
    guard = _guard(stop_after=2)
    for _ in range(20):
        assert _take(guard, 3.0, math.inf, searching=True)
    assert (guard.failed_in_a_row, guard.skipped_steps, guard.events(20)) == (0, 20, [])
    _take(guard, 3.0, math.inf)
    _take(guard, 3.0, math.inf, searching=True)
    assert guard.failed_in_a_row == 1, "it counts neither way"
    _take(guard, math.nan, math.inf, searching=True)
    assert guard.exhausted


def test_what_is_off_is_off() -> None:
    assert not _guard(stop_after=0, spikes="off").active
    guard = _guard(stop_after=0)
    for _ in range(50):
        _take(guard, math.nan, math.nan)
    assert not guard.exhausted and not guard.at_the_brink
    guard = _guard(spikes="off")
    assert guard.active and not any(_take(guard, loss) for loss in [*_noise(30), 1e9])


@pytest.mark.parametrize("stopped_after", [3, 9, 16, 18, 20, 40])
def test_a_guard_goes_on_as_if_never_put_down(stopped_after: int) -> None:
    """Through JSON: its state is plain values."""
    series = [*_noise(17), 50.0, 50.0, 3.0, math.nan, math.nan, 60.0, 60.0, 60.0, 60.0, *_noise(20), 100.0, 3.0]
    whole, first, second = _guard(), _guard(), _guard()
    taken = [_take(whole, loss) for loss in series]
    begun = [_take(first, loss) for loss in series[:stopped_after]]
    second.restore(json.loads(json.dumps(first.state())))
    assert begun + [_take(second, loss) for loss in series[stopped_after:]] == taken
    assert second.state() == whole.state()
    assert 4 < sum(taken) < 10
