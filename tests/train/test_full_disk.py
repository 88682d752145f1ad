"""A disk that takes no more: training goes on, and what could not be saved is saved when there is room."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ibnorm_megatron.checkpoints.record import damages, read_record
from ibnorm_megatron.config import load_config
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import command, environment
from ..workers.forked import Forked

pytestmark = pytest.mark.slow


def _steps(run: Path) -> int:
    return max((record["step"] for record in RunFolder(run).read_metrics()), default=0)


def _wait(until: Callable[[], object], process: Forked) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert process.alive, process.err[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_is_survived_and_the_next_save_works(tmp_path: Path, prepared: Path) -> None:
    """The system refuses files above a limit for a while, as it refuses bytes on a full disk."""
    run = tmp_path / "run"
    given = [f"data.path={prepared}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", "train.steps=20000"]
    given += ["checkpoint.interval=25", "train.global_batch_size=2", "log.console=false", "evaluate.interval=0"]
    process = Forked("ibnorm_megatron.train", ["configs/tiny_llama.yaml", *given], tmp_path / "said", environment())
    folder = RunFolder(run)
    _wait(lambda: run.is_dir() and folder.latest_checkpoint(), process)
    limited = psutil.Process(process.pid)
    # No file may grow: neither a checkpoint's, which is a megabyte, nor metrics.jsonl. What the run says goes to a file too,
    # so that there has to be room for a few warnings.
    limited.rlimit(psutil.RLIMIT_FSIZE, ((run / "metrics.jsonl").stat().st_size, resource.RLIM_INFINITY))
    refused_at = _steps(run)
    _wait(lambda: "was not saved" in process.err, process)
    before = folder.latest_checkpoint()
    limited.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert before is not None
    _wait(lambda: folder.latest_checkpoint() > before, process)
    process.signal(signal.SIGTERM)
    done = process.finished(120)
    error = done.stderr
    assert done.returncode == 0, error[-4000:]
    lines = [line for line in error.splitlines() if "warning" in line]
    assert lines
    assert all("[rank 0] warning: the checkpoint of step " in line and "was not saved: " in line for line in lines)
    assert "File too large" in lines[0]
    assert "Traceback" not in error
    records = folder.read_metrics()
    failed = [record["step"] for record in records if record.get("event") == "checkpoint_failed"]
    assert len(failed) == len(lines)
    assert all(step >= refused_at - 25 for step in failed)
    losses = [record["step"] for record in records if "loss" in record]
    assert losses == list(range(1, folder.read_summary()["step"] + 1)), "no record of the time without room is lost"
    last = run / "checkpoints" / f"step-{losses[-1]:08d}"
    record = read_record(last)
    assert not list(damages(last, record, record.files))
    assert sorted(path.name for path in folder.checkpoints.iterdir() if path.name.startswith(".")) == []


def test_a_run_that_cannot_be_saved_at_its_end_says_so(tmp_path: Path, prepared: Path) -> None:
    """Where the folder of checkpoints is taken away, training ends, but not as if it were complete."""
    run = tmp_path / "run"
    given = [
        f"data.path={prepared}",
        f"run.dir={run}",
        f"model.vocab_size={VOCABULARY}",
        "train.steps=6",
        "checkpoint.interval=3",
    ]
    code = f"""
import sys
from ibnorm_megatron.train import main
from ibnorm_megatron.train.callbacks import checkpoint
checkpoint._LAST_ATTEMPTS = (0.1, 0.1)
open({str(run)!r} + "/checkpoints", "w").close()
sys.exit(main({["configs/tiny_llama.yaml", *given]!r}))
"""
    run.mkdir()
    (run / "config.yaml").write_text(load_config("configs/tiny_llama.yaml", given).to_yaml())
    done = command(sys.executable, "-c", code)
    assert done.returncode == 1, done.stderr[-4000:]
    # When it was due, and three times at the end.
    assert done.stderr.count("warning: the checkpoint of step 6 was not saved: ") == 4
    assert "error: the state after step is 6: it could not be saved; make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert RunFolder(run).read_summary() is None
