"""From which checkpoints a run may branch, by learning rates; and what a branch that is killed early leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ibnorm_megatron.train.callbacks.guard import GuardReports
from ibnorm_megatron.train.callbacks.records import Summary
from ibnorm_megatron.train.config import GuardConfig, TrainConfig
from ibnorm_megatron.train.continuing import _rate_problems
from ibnorm_megatron.train.digests import _sparse
from ibnorm_megatron.train.guard import Guard
from ibnorm_megatron.train.run_folder import RunFolder
from ibnorm_megatron.train.schedule import learning_rate

_SIZES = {"sequence_length": 8, "global_batch_size": 1, "micro_batch_size": 1, "lr": 1.0}


def _train(steps: int, warmup: int, decay: int, schedule: str = "wsd") -> TrainConfig:
    shares = {"warmup_fraction": warmup / steps, "decay_fraction": decay / steps}
    return TrainConfig(steps=steps, schedule=schedule, min_lr_ratio=0.0, **shares, **_SIZES)  # type: ignore[arg-type]


_RUNS = st.builds(
    lambda warmup, peak, decay, schedule: _train(warmup + peak + decay, warmup, decay, schedule),
    st.integers(0, 6),
    st.integers(1, 20),
    st.integers(1, 10),
    st.sampled_from(["wsd", "cosine"]),
)


@settings(deadline=None)
@given(parent=_RUNS, own=_RUNS, step=st.integers(1, 30))
def test_a_branch_is_refused_where_its_rate_would_jump(parent: TrainConfig, own: TrainConfig, step: int) -> None:
    """It is admitted where all rates before are those of the run itself, and where both are at the peak; nowhere else."""
    assume(step < min(parent.steps, own.steps))
    refused = list(_rate_problems(parent, own, step, "trunk"))
    same = all(learning_rate(parent, n) == learning_rate(own, n) for n in range(1, step + 1))
    at_peak = all(learning_rate(train, step) == train.lr for train in (parent, own))
    assert len(refused) == (not same and not at_peak)


def test_what_a_run_records_of_itself_begins_anew_with_a_branch() -> None:
    summary, guard = Summary(), GuardReports(Guard(GuardConfig()))
    judged = {**guard.state(), "skipped_steps": 5, "failed_in_a_row": 2}
    summary.branch({"seconds": 1e9})
    guard.branch(judged)
    assert summary.state()["seconds"] < 1e6
    assert guard.state() == {**judged, "skipped_steps": 0}, "what is usual is known"


def test_the_digests_of_samples_are_of_powers_of_two() -> None:
    assert [list(_sparse(total)) for total in (0, 1, 2, 3, 9)] == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 4, 8]]


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_peak_lasts_as_long_as_it_says(schedule: str, warmup: int) -> None:
    train = _train(20, warmup, 5, schedule)
    if train.peak_until:
        assert learning_rate(train, train.peak_until) == train.lr
    assert learning_rate(train, train.peak_until + 1) < train.lr


def test_a_branch_that_is_killed_before_it_has_saved_begins_again(tmp_path: Path) -> None:
    """Its card is no resumed one's, and what it recorded is of steps that are run again."""
    folder = RunFolder(tmp_path / "run")
    with folder.claim("a: 1\n"):
        folder.begin({"started": "1", "parent": {"step": 12}}, 12, branches=True)
        folder.append_metrics({"step": 13})
        folder.begin({"started": "2", "parent": {"step": 12}}, 12, branches=True)
    assert folder.read_card() == {"started": "2", "parent": {"step": 12}}
    assert folder.read_metrics() == []
    assert (folder.path / "metrics.superseded-1.jsonl").is_file()
