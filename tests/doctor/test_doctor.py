"""The doctor on this machine, on machines that lack something, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.doctor import examine, network, report, storage
from ibnorm_megatron.doctor.finding import Finding, guarded, ok
from ibnorm_megatron.doctor.torch_side import Probe, _findings, _is_built_for

from ..distributed import ROOT, environment
from ..errors.mischief import installed

_DOCTOR = "import sys; from ibnorm_megatron.cli import main; sys.exit(main(sys.argv[1:]))"


_SHARED = "/dev/shm"  # noqa: S108 (nothing is made in it)


def _own_process(*arguments: object, before: str = "", **environ: str) -> tuple[int, dict[str, Any], str]:
    """The command in a process of its own, as JSON on stdout: exit code, report, and everything it said."""
    line = [sys.executable, "-c", _DOCTOR, "doctor", "--json", "-", *map(str, arguments)]
    if before:
        line = ["unshare", "--mount", "sh", "-c", f'{before} && exec "$@"', "sh", *line]
    given = {**environment(), "PYTHONPATH": str(ROOT), **environ}
    done = subprocess.run(line, cwd=ROOT, env=given, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stdout + done.stderr


def _found(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = (finding for finding in values["findings"] if finding["name"] == name)
    return found


@pytest.mark.slow
def test_this_machine_is_examined_and_nothing_stays_of_it(tmp_path: Path) -> None:
    started = time.monotonic()
    secrets = {"WANDB_API_KEY": "planted-key-0123456789", "HF_TOKEN": "hf_planted9876543210"}
    code, values, said = _own_process("--dir", tmp_path, WANDB_MODE="", **secrets)
    assert code == 0, said
    assert values["format"] == "ibnorm doctor"
    assert values["exit_code"] == 0
    assert list(tmp_path.iterdir()) == []
    assert {finding["status"] for finding in values["findings"]} <= {"ok", "warning"}
    areas = "system libraries compilers storage network torch GPU kernels environment"
    assert list(dict.fromkeys(finding["area"] for finding in values["findings"])) == areas.split()
    import torch

    assert _found(values, "torch")["data"]["version"] == torch.__version__
    assert _found(values, "gloo")["data"]["ranks"] == 2
    assert _found(values, "versions")["data"]["versions"]["megatron-core"] == "0.16.1"
    assert "planted" not in said
    assert _found(values, "variables")["data"]["variables"]["WANDB_API_KEY"] == "(hidden)"
    assert _found(values, "log.wandb: auto")["data"]["mode"] == "online"
    assert f"{Path.home()}/" not in said
    assert values["seconds"] < 60, "10 on a machine that does nothing else"
    assert time.monotonic() - started < 90


@pytest.mark.slow
def test_a_machine_that_lacks_everything_is_told_what_to_do(tmp_path: Path) -> None:
    more = {
        "PATH": "/nowhere",
        "OMP_NUM_THREADS": "4096",
        "GLOO_SOCKET_IFNAME": "eth77",
        "MASTER_PORT": "99999",
        "RANK": "first",
    }
    code, values, _ = _own_process("--dir", tmp_path / "nowhere", **more)
    assert code == 1
    problems = {finding["name"]: finding for finding in values["findings"] if finding["status"] == "problem"}
    assert set(problems) == {f"folder {tmp_path}/nowhere", "RANK", "GLOO_SOCKET_IFNAME", "MASTER_PORT", "gloo"}
    assert all(problem["mend"] for problem in problems.values())
    warnings = {finding["name"]: finding for finding in values["findings"] if finding["status"] == "warning"}
    assert {"g++", "git", "threads"} <= set(warnings)
    assert "model.compile" in warnings["g++"]["says"]
    assert not any("itself failed" in finding["says"] for finding in values["findings"])
    assert _found(values, "torch")["status"] == "ok", "one thing that is missing hides no other"


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting takes root, in a namespace of its own"
)
def test_small_shared_memory_and_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts = [f"mount -t tmpfs -o size=4m tmpfs {place}" for place in (_SHARED, disk)]
    fill = f"head -c 3900000 /dev/zero > {disk}/filler"
    before = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    if before.returncode:
        pytest.skip(f"no namespace for mounts here: {before.stderr.decode()}")
    code, values, _ = _own_process("--dir", disk, before=" && ".join([*mounts, fill]))
    assert code == 1
    assert _found(values, _SHARED)["status"] == "warning"
    assert "--shm-size" in _found(values, _SHARED)["mend"]
    assert _found(values, "room")["status"] == "problem"
    assert "No space left on device" in _found(values, f"folder {disk}")["says"]


def test_old_and_missing_versions_have_their_mends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, version in (("torch", "2.4.1+cu121"), ("deepspeed", None), ("rich", "15.0.1")):
        installed(name, version)(tmp_path, monkeypatch)
    monkeypatch.setattr(report, "Probe", _NoProbe)
    found = {finding.name: finding for finding in examine(tmp_path, {}).findings if finding.area == "libraries"}
    assert (found["torch"].status, found["torch"].mend) == ("problem", "run: pip install 'torch>=2.6'")
    assert found["torch"].says == "2.4.1+cu121, where >=2.6 is needed"
    assert (found["deepspeed"].status, found["deepspeed"].says) == ("problem", "it is not installed")
    assert "rich 15.0.1 (15.0.0)" in found["versions"].says


class _NoProbe:
    def __init__(self, environ: Mapping[str, str]) -> None:
        pass

    def findings(self, gpu: bool) -> list[Finding]:
        return []


def test_a_check_that_fails_itself_spoils_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> None:
        raise KeyError("nobody thought of this")

    monkeypatch.setattr(report, "Probe", _NoProbe)
    monkeypatch.setattr(report.system, "memory", broken)
    found = examine(tmp_path, {}).findings
    (memory,) = (finding for finding in found if finding.name == "memory")
    assert memory.status == "warning"
    assert "KeyError: 'nobody thought of this'" in memory.says
    assert sum("itself failed" in finding.says for finding in found) == 1
    assert {"room", "versions", "interfaces"} <= {finding.name for finding in found}


def test_what_was_found_before_a_failure_is_kept() -> None:
    def check() -> Any:
        yield ok("a", "first", "fine")
        raise OSError("gone")

    assert [finding.status for finding in guarded("a", "all", check)] == ["ok", "warning"]


@pytest.mark.parametrize(
    ("place", "says"),
    [("file", "it is not a folder"), ("none", "there is no such folder"), ("read-only", "nothing can be written")],
)
def test_a_folder_in_which_no_run_can_be(tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "read-only").mkdir(mode=0o555)
    where = tmp_path / place
    if place == "read-only" and os.geteuid() == 0:
        where = Path("/proc/1")  # root may write everywhere else
    found = list(storage.folder(where))
    assert [finding.says for finding in found if finding.status == "problem" and says in finding.says]


def test_a_port_in_use_is_a_problem_where_ranks_are_to_meet() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (found, *_) = network.ports({"MASTER_PORT": port})
        assert (found.status, found.data["port"]) == ("problem", int(port))
        (found, *_) = network.ports({"MASTER_PORT": port, "MASTER_ADDR": "192.0.2.7"})
        assert (found.status, found.says) == ("ok", f"{port} of 192.0.2.7, another machine")
    (found, *_) = network.ports({"MASTER_PORT": port})
    assert (found.status, found.says) == ("ok", f"{port} is free")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("tests.doctor.probes.dies", "it ended with exit code -6, at: a sum over two processes (gloo)"),
        ("tests.doctor.probes.hangs", "it was not done within 3 s, at: importing torch"),
        ("tests.doctor.probes.nowhere", "it ended with exit code 1, at: importing torch"),
    ],
)
def test_a_probe_that_dies_or_hangs_is_a_problem_and_no_wait(module: str, says: str) -> None:
    started = time.monotonic()
    probe = Probe(environment(), 3.0 if module.endswith("hangs") else 30.0, module)
    *before, last = probe.findings(gpu=False)
    assert time.monotonic() - started < 30
    assert (last.status, last.name) == ("problem", "probe")
    assert last.says.startswith(says)
    assert [finding.name for finding in before if finding.name == "torch"] == (["torch"] if module.endswith("dies") else [])


_GPU = {"name": "H200", "capability": "9.0", "free_bytes": 140 * 2**30, "total_bytes": 141 * 2**30, "processors": 132}


def _said(**more: Any) -> dict[str, Any]:
    """What the probe says on a machine with a GPU and everything installed, but for what differs."""
    backends = {"gloo": True, "nccl": True, "mpi": False}
    said: dict[str, Any] = {
        "torch": {"version": "2.9.0", "cuda": "12.8", "hip": None, "backends": backends, "nccl": "2.27.3"},
        "gloo": {"ranks": 2, "seconds": 0.1},
        "kernels": {"norms": {"log": None, "tanh": None}, "learned": "no", "attention": {"cpu": "no", "gpu": None}},
        "gpus": {"gpus": [_GPU], "built_for": ["sm_80", "sm_90", "compute_90"]},
        "nccl": {"ranks": 1, "seconds": 0.5},
        "fused": {"off_by": 1e-6},
    }
    return {**said, **more}


@pytest.mark.parametrize(
    ("more", "name", "status", "says"),
    [
        ({}, "GPU 0", "ok", "compute capability 9.0"),
        ({}, "norms", "ok", "fused by Triton"),
        ({}, "attention", "ok", "flash-attn in bf16"),
        ({"gpus": {"gpus": [_GPU], "built_for": ["sm_80"]}}, "GPU 0", "problem", "torch is built for sm_80"),
        (
            {"gpus": {"gpus": [{**_GPU, "free_bytes": 2**30}], "built_for": ["sm_90"]}},
            "GPU 0",
            "warning",
            "somebody else uses it",
        ),
        ({"gpus": {"gpus": [], "built_for": []}}, "GPUs", "warning", "torch finds no GPU"),
        ({"gpus": {"error": "RuntimeError: no driver"}}, "GPUs", "problem", "no driver"),
        ({"nccl": {"error": "DistBackendError: NCCL"}}, "nccl", "problem", "failed: DistBackendError"),
        ({"fused": {"error": "ArithmeticError: it is off by 2"}}, "norms", "problem", "off by 2"),
        (
            {"kernels": {**_said()["kernels"], "norms": {"log": "Triton is not installed: slow"}}},
            "norms",
            "warning",
            "Triton is not",
        ),
    ],
)
def test_what_is_said_of_gpus(more: dict[str, Any], name: str, status: str, says: str) -> None:
    """No GPU is here: the probe's words are made up, and turned into findings as on one."""
    (found,) = (finding for finding in _findings(_said(**more), gpu=True) if finding.name == name)
    assert found.status == status
    assert says in found.says


def test_machine_code_runs_on_later_minor_versions_and_ptx_on_everything_later() -> None:
    assert _is_built_for("8.6", ["sm_80"])
    assert not _is_built_for("9.0", ["sm_80", "sm_86"])
    assert not _is_built_for("8.0", ["sm_86"])
    assert _is_built_for("12.0", ["sm_80", "compute_90"])
    assert _is_built_for("9.0", ["sm_90a"])
    assert _is_built_for("9.4", ["gfx942"])


def test_the_report_is_written_and_replaced_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "Probe", _NoProbe)
    file = tmp_path / "report.json"
    for _ in range(2):
        assert main(["doctor", "--dir", str(tmp_path), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["exit_code"] == 0
    assert "nothing stops a run" in capsys.readouterr().out
    file.write_text("{}")
    assert main(["doctor", "--json", str(file)]) == 2
    assert file.read_text() == "{}"
