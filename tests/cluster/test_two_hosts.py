"""One run on two hosts, by every launcher: the loss curve is that of one host. One that is cut off ends, the other goes on."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path

import pytest
import yaml

from ibnorm_megatron.train.run_folder import RunFolder

from ..distributed import run_ranks
from .conftest import FEW, Shared, arguments, losses, needs_programs
from .hosts import NODES, Hosts, Program, wait_until
from .ssh import ssh_servers

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

#: Everything that a shell, pdsh or a launcher reads as something else.
AWKWARD = """it's "$HOME" `id` $(id) %h %n {a,b} * ; & |# \\"""


def _run(data: Path, run: Path, *overrides: str) -> list[str]:
    return ["launch/torchrun.sh", *arguments(data, run, *overrides)]


def _said(programs: list[Program]) -> str:
    return "\n".join(f"{program.log.name}:\n{program.said[-6000:]}" for program in programs)


def test_torchrun_on_two_hosts_gives_the_curve_of_one(
    hosts: Hosts, shared: Shared, tmp_path: Path, one_host: dict[int, float]
) -> None:
    """By the lines of docs/cluster.md."""
    setup, _, start = shared.lines("Two hosts, torchrun")
    words = ["bash", "-ec", f"{setup}{start.rstrip()} {shlex.join([*FEW, f'log.wandb_project={AWKWARD}'])}"]
    late = hosts.start("node2", *words, log=tmp_path / "node2.log")
    time.sleep(1.5)  # the host at which they meet comes last
    programs = [hosts.start("node1", *words, log=tmp_path / "node1.log"), late]
    assert [program.code(420) for program in programs] == [0, 0], _said(programs)
    run = shared.folder / "runs" / "two-hosts"
    assert losses(run) == one_host
    assert yaml.safe_load((run / "config.yaml").read_text())["log"]["wandb_project"] == AWKWARD


@pytest.mark.parametrize("launcher", ["openssh", "pdsh"])
def test_deepspeed_on_two_hosts_gives_the_curve_of_one(
    launcher: str, hosts: Hosts, shared: Shared, tmp_path: Path, one_host: dict[int, float]
) -> None:
    """By the lines of docs/cluster.md."""
    needs_programs("sshd", "ssh", package="openssh-server openssh-client")
    needs_programs(*["pdsh"][: launcher == "pdsh"], package="pdsh")
    setup = shared.lines("Two hosts, torchrun")[0]
    (start,) = shared.lines("Two hosts, DeepSpeed")
    run = tmp_path / "run"
    overrides = shlex.join([*FEW, f"run.dir={run}", f"log.wandb_project={AWKWARD}"])
    given = {"LAUNCHER": launcher, "WANDB_API_KEY": "a-key-of-nobody", "HOME": str(tmp_path)}
    with ssh_servers(hosts, tmp_path / "ssh"):
        words = ["bash", "-ec", f"{setup}{start.rstrip()} {overrides}"]
        program = hosts.start("node1", *words, log=tmp_path / "deepspeed.log", **given)
        assert program.code(420) == 0, program.said[-8000:]
    assert losses(run) == one_host
    assert yaml.safe_load((run / "config.yaml").read_text())["log"]["wandb_project"] == AWKWARD
    assert "a-key-of-nobody" not in program.said


