"""Looking into a prepared folder: right numbers, the same documents for the same seed, and nothing that a document can do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from data_prep.inspection import SHOWN, Lengths, count_tokens, draw_samples, measure
from data_prep.manifests import CARD
from data_prep.pictures import check_picture, draw
from ibnorm_megatron.cli import main
from ibnorm_megatron.data.manifest import MANIFEST, Manifest, read_manifest
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.printing import printable

from ..conftest import prepare_folder
from ..distributed import BIN, ROOT, command, environment

#: Clears a terminal, renames its window, hides text behind a turned direction, and is markup to rich.
_HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m[bold red]not bold[/] :smile: \u202ereversed\u2028line\r\x00\x08 $x_1$ [/nothing]\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("hostile")
    text = "".join(json.dumps({"text": f"{i} {_HOSTILE}" * (1 + i % 7)}) + "\n" for i in range(60))
    (base / "[red]_$a.jsonl").write_text(text)
    short = json.dumps({"text": "\x1b[31m[blink]x"}) + "\n"
    (base / "_b.jsonl").write_text(text.replace("not bold", "another") + short)
    folder = base / "[bold]$out"
    sources = [str(base / "[red]_$a.jsonl"), str(base / "_b.jsonl")]
    prepare_folder(sources, folder, 320, validation_fraction=0.2)

    manifest = json.loads((folder / MANIFEST).read_text())
    example = {"where": "\x1b[2Jplace", "text": _HOSTILE, "why": "[/red]"}
    rule = {"rule": "gopher.[bold]", "documents": 3, "text_bytes": 2_500_000, "examples": [example]}
    manifest["corpora"][0]["dropped"] = [rule]
    manifest["corpora"][1]["removed_lines"] = 1234
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300) | st.integers(1 << 17, 1 << 30), min_size=1, max_size=60),
    share=st.floats(0.01, 1.0),
    parts=st.integers(1, 4),
)
def test_quantiles_are_exact(lengths: list[int], share: float, parts: int) -> None:
    measured = Lengths()
    for part in np.array_split(np.array(lengths, dtype=np.int32), parts):
        measured.add(part)
    expected = int(np.quantile(lengths, share, method="inverted_cdf"))
    assert measured.quantile(share) == expected
    values, counts = measured.histogram()
    assert np.repeat(values, counts).tolist() == sorted(lengths)


def test_no_document_has_no_length() -> None:
    assert Lengths().quantile(0.5) == 0


def test_samples_are_documents_and_depend_on_the_seed_alone(prepared: Path, text_sources: list[str]) -> None:
    manifest = read_manifest(prepared)
    texts = [file.read_text() for source in text_sources for file in Path(source).rglob("*.py")]
    samples = draw_samples(prepared, manifest, "train", 20, seed=3)
    assert samples == draw_samples(prepared, manifest, "train", 20, seed=3)
    assert samples != draw_samples(prepared, manifest, "train", 20, seed=4)
    assert samples[:5] == draw_samples(prepared, manifest, "train", 5, seed=3)
    assert len({(sample.shard, sample.document) for sample in samples}) == 20
    assert len({sample.corpus for sample in samples}) > 1
    for sample in samples:
        assert len(sample.text) <= SHOWN
        assert any(sample.text in text for text in texts)
        assert sample.cut == (sample.text not in texts)
        shard = next(shard for shard in manifest.shards("train") if shard.name == sample.shard)
        assert open_shard(prepared, shard, manifest)[sample.document].size == sample.tokens


def test_all_documents_if_there_are_fewer(hostile: Path) -> None:
    manifest = read_manifest(hostile)
    samples = draw_samples(hostile, manifest, "validation", 10**9, seed=0)
    assert len(samples) == sum(shard.documents for shard in manifest.shards("validation"))
    with pytest.raises(UserError, match=r"^--split is test: no document is in it; choose one of train, validation"):
        draw_samples(hostile, manifest, "test", 1, seed=0)


def test_characters_of_many_tokens_are_shown_whole(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{i}" + "\U0001f600" * 3000}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    entries = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = Tokenizer(BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_special_tokens(entries[:1])
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = {"vocab_size": None, "file": str(tmp_path / "tokenizer.json")}
    manifest = prepare_folder([str(tmp_path / "a.jsonl")], tmp_path / "out", 0, tokenizer=tokenizer, validation_fraction=0.2)
    (sample,) = draw_samples(tmp_path / "out", manifest, "train", 1, seed=0)
    assert sample.cut
    assert len(sample.text) == SHOWN
    assert "\ufffd" not in sample.text


def _counts(folder: Path, manifest: Manifest) -> np.ndarray:
    tokens = [open_shard(folder, shard, manifest).tokens for shard in manifest.shards("train")]
    return np.bincount(np.concatenate(tokens), minlength=manifest.tokenizer.vocab_size)


def test_tokens_are_counted_all_or_so_many(tmp_path: Path) -> None:
    sources = [str(ROOT / "ibnorm_megatron"), str(ROOT / "data_prep")]
    manifest = prepare_folder(sources, tmp_path / "out", 600, piece_bytes=40_000)
    assert np.array_equal(count_tokens(tmp_path / "out", manifest, "train"), _counts(tmp_path / "out", manifest))
    for most in (1, 1000, 50_000, manifest.tokens("train") - 1):
        assert count_tokens(tmp_path / "out", manifest, "train", most=most).sum() >= most * 0.9
        assert count_tokens(tmp_path / "out", manifest, "train", most=most).sum() <= most


def test_a_sampled_picture_says_so(tmp_path: Path, prepared: Path) -> None:
    manifest = read_manifest(prepared)
    counts, lengths = _counts(prepared, manifest), {"a": measure(prepared, manifest, manifest.shards("train"))}
    for name, of_tokens, says in (("all", manifest.tokens("train"), False), ("some", 10**13, True)):
        draw(tmp_path / f"{name}.svg", "title", lengths, counts, of_tokens)
        assert ("10,000,000,000,000 tokens" in (tmp_path / f"{name}.svg").read_text()) == says
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.svg", "some.svg"]


def test_a_picture_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("mine")
    (tmp_path / "b.png").symlink_to("nowhere")
    for name, says in [
        ("a.png", "it exists and is never overwritten"),
        ("b.png", "it exists and is never overwritten"),
        ("c.txt", "its kind is not known"),
        ("none/c.png", "there is no folder"),
    ]:
        with pytest.raises(UserError, match=rf"^--picture is .*{name}: {says}"):
            check_picture(tmp_path / name)
    assert (tmp_path / "a.png").read_text() == "mine"


@given(text=st.text())
def test_nothing_printable_can_drive_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or not shown or all(character.isprintable() or character.isspace() for character in shown)
    assert not set(shown) & set("\x1b\x9b\r\n\t\x00\u202e\u2028\u200f")
    assert printable(text, lines=True).count("\n") == text.count("\n")


@pytest.mark.parametrize("color", [False, True])
def test_the_command_shows_hostile_documents_harmlessly(hostile: Path, tmp_path: Path, color: bool) -> None:
    """With colours forced, rich takes its output for a terminal's."""
    picture = tmp_path / "p.png"
    arguments = [BIN / "ibnorm", "data", "inspect", hostile, "--samples", "9", "--picture", picture]
    variables = environment() | ({"FORCE_COLOR": "1", "COLUMNS": "100"} if color else {"PYTHONIOENCODING": "ascii"})
    variables.pop("NO_COLOR", None)
    done = subprocess.run(arguments, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert ("\x1b[1m" in out) == color
    for driven in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\x00", "\x08", "\r", "\u202e", "\u2028", "\U0001f604"):
        assert driven not in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [picture]
    if not color:
        for shown in ("\\x1b[2J\\x1b]0;owned\\x07", "[bold red]not bold[/] :smile:", "[/nothing]", "gopher.[bold]", "2.50"):
            assert shown in out, shown
        assert "1,234 lines taken out" in out


def test_the_table_has_the_right_numbers(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(prepared)
    assert main(["data", "inspect", str(prepared), "--samples", "0"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for corpus in manifest.corpora:
        for split, shards in corpus.splits.items():
            lengths = np.concatenate([open_shard(prepared, shard, manifest).lengths for shard in shards])
            row = next(line for line in out.splitlines() if f" {corpus.name} " in line and f" {split} " in line)
            median, most = (int(np.quantile(lengths, share, method="inverted_cdf")) for share in (0.5, 0.95))
            figures = (len(lengths), int(lengths.sum()), median, most, int(lengths.max()))
            for figure in (*(f" {figure:,} " for figure in figures), f" {lengths.mean():,.1f} "):
                assert figure in row, (figure, row)
    card = json.loads((prepared / CARD).read_text())
    assert f" {card['bytes_per_token']:.3f} " in out
    assert manifest.tokenizer.hash in out


def test_odd_cards_are_no_crash(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(prepared, tmp_path / "folder")
    for card in ("{", "[]", "[" * 100_000, '{"fertility": "\\u001b[2J"}', '{"fertility": [1], "bytes_per_token": true}', ""):
        (folder / CARD).write_text(card)
        assert main(["data", "inspect", str(folder), "--samples", "0"]) == 0
    (folder / CARD).unlink()
    assert main(["data", "inspect", str(folder), "--samples", "0"]) == 0
    out = capsys.readouterr().out
    assert "there is no tokenizer card that can be read" in out
    assert "\x1b" not in out


def test_bad_arguments_are_refused(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(prepared, tmp_path / "folder")
    os.truncate(next(folder.glob("*train.bin")), 100)
    for arguments, says in [
        ([str(tmp_path)], "there is no prepared data there"),
        ([str(prepared), "--samples", "-1"], "--samples is -1"),
        ([str(prepared), "--split", "test"], "--split is test"),
        ([str(prepared), "--picture", str(tmp_path / "x.gif")], "its kind is not known"),
        ([str(folder)], "is 100 bytes: manifest.json says"),
    ]:
        assert main(["data", "inspect", *arguments]) == 2
        assert says in capsys.readouterr().err


def test_verify_and_inspect_from_the_command_line(prepared: Path) -> None:
    for action in ("inspect", "verify"):
        done = command("ibnorm", "data", action, prepared)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
