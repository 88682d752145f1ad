"""The ledger: lines that several processes add, that a kill cuts off, and that somebody has changed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.errors import RunFailure, UserError
from ibnorm_megatron.lab import locks
from ibnorm_megatron.lab.ledger import Ledger, latest

from ..distributed import ROOT
from .entries import TRIAL, entry

#: Adds entries of its own, numbered, until it is killed or has added as many as it was told to.
_WRITER = """
import sys
from pathlib import Path
from tests.lab.entries import entry
from ibnorm_megatron.lab.ledger import Ledger
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("begins", flush=True)
for number in range(count):
    Ledger(folder).append(entry(key=f"{name}{number}", reason="x" * 3000))
"""


def _writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, folder, name, str(count)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study")
    assert ledger.read() == []
    assert not (tmp_path / "study").exists()
    given = [
        entry(),
        entry(
            replace(TRIAL, stage="tune", strength=2.0, trunk=20.0, branches=()), "b", "diverged", found={"a": [1, None, "ü\n"]}
        ),
    ]
    for one in given:
        ledger.append(one)
    assert Ledger(tmp_path / "study").read() == given
    first, *lines = ledger.path.read_text().splitlines()
    assert json.loads(first) == {"ledger": "ibnorm_megatron.lab", "version": 1}
    assert len(lines) == 2


def test_the_last_entry_of_a_trial_counts() -> None:
    found = latest([entry(key="a", status="failed"), entry(key="b"), entry(key="a")])
    assert list(found) == ["a", "b"]
    assert found["a"].status == "complete"


def test_four_processes_add_lines_and_none_is_lost_or_mixed(tmp_path: Path) -> None:
    writers = [_writer(tmp_path, name, 25) for name in "wxyz"]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    ledger = Ledger(tmp_path)
    keys = [one.key for one in ledger.read()]
    assert sorted(keys) == sorted(f"{name}{number}" for name in "wxyz" for number in range(25))
    for name in "wxyz":
        own = [key for key in keys if key.startswith(name)]
        assert own == [f"{name}{number}" for number in range(25)]
    assert not ledger.torn


def test_killed_writers_cost_no_line_that_was_there(tmp_path: Path) -> None:
    keys: list[str] = []
    for start in range(3):
        writers = [_writer(tmp_path, f"{name}{start}-", 10_000) for name in "wxyz"]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begins\n"
        ledger = Ledger(tmp_path)
        deadline = time.monotonic() + 60
        while len(ledger.read()) < len(keys) + 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        found = [one.key for one in ledger.read()]
        assert len(found) >= len(keys) + 20
        assert found[: len(keys)] == keys
        assert len(set(found)) == len(found)
        keys = found
    ledger.append(entry(key="afterwards"))
    assert [one.key for one in ledger.read()] == [*keys, "afterwards"]


@pytest.mark.parametrize("left", [0.01, 0.5, 0.999])
def test_a_torn_last_line_is_read_over_and_then_replaced(tmp_path: Path, left: float) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry(key="a"))
    whole = ledger.path.read_bytes()
    ledger.append(entry(key="b"))
    line = ledger.path.read_bytes()[len(whole) :]
    ledger.path.write_bytes(whole + line[: max(1, int(left * len(line)))])
    assert [one.key for one in ledger.read()] == ["a"]
    assert ledger.torn
    ledger.append(entry(key="c"))
    assert [one.key for one in ledger.read()] == ["a", "c"]
    assert not ledger.torn


def test_a_torn_header_is_begun_anew(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.path.write_text('{"ledger": "ibn')
    assert ledger.read() == []
    ledger.append(entry(key="a"))
    assert [one.key for one in ledger.read()] == ["a"]


def test_what_is_no_entry_is_refused_by_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key in "abcde":
        ledger.append(entry(key=key))
    lines = ledger.path.read_text().splitlines()
    lines[1] = "rubbish"
    lines[2] = lines[2].replace('"status": "complete"', '"status": "fine"')
    lines[3] = lines[3].replace('"seed": 1', '"seed": 1, "color": "red"', 1)
    lines[4] = lines[4].replace('"tokens": 20000', '"tokens": "20000"')
    ledger.path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError) as refused:
        ledger.read()
    said = [str(problem) for problem in refused.value.problems]
    assert len(said) == 4
    for number, part in zip((2, 3, 4, 5), ("json", "status: ", "trial.color: ", "tokens: "), strict=True):
        sentence = next(text for text in said if text.startswith(f"line {number} of {ledger.path}"))
        assert part in sentence
        assert "take that line out" in sentence


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry())
    ledger.path.write_text(ledger.path.read_text().replace('"version": 1', '"version": 2', 1))
    with pytest.raises(UserError, match="is of another version; use the program that wrote it"):
        ledger.read()


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry(key="a"))
    before = ledger.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunFailure, match="No space left on device"):
            ledger.append(entry(key="b"))
    assert ledger.path.read_bytes() == before


def test_without_locks_lines_are_added_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: Any, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    ledger = Ledger(tmp_path)
    ledger.append(entry(key="a"))
    ledger.append(entry(key="b"))
    assert [one.key for one in ledger.read()] == ["a", "b"]


def test_a_reader_waits_for_a_line_that_is_being_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(entry(key="a"))
    code = "import sys; from pathlib import Path; from ibnorm_megatron.lab.ledger import Ledger; "
    code += "print('begins', flush=True); ledger = Ledger(Path(sys.argv[1])); print(len(ledger.read()), ledger.torn)"
    with open(ledger.path, "ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b'{"tri')
        reader = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "begins\n"
        time.sleep(0.3)
        file.truncate(file.tell() - 5)
    assert reader.stdout.read().split() == ["1", "False"]
    assert reader.wait(60) == 0