def test_a_host_that_is_cut_off_ends_and_the_other_goes_on_alone(hosts: Hosts, prepared: Path, tmp_path: Path) -> None:
    steps = ["train.steps=60", "checkpoint.interval=10", "run.dead_after=8"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    meeting = {"NNODES": "1:2", "NPROC_PER_NODE": "2", "MASTER_ADDR": "node1", "MAX_RESTARTS": "1"}
    quick = {"CUT_OFF_AFTER": "5", "RDZV_CONF": "last_call_timeout=10"}
    programs = [
        hosts.start(node, "bash", *_run(prepared, run, *steps), log=tmp_path / f"{node}.log", **meeting, **quick)
        for node in NODES
    ]
    first, second = programs
    wait_until(lambda: (run / "metrics.jsonl").is_file() and max(losses(run), default=0) >= 25, 300, programs)
    assert len(hosts.processes("node2")) >= 4, _said(programs)  # the script, torchrun, and two ranks: both hosts train
    assert "resumed" not in RunFolder(run).read_card()
    hosts.cut_off("node2")
    cut = time.monotonic()
    assert second.code(90) == 1, _said(programs)
    isolated = time.monotonic() - cut
    assert "this host is cut off: no rank is left here and node1:29500" in second.said
    assert not hosts.processes("node2")
    wait_until(lambda: "resumed" in RunFolder(run).read_card(), 150, [first])
    resumed = time.monotonic() - cut
    print(f"cut off: the isolated host has ended after {isolated:.0f} s, the other has gone on after {resumed:.0f} s")
    assert first.code(420) == 0, _said(programs)
    (going_on,) = RunFolder(run).read_card()["resumed"]
    assert going_on["step"] >= 20
    run_ranks(4, "ibnorm_megatron.train", *arguments(prepared, whole, *steps[:1]))
    undisturbed, found = losses(whole), losses(run)
    assert sorted(found) == sorted(undisturbed) == list(range(1, 61))
    for step, loss in undisturbed.items():
        assert found[step] == pytest.approx(loss, rel=1e-5 if step > going_on["step"] else 0), step


def test_a_host_that_is_cut_off_from_deepspeeds_launcher_ends_too(hosts: Hosts, prepared: Path, tmp_path: Path) -> None:
    needs_programs("sshd", "ssh", package="openssh-server openssh-client")
    run, hostfile = tmp_path / "run", tmp_path / "hosts"
    hostfile.write_text("".join(f"{node} slots=1\n" for node in NODES))
    endless = [
        "train.steps=100000",
        "checkpoint.interval=5",
        "parallel.tensor=1",
        "parallel.sequence=false",
        "run.dead_after=8",
    ]
    given = {
        "HOSTFILE": str(hostfile),
        "LAUNCHER": "openssh",
        "SSH_OPTIONS": "-o ServerAliveInterval=3 -o ServerAliveCountMax=2",
    }
    with ssh_servers(hosts, tmp_path / "ssh"):
        words = ["bash", "launch/deepspeed.sh", *arguments(prepared, run, *endless)]
        program = hosts.start("node1", *words, log=tmp_path / "deepspeed.log", **given)
        wait_until(lambda: (run / "metrics.jsonl").is_file() and max(losses(run), default=0) >= 12, 300, [program])
        assert hosts.ours("node2"), program.said
        hosts.cut_off("node2")
        cut = time.monotonic()
        assert program.code(120) == 1, program.said[-8000:]
        launcher = time.monotonic() - cut
        wait_until(lambda: not hosts.ours("node2"), 120)
        print(f"cut off: the launcher has ended after {launcher:.0f} s, the isolated host after {time.monotonic() - cut:.0f} s")
    assert not hosts.ours("node1")
    assert "is gone (host node2" in program.said
    assert RunFolder(run).latest_checkpoint() is not None


def test_a_stop_of_one_host_saves_and_ends_on_both(hosts: Hosts, prepared: Path, tmp_path: Path) -> None:
    run, meeting = tmp_path / "run", {"NNODES": "2", "NPROC_PER_NODE": "1", "MASTER_ADDR": "node1"}
    words = ["bash", *_run(prepared, run, "train.steps=100000", "parallel.tensor=1", "checkpoint.interval=0")]
    codes = {"IBNORM_STOPPED_EXIT_CODE": "143"}
    programs = [hosts.start(node, *words, log=tmp_path / f"{node}.log", **meeting, **codes) for node in NODES]
    wait_until(lambda: (run / "metrics.jsonl").is_file() and max(losses(run), default=0) >= 3, 300, programs)
    programs[1].signal(signal.SIGTERM)
    ends = [program.code(120) for program in programs]
    assert ends == [1, 1], _said(programs)  # torchrun's own, where its ranks say that they are not done
    assert (RunFolder(run).read_summary() or {})["status"] == "stopped"
    assert RunFolder(run).latest_checkpoint() is not None
