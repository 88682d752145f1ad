"""Processes that tests fork are real ones: see :mod:`tests.workers.forked`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from .distributed import ROOT, environment, python, run_ranks
from .workers.forked import Forked
from .workers.ranks import ranks

SAYS = "tests.workers.says"


def _wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OF_THE_TEST", "now")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.chdir(tmp_path)
    done = python(SAYS, 3, "more")
    said = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, "more of it\n")
    assert said["pid"] != os.getpid()
    assert (said["folder"], said["arguments"]) == (str(ROOT), ["3", "more"])
    assert (said["environ"]["OF_THE_TEST"], said["environ"]["RANK"]) == ("now", None)
    monkeypatch.delenv("OF_THE_TEST")
    assert json.loads(python(SAYS, 0).stdout)["environ"]["OF_THE_TEST"] is None, "nothing of one is left for the next"


def test_ranks_are_told_what_a_launcher_tells(tmp_path: Path) -> None:
    with ranks(["0"], 2, tmp_path, module=SAYS) as started:
        assert started.codes([0, 1], seconds=60) == [0, 0]
        told = [json.loads(started.said(rank).splitlines()[0])["environ"] for rank in (0, 1)]
    assert [(of["RANK"], of["WORLD_SIZE"]) for of in told] == [("0", "2"), ("1", "2")]
    assert told[0]["MASTER_PORT"] == told[1]["MASTER_PORT"] is not None


def test_a_rank_that_fails_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"ended with \[4, 4\]\nrank 0:\n"):
        run_ranks(2, SAYS, 4)


def test_signals_reach_it_and_are_its_end(tmp_path: Path) -> None:
    process = Forked(SAYS, ["wait"], tmp_path / "heard", environment())
    _wait(lambda: process.err)
    _wait(lambda: signal.SIGTERM in _caught(process.pid))
    process.signal(signal.SIGTERM)
    assert process.finished(60).returncode == 5
    process = Forked(SAYS, ["wait"], tmp_path / "killed", environment())
    assert process.wait(0.1) is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.finished(0.1)
    assert process.wait(60) == -signal.SIGKILL


def _caught(pid: int) -> Iterator[int]:
    """The signals that a process has a handler for."""
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    mask = int(status["SigCgt"], 16)
    return (number for number in range(1, 65) if mask >> (number - 1) & 1)


_PARENT = """
import sys, threading
from pathlib import Path
from tests.workers.forked import Forked, environment
process = Forked("tests.workers.says", ["wait"], Path(sys.argv[1]) / "orphan", environment())
print(process.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
def test_nothing_is_left_of_a_test_process_that_was_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = psutil.Process(int(parent.stdout.readline()))
    server = orphan.parent()
    assert server is not None and server.ppid() == parent.pid
    parent.kill()
    parent.communicate()
    _wait(lambda: not server.is_running() and not orphan.is_running())
