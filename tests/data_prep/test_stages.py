"""Preparing that is stopped, killed, or shared among tasks ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from data_prep.prepare import Options, prepare
from data_prep.recipe import make_recipe
from ibnorm_megatron.data.manifest import read_manifest
from ibnorm_megatron.errors import Problem, UserError

from ..distributed import ROOT, command, environment
from .test_prepare import contents


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, text_sources: list[str]) -> Path:
    """Many small pieces of real text, with duplicates to find."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    values = {
        "sources": [{"path": source} for source in text_sources],
        "tokenizer": {"vocab_size": 700},
        "cleaning": {"exact_duplicates": True, "near_duplicates": {}},
        "piece_bytes": 60_000,
        "test_fraction": 0.1,
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> dict[str, str]:
    """The files of a folder that was prepared in one go."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    done = command("ibnorm", "prepare", "--recipe", recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    found = contents(folder)
    assert len(read_manifest(folder).shards("train")) > 15 and "work" not in found
    assert not folder.with_name("out.partial").exists()
    return found


def _start(recipe: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    arguments = ["ibnorm", "prepare", "--recipe", str(recipe), "--out", str(out), "--workers", "2", *map(str, more)]
    # A session of its own: a kill takes the workers too, as a machine that loses power does, or the parent alone.
    return subprocess.Popen(
        arguments,
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_at_random_it_ends_in_the_same_bytes(tmp_path: Path, recipe: Path, undisturbed: dict[str, str]) -> None:
    out, drawing, kills, whole = tmp_path / "out", random.Random(7), 0, 0  # noqa: S311
    longest = 1.0
    while not out.exists() or kills < 20:
        if out.exists():  # finished too soon: once more, from the beginning
            assert contents(out) == undisturbed
            whole += 1
            out.rename(tmp_path / f"done-{whole}")
        process = _start(recipe, out)
        begin = time.monotonic()
        try:
            process.wait(timeout=drawing.uniform(0.2, longest) if kills < 24 else 300)
        except subprocess.TimeoutExpired:
            kills += 1
            if kills % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # its workers notice that they are alone
            process.communicate()
            # What is done stays done, so a kill soon after the start would never let it come further.
            longest = min(longest * 1.25, 6.0)
        else:
            assert process.returncode == 0, process.communicate()[1]
            longest = max(0.5, (time.monotonic() - begin) / 2)
    assert contents(out) == undisturbed
    deadline = time.monotonic() + 10
    while _alive(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(out), "workers outlived their parents"


def _alive(out: Path) -> list[str]:
    """Processes that hold something below a folder's work open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(out) in os.readlink(link):
                found.append(str(link))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_four_tasks_make_the_folder_of_one(tmp_path: Path, recipe: Path, undisturbed: dict[str, str]) -> None:
    out = tmp_path / "out"

    def stage(*arguments: object) -> subprocess.Popen[str]:
        return _start(recipe, out, "--stage", *arguments)

    early = stage("encode", "--task", 0, "--tasks", 4)
    assert "the stage tokenizer is not done; run the same command with --stage tokenizer first" in early.communicate()[1]
    for alone_or_four in (["tokenizer"], ["scan", 4], ["duplicates"], ["encode", 4], ["finish"]):
        name, *tasks = alone_or_four
        shares = [stage(name, "--task", i, "--tasks", 4) for i in range(4)] if tasks else [stage(name)]
        for process in shares:
            assert process.wait(timeout=300) == 0, process.communicate()[1]
    assert contents(out) == undisturbed


