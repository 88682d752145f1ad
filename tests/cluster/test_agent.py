"""A launcher is looked after: signals reach its ranks, and it is killed where it does not end by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from ..distributed import ROOT, environment

#: A launcher that starts one rank, and after that rank's end hears of nothing any more, as one that reads from a dead host.
_DEAF = """
import signal, subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", {rank!r}])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
rank.wait()
open({mark!r}, "w").close()
time.sleep(600)
"""
_WAITING_RANK = (
    "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print('ready', flush=True); time.sleep(600)"
)


def _start(launcher: str, before: str = "") -> subprocess.Popen[str]:
    program = f"""
    import os, sys
    from ibnorm_megatron.cluster import agent
    from ibnorm_megatron.cluster.rendezvous import Rendezvous
    from ibnorm_megatron.errors import run_command
    own = None
    {before}
    sys.exit(run_command(lambda: agent.supervise([sys.executable, "-c", {launcher!r}], os.environ, own)))
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=ROOT, env=environment(), text=True, **pipes)


def _wait(so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stop_reaches_the_ranks_and_the_launchers_code_comes_back(tmp_path: Path) -> None:
    launcher = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {_WAITING_RANK!r}]) + 7)"
    process = _start(launcher)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 7


def test_a_launcher_is_told_to_stop_where_its_agent_is_killed() -> None:
    process = _start(_WAITING_RANK)
    assert process.stdout and process.stdout.readline() == "ready\n"
    (launcher,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    try:
        launcher.wait(60)
    finally:
        with suppress(psutil.NoSuchProcess):
            launcher.kill()


def test_a_launcher_that_does_not_end_when_asked_to_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "ranks are gone"
    process = _start(_DEAF.format(rank=_WAITING_RANK, mark=str(mark)), "agent._ENDING = 1.0")
    assert process.stdout and process.stdout.readline() == "ready\n"
    (launcher,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.startswith("error: torchrun is killed: it has no ranks, and has not ended ")
    assert mark.exists()
    assert not launcher.is_running()


def test_a_launcher_that_is_cut_off_is_killed(tmp_path: Path) -> None:
    """And no sooner: as long as the meeting place answers, hosts may wait for one another."""
    mark, open_mark = tmp_path / "ranks are gone", tmp_path / "open"
    open_mark.touch()
    reach = f"agent.answers = lambda name, port: os.path.exists({str(open_mark)!r})"
    own = "own = Rendezvous(1, (2, 2), node_rank=1, address='node1', cut_off_after=2)"
    process = _start(_DEAF.format(rank="pass", mark=str(mark)), f"{reach}; {own}")
    _wait(mark.exists)
    time.sleep(4)
    assert process.poll() is None
    open_mark.unlink()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.startswith("error: this host is cut off: no rank is left here and node1:29500, where the hosts meet, has not")
