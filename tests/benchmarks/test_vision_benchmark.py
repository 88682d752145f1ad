"""The image benchmark on a few tiny images: data, pairing, resuming, the choice of rates, and what the tables say."""

from __future__ import annotations

import csv
import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import vision
from benchmarks.images import load_images, read_idx
from benchmarks.vision import ARMS, MODELS, Ledger, Run, Settings, build, chosen_rates, main, train, tuning_runs
from benchmarks.vision_report import comparison, print_tables, verdict
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.norms import IBBatchNorm, IBNorm


def _idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose label is where their bright square stands; the test files are packed, the others are not."""
    out, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, count in (("train", 90), ("t10k", 40)):
        labels = generator.integers(0, 10, count).astype(np.uint8)
        pixels = generator.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            row, column = 10 * (label // 5), 5 * (label % 5)
            image[row : row + 8, column : column + 5] = 250
        for kind, values in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
            if name == "train":
                (out / f"{name}-{kind}").write_bytes(_idx(values))
            else:
                (out / f"{name}-{kind}.gz").write_bytes(gzip.compress(_idx(values)))
    return out


@pytest.fixture
def small(folder: Path) -> Settings:
    return Settings(
        data=str(folder),
        train=60,
        validation=20,
        test=40,
        epochs=2,
        batch=20,
        tuning_seeds=1,
        seeds=2,
        rates=(1e-3, 3e-3, 1e-2),
    )


def test_parts_are_drawn_once_and_share_no_image(folder: Path) -> None:
    parts, again = (load_images(str(folder), 60, 20, 30) for _ in range(2))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [60, 20, 30]
    assert torch.equal(parts.train.pixels, again.train.pixels) and torch.equal(parts.test.labels, again.test.labels)
    images = [tuple(image.flatten().tolist()) for part in (parts.train, parts.validation, parts.test) for image in part.pixels]
    assert len(set(images)) == 110
    assert parts.train.pixels.shape == (60, 1, 28, 28)
    assert abs(float(parts.train.pixels.mean())) < 1e-5 and float(parts.train.pixels.std()) == pytest.approx(1, abs=1e-3)
    for image, label in zip(parts.test.pixels[:, 0], parts.test.labels, strict=True):  # labels went with their images
        row, column = 10 * (int(label) // 5), 5 * (int(label) % 5)
        assert float(image[row : row + 8, column : column + 5].min()) == float(parts.test.pixels.max())


def test_broken_and_missing_images_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "train-images-idx3-ubyte").read_bytes()
    packed = gzip.compress(whole)
    cases = {"short": whole[:-1], "kind": b"\0\0\x0d" + whole[3:], "empty": b"", "cut.gz": packed[:-9], "no.gz": whole}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"the file of images is .*{name}: it (is no idx file|cannot be read)"):
            read_idx(tmp_path / name)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz: it cannot be read \(No such file"):
        load_images(str(tmp_path), 1, 1, 1)
    with pytest.raises(UserError, match="holds 90 images for training and validation, and 91 are asked for; ask for fewer"):
        load_images(str(folder), 61, 30, 1)


@pytest.mark.parametrize("name", MODELS)
def test_arms_of_a_seed_begin_alike_and_the_control_is_the_own_norm(name: str, small: Settings) -> None:
    parts = load_images(small.data, small.train, small.validation, small.test)
    models = {arm: build(name, arm, 3) for arm in ARMS}
    weights = {arm: dict(model.named_parameters()) for arm, model in models.items()}
    for arm in ARMS:
        assert weights[arm].keys() == weights["own"].keys()
        assert all(torch.equal(value, weights["own"][key]) for key, value in weights[arm].items())
        ours = [module for module in models[arm].modules() if isinstance(module, IBNorm)]
        assert len(ours) == (0 if arm == "own" else {"ResNet": 6, "ViT": 7}[name])
        assert all(isinstance(module, IBBatchNorm) == (name == "ResNet") for module in ours)
    found = {arm: train(Run(name, arm, 3e-3, 0), parts, small) for arm in ARMS}
    assert found["identity"]["loss"] == pytest.approx(found["own"]["loss"], rel=1e-4)
    assert len({round(one["loss"], 4) for arm, one in found.items() if arm != "identity"}) == len(ARMS) - 1
    other = train(Run(name, "own", 3e-3, vision.TUNING), parts, small)
    assert other["accuracy"] * small.validation == pytest.approx(round(other["accuracy"] * small.validation))


def _arguments(small: Settings, out: Path) -> list[str]:
    sizes = [f"--{name}={getattr(small, name)}" for name in ("train", "validation", "test", "epochs", "batch", "seeds")]
    return ["--data", small.data, *sizes, "--tuning-seeds", "1", "--rates", "1e-3", "1e-2", "--out", str(out)]


def test_a_stopped_benchmark_goes_on(small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call trains what the first did not, and an unfinished line is trained again."""
    out, trained = tmp_path / "new" / "vision", []
    budget = 23

    def until_stopped(run: Run, *rest: Any) -> dict[str, Any]:
        if len(trained) == budget:
            raise KeyboardInterrupt
        trained.append(run)
        if run.rate == 1e-2 and run.arm == "log":
            return {"loss": None, "accuracy": 0.1, "seconds": 1.0}
        return {"loss": 1.0 + run.rate + 0.01 * run.seed, "accuracy": 0.5, "seconds": 1.0}

    monkeypatch.setattr(vision, "train", until_stopped)
    with pytest.raises(KeyboardInterrupt):
        main(_arguments(small, out))
    ledger = out.with_suffix(".jsonl")
    lines = ledger.read_text().splitlines(keepends=True)
    assert len(lines) == 23
    ledger.write_text("".join(lines[:-1]) + lines[-1][:30])
    budget = 30
    with pytest.raises(KeyboardInterrupt):
        main(_arguments(small, out))
    assert trained[23] == trained[22] and len(set(trained)) == 29
    budget = 1000
    main(_arguments(small, out))
    assert len(trained) == 41 and len(set(trained)) == 40
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert all(float(row["rate"]) == 1e-3 for row in rows if row["part"] == "compared")
    page = out.with_suffix(".md").read_text()
    assert "| ResNet | log | 2.0010 | diverged | 0.001 (the grid's end) |" in page
    assert "40 runs, 0.7 minutes of one core; 60 training images" in page
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    main([*_arguments(small, out), "--seeds", "3"])  # more seeds need those alone
    assert len(trained) == 51 and {run.seed for run in trained[41:]} == {2}