def test_tasks_by_the_variables_of_a_launcher(tmp_path: Path, recipe: Path) -> None:
    from ibnorm_megatron.cli.prepare import _task

    for variables, expected in (
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, (2, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "RANK", "WORLD_SIZE", "SLURM_PROCID"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            assert _task("auto", None) == expected
    for variables, says in (
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x': it is no number"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(UserError, match=says):
                _task("auto", None)
    for number, count, says in (("9" * 5000, None, "it is no number"), ("0", 0, "--tasks is 0")):
        with pytest.raises(UserError, match=says):
            _task(number, count)
    for task, tasks, says in ((4, 4, "--task is 4: there are 4 tasks"), (0, 2, "only the stages scan and encode")):
        stage = "encode" if task else "all"
        with pytest.raises(UserError, match=says):
            prepare(Options(make_recipe(yaml.safe_load(recipe.read_text())), tmp_path / "x", 1, stage, task, tasks))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_the_same_command_goes_on(
    tmp_path: Path, recipe: Path, undisturbed: dict[str, str], number: signal.Signals
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    process = _start(recipe, out)
    deadline = time.monotonic() + 120
    while not list(partial.glob("*.idx")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "stopped; the same command goes on from here" in errors and "Traceback" not in errors
    assert not out.exists() and not list(partial.rglob("*.tmp-*")), "half-written files were left"
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.bin")}
    assert finished
    assert _start(recipe, out).wait(timeout=300) == 0
    assert contents(out) == undisturbed
    kept = {name for name, when in finished.items() if (out / name).stat().st_mtime_ns == when}
    assert len(kept) >= len(finished) - 6, "what was finished was made again"


def test_only_the_same_preparation_goes_on(tmp_path: Path, text_sources: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"words of document {i} " * 20}) + "\n" for i in range(200)))
    values = {"sources": [{"path": str(tmp_path / "a.jsonl")}], "tokenizer": {"vocab_size": 300}, "piece_bytes": 20_000}
    out = tmp_path / "out"
    assert prepare(Options(make_recipe(values), out, 1, "tokenizer")) is None
    with pytest.raises(
        UserError, match=r"recipe.tokenizer is .*vocab_size=310.*: .*out.partial was begun with .*vocab_size=300"
    ):
        prepare(Options(make_recipe({**values, "tokenizer": {"vocab_size": 310}}), out, 1))
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(UserError, match=r"the source .*a.jsonl is another file: since .*out.partial was begun"):
        prepare(Options(make_recipe(values), out, 1))
    assert (out.with_name("out.partial") / "tokenizer.model").exists()


def test_stopped_before_it_got_its_name_it_is_the_same_preparation(
    tmp_path: Path, text_sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep import prepare as module

    def stop(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    values = {"sources": [{"path": text_sources[0]}], "tokenizer": {"vocab_size": 400}}
    with monkeypatch.context() as patch:
        patch.setattr(module, "rename_directory", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(Options(make_recipe(values), tmp_path / "out", 1))
    assert not (tmp_path / "out.partial" / "work").exists()
    with pytest.raises(UserError, match=r"out.partial: it is complete, and was made from another recipe"):
        prepare(Options(make_recipe({**values, "tokenizer": {"vocab_size": 410}}), tmp_path / "out", 1))
    manifest = prepare(Options(make_recipe(values), tmp_path / "out", 1))
    assert manifest is not None
    assert manifest.tokenizer.vocab_size == 400 and not (tmp_path / "out" / "work").exists()


def test_a_refusal_takes_nothing_from_another_task(tmp_path: Path) -> None:
    """The first task makes the folder and is refused, while a second one is at work in it, or something lies beside it."""
    from data_prep.prepare import _folder

    refused = UserError(Problem("a", "b", "c", "d"))

    def refuse(partial: Path, beside: Path | None = None) -> None:
        with ExitStack() as other, _folder(partial, shared=True):
            if beside:
                beside.write_text("here")
            else:
                other.enter_context(_folder(partial, shared=True))
            raise refused

    with pytest.raises(UserError, match="a is b"):
        refuse(tmp_path / "one" / "out.partial")
    assert (tmp_path / "one" / "out.partial" / "work" / "lock").exists()
    with pytest.raises(UserError, match="a is b"):
        refuse(tmp_path / "two" / "out.partial", tmp_path / "two" / "file")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["file"]


def test_a_bad_byte_late_does_not_lose_what_is_done(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"words of document {i} " * 20}) for i in range(300)]
    (tmp_path / "a.jsonl").write_bytes("\n".join(rows).encode() + b'\n{"text": "bad \xff byte"}\n')
    values = {"sources": [{"path": str(tmp_path / "a.jsonl")}], "tokenizer": {"vocab_size": 300, "sample_bytes": 20_000}}
    values["piece_bytes"], out = 20_000, tmp_path / "out"
    with pytest.raises(UserError, match="is 0xff: it is not UTF-8"):
        prepare(Options(make_recipe(values), out, 1))
    done = sorted(path.name for path in out.with_name("out.partial").glob("*.bin"))
    assert done
    manifest = prepare(Options(make_recipe({**values, "encoding_errors": "replace"}), out, 1))
    assert manifest is not None
    assert manifest.corpora[0].replaced == 1 and manifest.corpora[0].documents == 301
    assert set(done) < {path.name for path in out.glob("*.bin")}


def test_killed_before_it_has_its_name_only_the_same_recipe_names_it(tmp_path: Path, text_sources: list[str]) -> None:
    values = {"sources": [{"path": text_sources[0]}], "tokenizer": {"vocab_size": 400}, "validation_fraction": 0.2}
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    manifest = prepare(Options(make_recipe(values), out, 1))
    for plan in (True, False):
        out.rename(partial)
        if plan:
            (partial / "work").mkdir()
        with pytest.raises(UserError, match=r"(it is complete, and was made from another recipe|was begun with)"):
            prepare(Options(make_recipe({**values, "test_fraction": 0.1}), out, 1))
        (partial / "work" / "plan").unlink(missing_ok=True)
        assert prepare(Options(make_recipe(values), out, 1)) == manifest
        assert not (out / "work").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, text_sources: list[str]) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out.partial: it holds something else than a preparation"):
        prepare(
            Options(make_recipe({"sources": [{"path": text_sources[0]}], "tokenizer": {"vocab_size": 400}}), tmp_path / "out")
        )
    assert [file.name for file in (tmp_path / "out.partial").iterdir()] == ["thesis.txt"]


def test_two_at_a_time_are_refused(tmp_path: Path, recipe: Path) -> None:
    first = _start(recipe, tmp_path / "out")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out.partial" / "work" / "plan").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = _start(recipe, tmp_path / "out")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2 and "another process is preparing it" in errors
    assert first.wait(timeout=300) == 0


_MEASURE = """
import resource, sys
from ibnorm_megatron.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file without a line's end, a giant row and many tiny ones; benchmarks/data_prep.py has 2 GB of such."""
    with open(tmp_path / "a.txt", "w") as file:
        for _ in range(300):
            file.write("word and another word " * 5_000)  # 33 MB in one line
    with open(tmp_path / "b.jsonl", "w") as file:
        file.write(json.dumps({"text": "a giant document of words " * 1_200_000}) + "\n")  # 31 MB in one row
        for number in range(300_000):
            file.write(f'{{"text": "{number}"}}\n')
    done = command(
        sys.executable, "-c", _MEASURE, "prepare", tmp_path / "a.txt", tmp_path / "b.jsonl", "--out", tmp_path / "out",
        "--vocab-size", "300", "--workers", "1", timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.rsplit("peak", 1)[1]) << 10
    assert peak < 1300 << 20, f"{peak >> 20} MiB"
    manifest = read_manifest(tmp_path / "out")
    assert sum(corpus.text_bytes_read for corpus in manifest.corpora) > 60e6
