"""How a run is started: its command, its environment, its claim; and what its end is taken for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.errors import RunFailure
from ibnorm_megatron.lab import launching, locks
from ibnorm_megatron.lab.launching import command, environment
from ibnorm_megatron.lab.locks import Claims, holder, is_held

from ..distributed import ROOT


def test_words_are_filled_in_and_other_braces_stay() -> None:
    words = ["srun", "{python}", "-m", "x", "{config}", "--name={name}", "{folder}/a {b}", '{"json": 1}', "{0}", "{{name}}"]
    assert command(words, config=Path("c d.yaml"), name="n", folder=Path("f")) == [
        "srun",
        sys.executable,
        "-m",
        "x",
        "c d.yaml",
        "--name=n",
        "f/a {b}",
        '{"json": 1}',
        "{0}",
        "{n}",
    ]


def test_what_a_value_holds_is_not_filled_in_again() -> None:
    assert command(["{name}"], config=Path("c"), name="{config}", folder=Path("f")) == ["{config}"]


def test_runs_share_the_cores_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_cores", lambda: 8)
    assert [environment({}, slot=0, at_once=n)["OMP_NUM_THREADS"] for n in (1, 3, 8, 20)] == ["8", "2", "1", "1"]
    assert environment({"OMP_NUM_THREADS": "5"}, slot=0, at_once=2)["OMP_NUM_THREADS"] == "5"


def test_a_run_within_a_rank_is_no_rank_of_it() -> None:
    given = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "x",
        "PATH": "/bin",
        "SLURM_PROCID": "1",
    }
    assert set(environment(given, slot=0, at_once=1)) == {"PATH", "SLURM_PROCID", "OMP_NUM_THREADS"}


@pytest.mark.parametrize(
    ("visible", "at_once", "shares"),
    [
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("4,5,6,7", 2, ["4,5", "6,7"]),
        ("GPU-a,GPU-b,GPU-c", 2, ["GPU-a", "GPU-b"]),
        ("0,1", 3, ["0", "1", "0"]),
        ("0,1", 1, ["0,1"]),
        ("", 2, ["", ""]),
    ],
)
def test_gpus_are_dealt_out(visible: str, at_once: int, shares: list[str]) -> None:
    given = {"CUDA_VISIBLE_DEVICES": visible}
    found = [environment(given, slot=slot, at_once=at_once)["CUDA_VISIBLE_DEVICES"] for slot in range(at_once)]
    assert found == shares


def test_a_claim_is_had_by_one_and_goes_with_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.locks
    assert holder(tmp_path, "k") is None
    claim = claims.take("k")
    assert claim is not None
    assert claims.take("k") is None
    assert claims.take("other") is not None
    who = holder(tmp_path, "k")
    assert who is not None and who.process == os.getpid()
    claim.release()
    assert holder(tmp_path, "k") is None
    again = claims.take("k")
    assert again is not None
    again.release()


def test_a_claim_holds_while_a_child_has_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    code = """
import subprocess, sys
from pathlib import Path
from ibnorm_megatron.lab.locks import Claims
claim = Claims(Path(sys.argv[1])).take("k")
wait = [sys.executable, "-c", "input()"]
subprocess.Popen(wait, stdin=sys.stdin, stdout=subprocess.DEVNULL, pass_fds=(claim.descriptor,))
print("started", flush=True)
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == "started\n"  # to its end: the parent is gone, and its child waits
        assert parent.wait(60) == 0
        assert claims.take("k") is None
        assert parent.stdin is not None
        parent.stdin.write("\n")
        parent.stdin.close()
        while is_held(tmp_path / "claims" / "k.lock"):
            pass
    claim = claims.take("k")
    assert claim is not None
    claim.release()


def test_a_file_system_without_locks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    claims = Claims(tmp_path)
    assert not claims.locks
    assert claims.take("k") is not None and claims.take("k") is not None
    assert not is_held(tmp_path / "claims" / "k.lock")


def test_another_fault_of_a_lock_is_not_taken_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(file: Any, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", fault)
    with pytest.raises(RunFailure, match=r"the study's folder is .*: it cannot be written \(Input/output error\); mend that"):
        Claims(tmp_path)
