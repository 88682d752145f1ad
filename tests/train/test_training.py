"""Whole runs through the launch target: they learn, stop, resume and are recorded as promised."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from ibnorm_megatron.train import main
from ibnorm_megatron.train.run_folder import RunFolder, step_of_checkpoint

from ..conftest import VOCABULARY, prepare_folder
from ..distributed import ROOT, command, environment, python, run_ranks
from ..workers.forked import Forked
from ..workers.ranks import ranks
from .tiny import TARGET, arguments, curve


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "norm", "precision"),
    [("tiny_llama", "ibnorm_log", "fp32"), ("tiny_gpt2", "ibnorm_tanh", "fp32"), ("tiny_llama", "ibnorm_softsign", "bf16")],
)
def test_learns_real_text(tmp_path: Path, prepared: Path, config: str, norm: str, precision: str) -> None:
    run = tmp_path / "run"
    overrides = [f"model.norm={norm}", f"train.precision={precision}", "train.steps=150", "evaluate.interval=75"]
    overrides += ["log.tensorboard=true", "log.wandb=offline", "log.norm_cost=true"]
    run_ranks(2, TARGET, *arguments(prepared, run, *overrides, config=config), "parallel.tensor=2")
    summary, card = RunFolder(run).read_summary(), RunFolder(run).read_card()
    assert summary["val_loss"] < summary["unigram_entropy"] - 0.5
    assert summary["status"] == "complete"
    assert 0 < summary["norm_share"] < 1
    _check_records(run, steps=150)
    assert card["layout"]["tensor"] == 2
    assert card["data"]["unigram_entropy"] == summary["unigram_entropy"]
    assert list((run / "tensorboard").glob("events*"))
    assert list((run / "wandb").glob("offline-run-*"))


def _check_records(run: Path, steps: int) -> None:
    records = RunFolder(run).read_metrics()
    training = [record for record in records if "loss" in record]
    assert [record["step"] for record in training] == list(range(1, steps + 1))
    fields = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "step_seconds"}
    assert all(fields <= record.keys() for record in training)
    assert training[-1]["tokens"] == steps * 8 * 64
    evaluations = [record for record in records if "val_loss" in record]
    assert [record["step"] for record in evaluations] == [steps // 2, steps]
    for record in evaluations:
        assert record["val_perplexity"] == pytest.approx(math.exp(record["val_loss"]))
        # The vocabulary is small, so a token is one to three bytes of text.
        assert 1 < record["val_loss"] / math.log(2) / record["val_bits_per_byte"] < 3
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["train"]["steps"] == steps


def _wait_for_steps(run: Path, steps: int, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and alive():
        if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text().count("\n") >= steps:
            return
        time.sleep(0.05)
    pytest.fail(f"the run in {run} made no {steps} steps")


def _stop_a_rank(run: Path, processes: int, given: list[str]) -> str:
    """Stop a run by a signal to its last rank; what the first has said on stdout."""
    with ranks(given, processes, run.with_name("logs")) as started:
        _wait_for_steps(run, 5, lambda: started.alive(0))
        started.signal(processes - 1, signal.SIGTERM)
        everyone = range(processes)
        assert started.codes(everyone, seconds=120) == [0] * processes, [started.said(rank) for rank in everyone]
        return started.said(0)


def _stop_a_launcher(run: Path, processes: int, given: list[str], signalled: str) -> str:
    """Stop a run as a user or a scheduler does; what it has said on stdout."""
    torchrun_line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    line = ["ibnorm", "train", *given] if signalled == "ibnorm train" else [*torchrun_line, "-m", TARGET, *given]
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for_steps(run, 5, lambda: process.poll() is None)
    children = psutil.Process(process.pid).children()
    assert len(children) == (1 if signalled == "ibnorm train" else processes)
    if signalled == "ibnorm train":
        process.terminate()
    else:  # as a scheduler does, whose signal the launcher passes on once more
        for one in [process, *children, *children]:
            one.terminate()
    out, error = process.communicate(timeout=120)
    assert process.returncode == (1 if signalled == "everything twice" else 0), error[-4000:]  # torchrun's own rule
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "overrides", "signalled"),
    [
        (1, ["parallel.zero_stage=0", "model.dropout=0.1"], "one rank"),
        (2, ["parallel.tensor=2", "parallel.sequence=true", "train.precision=bf16", "model.dropout=0.1"], "ibnorm train"),
        (2, ["parallel.context=2", "parallel.zero_stage=3", "parallel.recompute=full", "model.dropout=0.1"], "one rank"),
        (2, ["parallel.zero_stage=1", "train.precision=bf16", "train.micro_batch_size=2"], "everything twice"),
        (2, ["parallel.pipeline=2", "model.tie_embeddings=true", "train.micro_batch_size=2", "model.dropout=0.1"], "one rank"),
    ],
)
def test_stopped_by_sigterm_and_resumed_is_the_same_curve(
    tmp_path: Path, prepared: Path, processes: int, overrides: list[str], signalled: str
) -> None:
    common = ["model.norm=ibnorm_log", "train.steps=30", *overrides]
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run_ranks(processes, TARGET, *arguments(prepared, whole, *common))

    given = arguments(prepared, halved, *common)
    if signalled == "one rank":  # any one rank's signal stops them all, after the same step
        out = _stop_a_rank(halved, processes, given)
    else:
        out = _stop_a_launcher(halved, processes, given, signalled)
    assert "stopped at step" in out
    stopped = RunFolder(halved).read_summary()
    assert stopped["status"] == "stopped"
    assert 5 <= stopped["step"] < 30

    run_ranks(processes, TARGET, *arguments(prepared, halved, *common))
    assert RunFolder(halved).read_summary()["status"] == "complete"
    assert curve(halved) == curve(whole)
    assert RunFolder(halved).read_summary()["val_loss"] == RunFolder(whole).read_summary()["val_loss"]
    (resumed,) = RunFolder(halved).read_card()["resumed"]
    assert resumed["step"] == stopped["step"]


class _Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil"),))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint_and_loses_no_record(tmp_path: Path, prepared: Path) -> None:
    """A kill between checkpoints, with a half-written draft left behind: the same command gives the undisturbed curve."""
    common = ["model.norm=ibnorm_log", "train.steps=30", "checkpoint.interval=10"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ranks(1, TARGET, *arguments(prepared, whole, *common))
    target = [TARGET, *arguments(prepared, killed, *common)]
    process = Forked(TARGET, target[1:], tmp_path / "said", environment())
    _wait_for_steps(killed, 14, lambda: process.alive)
    process.signal(signal.SIGSTOP)
    twin = python(*target)
    assert (twin.returncode, "another process is training in it" in twin.stderr) == (2, True)
    process.kill()
    latest = RunFolder(killed).latest_checkpoint()
    assert latest in ("step-00000010", "step-00000020")
    draft = killed / "checkpoints" / ".step-00000020.tmp"
    draft.mkdir(exist_ok=True)
    (draft / "rank-00000.safetensors").write_bytes(b"half")

    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    kept = sorted((killed / "checkpoints").glob("step-*"))
    for damage in ("evil", "cut"):
        for checkpoint in kept:
            path = checkpoint / "rank-00000.safetensors"
            if damage == "evil":
                torch.save({"module": _Evil()}, path)
            else:
                path.write_bytes(before[path][:-1000])
        refused = python(*target)
        assert refused.returncode == 2, refused.stderr
        told = re.findall(r"error: the checkpoint file is (.*): it has \d+ bytes and was written with \d+; .*", refused.stderr)
        assert told == [str(checkpoint / "rank-00000.safetensors") for checkpoint in reversed(kept)]
        assert refused.stderr.count("\n") == len(kept)
        for checkpoint in kept:
            path = checkpoint / "rank-00000.safetensors"
            path.write_bytes(before[path])
    assert not (ROOT / "evil").exists()
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before

    done = python(*target)
    assert done.returncode == 0, done.stderr
    assert curve(killed) == curve(whole)
    assert not draft.exists()
    assert len(list(killed.glob("metrics.superseded-*.jsonl"))) <= 1
    steps = {"step", "tokens", "loss", "status", "norm", "val_loss", "val_bits_per_byte", "val_tokens"}
    summaries = [RunFolder(run).read_summary() for run in (killed, whole)]
    assert {key: summaries[0][key] for key in steps} == {key: summaries[1][key] for key in steps}

    again = python(*target)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)

    folder = RunFolder(killed)
    last, before = folder.checkpoint_names()[:2]
    short = python(*target, f"train.steps={step_of_checkpoint(last) - 1}", "run.allow=[train.steps]")
    assert short.returncode == 2, short.stderr
    assert f"is at step {step_of_checkpoint(last)} already" in short.stderr
    (folder.checkpoints / "latest").write_text(before)  # a run that is complete can go back as well
    back = python(*target)
    assert (back.returncode, "nothing to do" in back.stdout) == (0, False), back.stderr
    assert folder.latest_checkpoint() == last
    assert list(folder.checkpoints.glob(f"superseded-{last}-*"))
    assert curve(killed) == curve(whole)
    # Killed between the last checkpoint and the summary: it is written from the records, complete.
    (killed / "summary.json").unlink()
    done = python(*target)
    assert done.returncode == 0, done.stderr
    assert RunFolder(killed).read_summary().keys() == summaries[0].keys()

    # One bit of the newest checkpoint is other than it was: the one before it is as good a place to go on from.
    (killed / "summary.json").unlink()
    newest = killed / "checkpoints" / "step-00000030"
    path = newest / "rank-00000.safetensors"
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    done = python(*target)
    assert done.returncode == 0, done.stderr
    assert f"warning: the checkpoint file is {path}: its bytes are not those that were written" in done.stderr
    assert "warning: going on from step-00000020" in done.stderr
    assert curve(killed) == curve(whole)
    assert (killed / "checkpoints" / "damaged-step-00000030-1" / path.name).read_bytes() == flipped
    assert (newest / path.name).read_bytes() == (whole / "checkpoints" / newest.name / path.name).read_bytes()


@pytest.mark.slow
def test_both_launchers_start_the_same_run(tmp_path: Path, prepared: Path) -> None:
    common = ["model.norm=ibnorm_log", "train.steps=5", "parallel.tensor=2"]
    runs = {name: tmp_path / name for name in ("torchrun", "deepspeed", "ibnorm")}
    launchers: dict[str, list[str]] = {
        "torchrun": ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", TARGET],
        "deepspeed": ["deepspeed", "--num_accelerators", "2", "--module", "ibnorm_megatron.train"],
        "ibnorm": ["ibnorm", "train"],
    }
    for name, launcher in launchers.items():
        done = command(*launcher, *arguments(prepared, runs[name], *common))
        assert done.returncode == 0, done.stderr[-4000:]
    assert curve(runs["torchrun"]) == curve(runs["deepspeed"]) == curve(runs["ibnorm"])
    assert len(curve(runs["ibnorm"])) == 5


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["train.precision=fp16"], ["parallel.offload_optimizer=true"], ["train.schedule=wsd"]])
def test_other_ways_to_train_learn_too(tmp_path: Path, prepared: Path, overrides: list[str]) -> None:
    run = tmp_path / "run"
    run_ranks(1, TARGET, *arguments(prepared, run, "train.steps=60", "model.norm=ibnorm_log", *overrides))
    summary = RunFolder(run).read_summary()
    assert summary["val_loss"] < summary["unigram_entropy"]


@pytest.mark.slow
def test_a_run_is_not_resumed_as_another(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, changed = tmp_path / "run", tmp_path / "changed"
    run_ranks(1, TARGET, *arguments(prepared, run, "train.steps=2"))
    shutil.copytree(prepared, changed)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["corpora"][0]["splits"]["validation"][0]["text_bytes"] += 1
    evenly = "{" + ", ".join(f"'{corpus['name']}': 1" for corpus in manifest["corpora"]) + "}"
    (changed / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for world, overrides, says in [
        (1, ["train.steps=3", "train.seed=7"], ["train.steps is 3", "train.seed is 7"]),
        (1, ["train.steps=2", "model.norm=ibnorm_log"], ["model.norm"]),
        (1, ["train.steps=2", "run.resume=never"], ["run.resume is never"]),
        (1, ["train.steps=2", f"data.path={changed}"], ["data is its hash is", "allow it with run.allow=[data]"]),
        (1, ["train.steps=3", "train.seed=7", "run.allow=[train.steps]"], ["train.seed is 7"]),
        (1, ["train.steps=2", "run.allow=[train.stesp]"], ["run.allow is 'train.stesp'", "did you mean 'train.steps'?"]),
        (1, ["train.steps=2", f"data.weights={evenly}"], ["data.weights"]),
        (1, ["train.steps=2", "data.document_mask=true", "data.index_cache=x"], ["data.document_mask is True"]),
        (1, ["train.steps=2", "data.loss_on_end_of_document=false"], ["data.loss_on_end_of_document is False"]),
    ]:
        monkeypatch.setenv("WORLD_SIZE", str(world))
        assert main(arguments(prepared, run, *overrides)) == 2
        errors = capsys.readouterr().err
        assert all(text in errors for text in says), errors
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    allowed = ["train.steps=3", f"data.path={changed}", "run.allow=[train.steps, data]"]
    run_ranks(1, TARGET, *arguments(prepared, run, *allowed))
    assert RunFolder(run).read_summary()["step"] == 3
    assert RunFolder(run).read_card()["resumed"][0]["step"] == 2


@pytest.mark.slow
def test_weights_and_an_index_cache_of_its_own_train_and_resume(tmp_path: Path, prepared: Path) -> None:
    """A stopped run goes on at its sample; another folder of the same data and another cache are the same run."""
    names = [corpus["name"] for corpus in json.loads((prepared / "manifest.json").read_text())["corpora"]]
    weights = "{" + ", ".join(f"'{name}': {number}" for number, name in enumerate(names, start=1)) + "}"
    common = [f"data.weights={weights}", "train.steps=8", "checkpoint.interval=3", "data.loss_on_end_of_document=false"]
    common += ["train.global_batch_size=128", "train.micro_batch_size=32"]  # some documents end in so many tokens
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run_ranks(1, TARGET, *arguments(prepared, whole, *common))
    assert RunFolder(whole).read_summary()["tokens"] < 8 * 128 * 64, "ends of documents do not count"
    shutil.copytree(whole, halved)
    (halved / "checkpoints" / "latest").write_text("step-00000006")
    (halved / "summary.json").unlink()
    moved = shutil.copytree(prepared, tmp_path / "moved")
    run_ranks(1, TARGET, *arguments(moved, halved, *common, f"data.index_cache={tmp_path / 'cache'}"))
    assert curve(halved) == curve(whole)
    assert len(list((tmp_path / "cache").glob("*-train-64"))) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["tiny_llama", "tiny_gpt2"])
def test_documents_apart_train_the_same_in_every_layout(tmp_path: Path, text_sources: list[str], config: str) -> None:
    """From shards to losses: attention, positions and labels that keep to documents, on one process and on two."""
    (tmp_path / "short.jsonl").write_text(
        "".join(
            json.dumps({"text": paragraph[:200]}) + "\n"
            for source in text_sources
            for file in sorted(Path(source).glob("*.py"))
            for paragraph in file.read_text().split("\n\n")
        )
    )
    prepared = tmp_path / "data"
    prepare_folder([str(tmp_path / "short.jsonl")], prepared, VOCABULARY)
    sizes = [
        "train.steps=6",
        "train.global_batch_size=4",
        "train.micro_batch_size=2",
        "evaluate.batches=2",
        "evaluate.interval=6",
    ]
    apart = [*sizes, "data.document_mask=true", "data.loss_on_end_of_document=false"]
    curves, counted = {}, {}
    for name, processes, overrides in (
        ("joined", 1, sizes),
        ("one", 1, apart),
        ("tp2", 2, [*apart, "parallel.tensor=2", "parallel.sequence=true"]),
        ("cp2", 2, [*apart, "parallel.context=2", "parallel.recompute=full"]),
    ):
        run_ranks(processes, TARGET, *arguments(prepared, tmp_path / name, *overrides, config=config))
        curves[name] = [loss for loss, _ in curve(tmp_path / name).values()]
        records = RunFolder(tmp_path / name).read_metrics()
        counted[name] = [record["tokens"] for record in records if "loss" in record]
        curves[name].append(next(record["val_loss"] for record in records if "val_loss" in record))
    assert curves["tp2"] == pytest.approx(curves["one"], rel=1e-5)
    assert curves["cp2"] == pytest.approx(curves["one"], rel=1e-5)
    assert curves["joined"] != pytest.approx(curves["one"], rel=1e-4)
    assert counted["one"] == counted["tp2"] == counted["cp2"]
    assert counted["one"][-1] < counted["joined"][-1] == 6 * 4 * 64
