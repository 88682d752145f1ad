"""``ibnorm prepare``: what it says it made, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ibnorm_megatron.cli import main


def test_prepare_says_what_it_made(tmp_path: Path, text_sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "prepare",
        text_sources[0],
        "--out",
        str(tmp_path / "d"),
        "--vocab-size",
        "400",
        "--validation-fraction",
        "0.2",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    (shard,) = manifest["corpora"][0]["splits"]["train"]
    assert f"train: {shard['documents']} documents, {shard['text_bytes'] / 1e6:.2f} MB, {shard['tokens']:,} tokens" in shown
    name = Path(text_sources[0]).name
    shards = [f"{name}-00000-{split}.{suffix}" for split in ("train", "validation") for suffix in ("bin", "idx")]
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [
        *shards, "manifest.json", "tokenizer.model", "tokenizer_card.json"
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_what_prepare_cannot_do_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("sources: [{path: x.txt}]\ntokenizer: {vocab_size: 400}\nclening: {}\n")
    out = ["--out", str(tmp_path / "d")]
    for arguments, says in (
        ([*out, "--vocab-size", "400"], "the sources is empty"),
        (["a.txt", *out], "there is neither vocab_size nor file"),
        (["a.txt", *out, "--vocab-size", "400", "--workers", "0"], "--workers is 0"),
        (["a.txt", *out, "--vocab-size", "400", "--task", "x"], "--task is 'x'"),
        (["a.txt", "--recipe", "r.yaml", "--vocab-size", "9", *out], "--recipe is given with SOURCE, --vocab-size"),
        (
            ["--recipe", str(tmp_path / "r.yaml"), *out],
            "recipe.clening is {}: there is no such field here; did you mean 'cleaning'?",
        ),
        (["--recipe", str(tmp_path / "no.yaml"), *out], "it cannot be read (No such file or directory)"),
        (["dataset:no/such-set", *out, "--vocab-size", "400"], "the data set is no/such-set: "),
    ):
        assert main(["prepare", *arguments]) == 2
        assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
