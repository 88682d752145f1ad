"""launch/slurm.sbatch under a real Slurm: a run on two nodes, interruptions, a study as an array, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ibnorm_megatron.lab.ledger import Ledger
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import ROOT
from ..lab.running import loaded, write_study
from ..train.tiny import curve
from .slurm import Slurm, missing

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

SCRIPT = ROOT / "launch" / "slurm.sbatch"
STEPS = 200


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left(slurm: Slurm) -> Iterator[None]:
    """A test that fails leaves no job that others would wait for."""
    yield
    slurm.scancel("--user=root")


def _arguments(data: Path, run: Path) -> list[str]:
    plugin = Path(__file__).with_name("slow_norm.py")
    norm = ["model.norm={default: rmsnorm, final: slow}", f"plugins=[{plugin}]"]
    sizes = [f"model.vocab_size={VOCABULARY}", "model.dropout=0.1", f"train.steps={STEPS}", "checkpoint.interval=1000"]
    return ["configs/tiny_llama.yaml", f"data.path={data}", f"run.dir={run}", "log.interval=1", *sizes, *norm]


def _steps(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.is_file() else 0


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on both nodes that nobody interrupts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run, out = folder / "run", folder / "out"
    job = slurm.sbatch("--nodes=2", f"--output={out}", SCRIPT, *_arguments(prepared, run))
    ended = slurm.ended(job, 400)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), out.read_text()
    return run


def test_a_job_trains_one_run_on_two_nodes(undisturbed: Path) -> None:
    assert RunFolder(undisturbed).read_summary()["status"] == "complete"
    assert RunFolder(undisturbed).read_card()["layout"]["world_size"] == 2
    assert len(curve(undisturbed)) == STEPS


def test_a_job_whose_time_is_up_and_that_is_preempted_goes_on_until_it_is_complete(
    slurm: Slurm, prepared: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    given = ["--nodes=2", "--cpus-per-task=2", "--time=1", "--signal=B:USR1@40", f"--output={out}"]
    job = slurm.sbatch(*given, SCRIPT, *_arguments(prepared, run), SLOW_STARTS="2")

    slurm.until(lambda: slurm.job(job)["Restarts"] == "1", 400)
    assert "stopped by the time limit" in out.read_text()
    assert RunFolder(run).read_summary()["status"] == "stopped"
    saved = _steps(run)
    assert 0 < saved < STEPS
    slurm.change(job, TimeLimit="10")

    slurm.until(lambda: _steps(run) > saved + 5, 400)
    other = slurm.sbatch("--partition=high", "--nodes=2", "--cpus-per-task=2", f"--output={tmp_path / 'other'}", "--wrap=true")
    assert slurm.ended(other, 200)["JobState"] == "COMPLETED"
    assert slurm.job(job)["Restarts"] == "2"
    assert "stopped by preemption" in out.read_text()
    assert saved < _steps(run) < STEPS

    ended = slurm.ended(job, 400)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), out.read_text()
    assert curve(run) == curve(undisturbed)
    assert [one["step"] for one in RunFolder(run).read_card()["resumed"]] != [0, 0]
    assert RunFolder(run).read_summary()["val_loss"] == RunFolder(undisturbed).read_summary()["val_loss"]
    assert "Traceback" not in out.read_text()


def test_an_array_runs_a_study_and_a_task_that_is_stopped_goes_on(slurm: Slurm, prepared: Path, tmp_path: Path) -> None:
    path = write_study(tmp_path, prepared)
    study = loaded(path)
    array = slurm.sbatch("--array=0-1", f"--output={tmp_path}/out.%a", SCRIPT, path, "--at-once", 1)
    slurm.until(lambda: len(list((study.folder / "runs").glob("*/config.yaml"))) == 2, 400)
    slurm.scancel("--batch", "--signal=USR1", f"{array}_1")
    slurm.ended(array, 400)
    tasks = {task["ArrayTaskId"]: task for task in slurm.tasks(array)}
    said = "\n".join(out.read_text() for out in sorted(tmp_path.glob("out.*")))
    assert {number: (task["JobState"], task["Restarts"]) for number, task in tasks.items()} == {
        "0": ("COMPLETED", "0"),
        "1": ("COMPLETED", "1"),
    }, said
    assert [entry.status for entry in Ledger(study.folder).read()] == ["complete"] * 3, said


def test_a_run_that_cannot_work_has_failed_and_is_not_queued_again(slurm: Slurm, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = slurm.sbatch(f"--output={out}", SCRIPT, *_arguments(prepared, tmp_path / "run"), "train.lr=-1")
    ended = slurm.ended(job, 400)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0")
    assert "error: train.lr is -1" in out.read_text()


def _pretended(folder: Path, name: str, text: str) -> None:
    """A program of that name for jobs that are submitted in ``folder``, where the script looks for an environment first."""
    place = folder / ".venv" / "bin"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(f"#!/bin/bash\n{text}\n")
    (place / name).chmod(0o755)


def test_words_arrive_as_they_were_given(slurm: Slurm, tmp_path: Path) -> None:
    _pretended(tmp_path, "python", 'printf "%s\\n" "$@" >words; env >variables')
    words = ["a b.yaml", "model.norm={kind: ibnorm_tanh, lambda: 2}", "x=$(touch bad)", "y='\"`*"]
    given = {"NPROC_PER_NODE": "3", "MASTER_PORT": "4321", "MAX_RESTARTS": "2", "RDZV_ID": "mine"}
    job = slurm.sbatch("--output=out", SCRIPT, *words, cwd=tmp_path, **given)
    assert slurm.ended(job, 200)["JobState"] == "COMPLETED", (tmp_path / "out").read_text()
    assert (tmp_path / "words").read_text().splitlines() == ["-m", "ibnorm_megatron.cluster.agent", *words]
    variables = (tmp_path / "variables").read_text().splitlines()
    expected = {**given, "RDZV_ID": "mine.0", "NNODES": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    assert {f"{name}={value}" for name, value in expected.items()} <= set(variables)
    assert not (tmp_path / "bad").exists()


def test_starts_are_counted(slurm: Slurm, tmp_path: Path) -> None:
    _pretended(tmp_path, "python", '[ "$1" = -c ] && exit; touch begun.$SLURM_RESTART_COUNT; exec sleep 2')
    job = slurm.sbatch("--output=out", SCRIPT, "any.yaml", cwd=tmp_path, MAX_REQUEUES="1")
    for start in ("", "1"):
        slurm.until(lambda start=start: (tmp_path / f"begun.{start}").exists(), 200)
        slurm.scancel("--batch", "--signal=USR1", job)
    ended = slurm.ended(job, 200)
    assert (ended["JobState"], ended["Restarts"], ended["ExitCode"]) == ("FAILED", "1", "1:0")
    assert "after 1 starts more than the first; MAX_REQUEUES allows no other" in (tmp_path / "out").read_text()


@pytest.mark.parametrize(("words", "given", "says"), [([], {}, "no config"), (["c.yaml"], {"IMAGE": "none.sif"}, "apptainer")])
def test_what_the_script_refuses(slurm: Slurm, tmp_path: Path, words: list[str], given: dict[str, str], says: str) -> None:
    job = slurm.sbatch("--output=out", SCRIPT, *words, cwd=tmp_path, **given)
    assert slurm.ended(job, 200)["ExitCode"] == "2:0"
    assert says in (tmp_path / "out").read_text()
