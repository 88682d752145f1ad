"""Ranks that die, hang, stop or lag: the others end in bounded time and say who it was."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..workers.ranks import Ranks, ranks

pytestmark = pytest.mark.slow

PLANTS = "tests.workers.plants"


def _arguments(data: Path, run: Path, *overrides: str) -> list[str]:
    sizes = [f"model.vocab_size={VOCABULARY}", "train.global_batch_size=6", "train.micro_batch_size=1", "train.steps=3000"]
    return ["configs/tiny_llama.yaml", f"data.path={data}", f"run.dir={run}", *sizes, "log.console=false", *overrides]


def _wait_for_records(run: Path, records: int, started: Ranks) -> None:
    deadline = time.monotonic() + 120
    metrics = run / "metrics.jsonl"
    while time.monotonic() < deadline and started.alive(0):
        if metrics.is_file() and metrics.read_text().count("\n") >= records:
            return
        time.sleep(0.05)
    pytest.fail(f"the run made no {records} records: {started.said(0)}")


def _sentence(said: str, rank: int) -> str:
    """The one sentence that a rank said."""
    (line,) = [line for line in said.splitlines() if line]
    speaker = f"[rank {rank}] " if rank else ""
    assert line.startswith(f"{speaker}error: "), said
    return line.removeprefix(f"{speaker}error: ")


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_rank_is_named_at_once(tmp_path: Path, prepared: Path, victim: int) -> None:
    """Also the first one, which serves the store at which the ranks met."""
    run = tmp_path / "run"
    with ranks(_arguments(prepared, run), 3, tmp_path / "logs") as started:
        _wait_for_records(run, 5, started)
        started.signal(victim, signal.SIGKILL)
        others = [rank for rank in range(3) if rank != victim]
        assert started.codes(others, seconds=20) == [1, 1]  # far below run.dead_after
        for rank in others:
            said = _sentence(started.said(rank), rank)
            assert re.match(rf"rank {victim} is gone \(host \S+, pid \d+\): its process has ended", said), said
            assert said.endswith("the same command goes on from the newest checkpoint.")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_suspended_rank_counts_as_dead_after_a_while(tmp_path: Path, prepared: Path, victim: int) -> None:
    """Its process is there and its connections are open: no collective would ever end."""
    run = tmp_path / "run"
    with ranks(_arguments(prepared, run, "run.dead_after=3"), 3, tmp_path / "logs") as started:
        _wait_for_records(run, 5, started)
        time.sleep(2.5)  # signs come every second, and say which step a rank is in
        started.signal(victim, signal.SIGSTOP)
        others = [rank for rank in range(3) if rank != victim]
        assert started.codes(others, seconds=40) == [1, 1]
        for rank in others:
            said = _sentence(started.said(rank), rank)
            assert re.match(rf"rank {victim} is gone \(host \S+, pid \d+\): no ", said), said
            assert victim == 0 or re.search(r"its process is stopped, last seen in step \d+ \(", said), said


def test_a_whole_world_that_is_suspended_goes_on(tmp_path: Path, prepared: Path) -> None:
    """As a scheduler does that lends the machine to others: longer than any bound, and nobody is taken for dead."""
    run = tmp_path / "run"
    bounds = ["run.dead_after=3", "run.stall_after=3"]
    with ranks(_arguments(prepared, run, *bounds), 2, tmp_path / "logs") as started:
        _wait_for_records(run, 5, started)
        for rank in range(2):
            started.signal(rank, signal.SIGSTOP)
        time.sleep(6)
        records = len(RunFolder(run).read_metrics())
        for rank in range(2):
            started.signal(rank, signal.SIGCONT)
        _wait_for_records(run, records + 50, started)
        started.signal(1, signal.SIGUSR1)
        assert started.codes([0, 1], seconds=60) == [0, 0]
        assert RunFolder(run).read_summary()["status"] == "stopped"
        assert RunFolder(run).latest_checkpoint()
        assert started.said(1) == ""


def test_a_rank_that_computes_without_a_sign_is_not_dead(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    bounds = ["run.dead_after=2", "train.steps=6"]
    with ranks(_arguments(prepared, run, *bounds), 2, tmp_path / "logs", f"{PLANTS}:hold_the_lock") as started:
        assert started.codes([0, 1], seconds=180) == [0, 0], started.said(0) + started.said(1)
    assert RunFolder(run).read_summary()["status"] == "complete"


@pytest.mark.parametrize(
    ("plant", "own", "others"),
    [
        (
            "raise_in_step",
            "Traceback",
            r"rank 1 is stopped \(host \S+, pid \d+\): it stopped by itself \(KeyError: 'no such",
        ),
        (
            "fail_in_step",
            r"error: the disk is full",
            r"rank 1 is stopped \(.*\): .* \(the disk is full: no space is left; make",
        ),
    ],
)
def test_a_rank_that_stops_by_itself_is_named_with_its_reason(
    tmp_path: Path, prepared: Path, plant: str, own: str, others: str
) -> None:
    with ranks(_arguments(prepared, tmp_path / "run"), 3, tmp_path / "logs", f"{PLANTS}:{plant}") as started:
        assert started.codes([0, 1, 2], seconds=90) == [1, 1, 1]
        assert re.search(own, started.said(1))
        for rank in (0, 2):
            assert re.match(others, _sentence(started.said(rank), rank))


def test_a_stall_is_reported_with_every_stack(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    with ranks(_arguments(prepared, run, "run.stall_after=4"), 2, tmp_path / "logs", f"{PLANTS}:hang_in_data") as started:
        assert started.codes([0, 1], seconds=120) == [1, 1]
        for rank in range(2):
            said = _sentence(started.said(rank), rank)
            assert re.match(r"the run is stalled: nothing has moved for \d+ s on rank [01], in step 4 \((data|step)\)", said)
            assert "(rank 1 in step 4 (data), rank 0 in step 4 (step))" in said
    stacks = {path.name[:6]: path.read_text() for path in (run / "stalls").iterdir()}
    assert set(stacks) == {"rank-0", "rank-1"}
    assert "all_reduce" in stacks["rank-0"] and "plants.py" in stacks["rank-1"]


def test_one_process_alone_is_watched_too(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    plant = f"{PLANTS}:hang_in_data_alone"
    with ranks(_arguments(prepared, run, "run.stall_after=4"), 1, tmp_path / "logs", plant) as started:
        assert started.codes([0], seconds=120) == [1]
        assert re.match(r"the run is stalled: .* on rank 0, in step 4 \(data\); see", _sentence(started.said(0), 0))
    (stack,) = (run / "stalls").iterdir()
    assert "plants.py" in stack.read_text()


def test_a_stop_that_hangs_is_bounded_and_leaves_the_checkpoint_whole(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    bounds = ["run.stop_within=3", "run.dead_after=300", "checkpoint.interval=5"]
    with ranks(_arguments(prepared, run, *bounds), 2, tmp_path / "logs") as started:
        _wait_for_records(run, 12, started)
        started.signal(1, signal.SIGSTOP)
        time.sleep(1)  # the other one is in a step that cannot end
        started.signal(0, signal.SIGTERM)
        assert started.codes([0], seconds=30) == [1]
        said = _sentence(started.said(0), 0)
        assert re.match(r"the stop is not done: it was asked for by SIGTERM 3 s ago, and rank 0 is still in step", said), said
    latest = RunFolder(run).latest_checkpoint()
    assert latest
    step = int(latest.removeprefix("step-"))
    with ranks(_arguments(prepared, run, *bounds), 2, tmp_path / "again") as again:
        _wait_for_records(run, step + 20, again)  # far beyond those of the run before, which are still there at its start
        again.signal(0, signal.SIGTERM)
        assert again.codes([0, 1], seconds=120) == [0, 0], again.said(0)
    assert RunFolder(run).read_card()["resumed"][0]["step"] == step


def test_ranks_that_never_come_and_a_port_that_is_taken(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    arguments = _arguments(prepared, run, "run.stall_after=3")
    with ranks(arguments, 6, tmp_path / "absent", present=[0, 2]) as started:
        assert started.codes([0, 2], seconds=60) == [1, 1]
        for rank in (0, 2):
            said = _sentence(started.said(rank), rank)
            assert re.match(r"the ranks' meeting place is 127\.0\.0\.1:\d+: not all 6 ranks came within 3 s", said)
        assert "missing are 1, 3, 4, 5;" in started.said(0)
    with ranks(arguments, 2, tmp_path / "headless", present=[1]) as started:
        assert started.codes([1], seconds=60) == [1]
        assert "rank 1 does not reach it within 3 s; see whether rank 0 lives" in _sentence(started.said(1), 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with ranks(arguments, 2, tmp_path / "taken", present=[0], MASTER_PORT=port) as started:
            assert started.codes([0], seconds=60) == [2]
            said = _sentence(started.said(0), 0)
            assert said.startswith(f"MASTER_PORT is {port}: another program listens there on 127.0.0.1; give the launcher")
    with ranks(arguments, 2, tmp_path / "no-port", present=[0], MASTER_PORT="x") as started:
        assert started.codes([0], seconds=60) == [2]
        assert _sentence(started.said(0), 0).startswith("MASTER_PORT is 'x': MASTER_ADDR is 127.0.0.1")
    assert not run.exists()


@pytest.mark.parametrize("plant", ["slow_data", "slow_computing"])
def test_a_rank_that_lags_is_named_once(tmp_path: Path, prepared: Path, plant: str) -> None:
    run = tmp_path / "run"
    arguments = _arguments(prepared, run, "train.steps=20", "log.interval=2", "log.console=true")
    with ranks(arguments, 2, tmp_path / "logs", f"{PLANTS}:{plant}") as started:
        assert started.codes([0, 1], seconds=180) == [0, 0]
        said = started.said(0)
    events = [record for record in RunFolder(run).read_metrics() if record.get("event") == "straggler"]
    (event,) = [event for event in events if event["rank"] == 1]  # a machine that is busy may slow the other one, later
    assert (event["step"] in (6, 8, 10), event["host"]) == (True, os.uname().nodename)
    assert event["own_seconds"] > 0.29 and event["own_seconds"] > 1.5 * event["median_own_seconds"]
    assert (event["data_seconds"] > 0.29) == (plant == "slow_data")
    assert said.count(f"step {event['step']}: {event['says']}") == 1
