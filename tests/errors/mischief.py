"""What is done to a folder before a row is typed in it."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.files import hash_file
from ibnorm_megatron.parallel.sharding import Sharding
from ibnorm_megatron.train.run_card import run_identity

from ..checkpoints.making import logical_tensors, write_checkpoint
from ..data_prep.damage import edit, flip
from .rows import Before


def file(name: str, content: str | bytes) -> Before:
    """A file of this content."""

    def write(here: Path, patch: pytest.MonkeyPatch) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def grown(text: str) -> Before:
    """The config with more text behind it."""

    def write(here: Path, patch: pytest.MonkeyPatch) -> None:
        (here / "tiny.yaml").write_text((here / "tiny.yaml").read_text() + text)

    return write


def replaced(old: str, new: str) -> Before:
    """The config with other text in it."""

    def write(here: Path, patch: pytest.MonkeyPatch) -> None:
        text = (here / "tiny.yaml").read_text()
        assert old in text
        (here / "tiny.yaml").write_text(text.replace(old, new))

    return write


def each(*steps: Before) -> Before:
    """One after the other."""

    def do(here: Path, patch: pytest.MonkeyPatch) -> None:
        for step in steps:
            step(here, patch)

    return do


def manifest(change: Callable[[dict[str, Any]], Any]) -> Before:
    """Another manifest than was written."""
    return lambda here, patch: edit(here / "data", change)


def cut(name: str, size: int) -> Before:
    """A file with its end missing."""
    return lambda here, patch: os.truncate(here / name, (here / name).stat().st_size - size)


def flipped(name: str) -> Before:
    """A file with one bit changed."""
    return lambda here, patch: flip(name, 4321)(here)


def without(name: str) -> Before:
    """A file that is not there."""
    return lambda here, patch: (here / name).unlink()


def copied(to: str) -> Before:
    """The first corpus of the data a second time."""

    def copy(here: Path, patch: pytest.MonkeyPatch) -> None:
        shutil.copytree(here / "data", here / to)
        edit(here / to, lambda manifest: manifest.update(corpora=manifest["corpora"][:1]))

    return copy


def linked(to: str) -> Before:
    """The data under a second name."""
    return lambda here, patch: (here / to).symlink_to("data")


def begun(*overrides: str) -> Before:
    """A run's folder in which nothing but its config has been written yet."""

    def begin(here: Path, patch: pytest.MonkeyPatch) -> None:
        config = load_config(here / "tiny.yaml", overrides)
        (here / "run").mkdir()
        (here / "run" / "config.yaml").write_text(config.to_yaml())

    return begin


def held(here: Path, patch: pytest.MonkeyPatch) -> None:
    """A run's folder that somebody else holds."""
    begun()(here, patch)
    lock = os.open(here / "run" / ".lock", os.O_RDWR | os.O_CREAT)  # goes with this process
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, False)


def saved(**hashes: str) -> Before:
    """The folder of a run with one checkpoint; ``hashes`` of its data are said to be others."""

    def save(here: Path, patch: pytest.MonkeyPatch) -> None:
        begun()(here, patch)
        (here / "run" / ".lock").touch()
        card = _checkpoint(here / "run" / "checkpoints", here / "tiny.yaml", hashes)
        (here / "run" / "checkpoints" / "latest").write_text("step-00000007")
        (here / "run" / "run_card.json").write_text(json.dumps(card))

    return save


def trunk(*overrides: str, **hashes: str) -> Before:
    """A checkpoint of another run, with a config and data of its own."""
    return lambda here, patch: _checkpoint(here / "trunk", here / "tiny.yaml", hashes, *overrides)


def _checkpoint(folder: Path, config_file: Path, hashes: dict[str, str], *overrides: str) -> dict[str, Any]:
    config = load_config(config_file, overrides)
    card = run_identity(config, read_prepared(config.data), 1)
    card["data"] |= hashes
    shardings = {"weight": Sharding((64, 8), None, 1, 0)}
    write_checkpoint(folder / "step-00000007", shardings, logical_tensors(shardings), config=config.to_dict(), card=card)
    return card


def edited_record(here: Path, patch: pytest.MonkeyPatch) -> None:
    """A checkpoint's record that somebody has changed."""
    path = here / "run" / "checkpoints" / "step-00000007" / "checkpoint.json"
    path.write_text(path.read_text().replace('"step": 7', '"step": 8'))


def installed(name: str, version: str | None) -> Before:
    """A library in another version, or missing."""
    real = importlib.metadata.version

    def version_of(asked: str) -> str:
        if asked != name:
            return real(asked)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(asked)
        return version

    return lambda here, patch: patch.setattr(importlib.metadata, "version", version_of)


def finished(name: str, **summary: Any) -> Before:
    """The folder of a finished run, as ``ibnorm compare`` reads it."""

    def write(here: Path, patch: pytest.MonkeyPatch) -> None:
        folder = here / name
        folder.mkdir()
        overrides = [f"model.norm={summary['norm']}"] if "norm" in summary else []
        (folder / "config.yaml").write_text(load_config(here / "tiny.yaml", [*overrides, f"run.dir={name}"]).to_yaml())
        (folder / "run_card.json").write_text(json.dumps({"norm": summary.get("norm", "rmsnorm"), "tokens": 1000}))
        numbers = dict.fromkeys(("val_loss", "val_bits_per_byte", "tokens_per_second", "peak_memory_bytes"), 1.0)
        record = {"status": "complete", "unigram_entropy": 4.0, **numbers, **summary}
        (folder / "summary.json").write_text(json.dumps(record))

    return write


def looked_into(name: str, *lines: dict[str, Any]) -> Before:
    """The telemetry of a finished run of RMSNorm, or these lines instead."""
    site = {"std": 1.0, "kurtosis": 3.0, "contraction": None}
    records = lines or ({"step": 100, "grad_norm": {"mlp": 0.5}, "sites": {"final": site}},)
    return each(finished(name), file(f"{name}/telemetry.jsonl", "".join(f"{json.dumps(record)}\n" for record in records)))


def read_only(name: str) -> Before:
    """A folder that nobody may write to."""

    def make(here: Path, patch: pytest.MonkeyPatch) -> None:
        (here / name).mkdir()
        (here / name).chmod(0o555)

    return make


def open_to_all(name: str) -> Before:
    """A folder that everybody may write to."""

    def make(here: Path, patch: pytest.MonkeyPatch) -> None:
        (here / name).mkdir()
        (here / name).chmod(0o777)

    return make


def other_tokenizer(here: Path, patch: pytest.MonkeyPatch) -> None:
    """A second folder, written with another tokenizer, and holding text that the first has."""
    copied("other")(here, patch)
    with open(here / "other" / "tokenizer.model", "ab") as model:
        model.write(b"\0")

    def change(manifest: dict[str, Any]) -> None:
        manifest["tokenizer"]["hash"] = hash_file(here / "other" / "tokenizer.model")
        manifest["corpora"][0]["name"] = "other"

    edit(here / "other", change)