def test_runs_of_other_settings_do_not_count(small: Settings, tmp_path: Path) -> None:
    path, run = tmp_path / "ledger.jsonl", Run("ViT", "own", 1e-3, 0)
    Ledger(path, small).add(run, {"loss": 1.0})
    assert Ledger(path, small).found[run]["loss"] == 1.0
    assert not Ledger(path, Settings(data=small.data)).found
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 1


def test_rates_are_chosen_without_the_compared_seeds(small: Settings) -> None:
    runs = list(tuning_runs(small))
    assert {run.seed for run in runs} == {vision.TUNING} and vision.TUNING >= 50
    found = {run: {"loss": abs(run.rate - (1e-3 if run.arm == "log" else 1e-2))} for run in runs}
    found[Run("ViT", "tanh", 1e-2, vision.TUNING)]["loss"] = None
    rates = chosen_rates(found, small)
    assert rates["ResNet", "log"] == 1e-3 and rates["ResNet", "own"] == 1e-2
    assert rates["ViT", "tanh"] == 3e-3  # the nearest of those that did not diverge
    for rate in small.rates:
        found[Run("ViT", "tanh", rate, vision.TUNING)]["loss"] = None
    with pytest.raises(UserError, match="tanh in ViT diverged at each of them; give lower ones"):
        chosen_rates(found, small)


def test_differences_are_paired_and_corrected_without_the_control() -> None:
    """Seeds differ by far more than arms do; against them by itself no arm would stand out."""
    noise = {"own": (0, 0, 0, 0, 0), "identity": (1, -1, 1, -1, 0), "log": (9, 11, 10, 10, 10), "tanh": (5, -5, 4, -6, 1)}
    runs = [
        {"model": "ViT", "arm": arm, "seed": seed, "rate": 1e-3, "loss": 1.0 + seed + 1e-3 * value, "accuracy": 0.5}
        for arm, values in noise.items()
        for seed, value in enumerate(values)
    ]
    own, identity, log, tanh = comparison(runs, "loss", 1.0)
    assert own["difference"] is None and own["mean"] == pytest.approx(3.0)
    assert log["difference"].value == pytest.approx(0.01)
    # t(4, 97.5 %) = 2.776 times 0.7071e-3 / sqrt(5)
    assert log["difference"].high - log["difference"].value == pytest.approx(2.776445 * 0.00070711 / 5**0.5, rel=1e-4)
    assert identity["holm"] is None
    assert log["holm"] == pytest.approx(2 * log["p"]) and tanh["holm"] == pytest.approx(tanh["p"])
    assert verdict([own, identity, log, tanh], "loss", True) == ["ViT, loss: log is worse than its own norm by 0.01."]
    assert verdict([own, identity, log, tanh], "x", False) == ["ViT, x: log is better than its own norm by 0.01."]
    runs[-1]["loss"] = None
    lost = comparison(runs, "loss", 1.0)[-1]
    assert (lost["mean"], lost["diverged"], lost["difference"]) == (None, 1, None)
    console = Console(record=True, width=140, quiet=True)
    print_tables({"tuning": runs, "compared": runs}, console)
