"""Checking a prepared folder: every kind of damage is found, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from data_prep import shard_checks
from data_prep.manifests import CARD
from data_prep.verification import verify_folder
from ibnorm_megatron.data.manifest import MANIFEST, Shard, load_manifest, read_manifest
from ibnorm_megatron.data.shards import OpenShard, ShardWriter, open_shard, read_index
from ibnorm_megatron.data.tokenizer import load_decoder, token_texts
from ibnorm_megatron.errors import UserError

from ..conftest import prepare_folder
from ..distributed import ROOT, command
from .damage import BELIEVED, DAMAGE, SAID, TRAIN, believe, edit, flip, shard_record


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of several small shards in three splits; some documents are longer than a look at tokens."""
    folder = tmp_path_factory.mktemp("verify") / "healthy"
    sources = [str(ROOT / "tests"), str(ROOT / "ibnorm_megatron" / "norms")]
    prepare_folder(sources, folder, 600, validation_fraction=0.2, test_fraction=0.1, piece_bytes=150_000)
    return folder


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "folder")


def _found(folder: Path, **options: Any) -> str:
    return "\n".join(map(str, verify_folder(folder, **options).findings))


@pytest.mark.parametrize("full", [False, True])
def test_a_healthy_folder_is_well(healthy: Path, prepared: Path, full: bool) -> None:
    for folder in (healthy, prepared):
        result = verify_folder(folder, full=full)
        assert result.findings == []
        assert len(result.notes) == (not full)
        manifest = read_manifest(folder)
        tokens = sum(manifest.tokens(split) for split in ("train", "validation", "test"))  # type: ignore[arg-type]
        assert f"{tokens:,} tokens" in result.totals


def test_the_bytes_of_tokens_are_what_they_decode_to(healthy: Path) -> None:
    manifest = read_manifest(healthy)
    texts, decode = token_texts(healthy, manifest.tokenizer), load_decoder(healthy, manifest.tokenizer)
    for shard in manifest.shards("train"):
        opened = open_shard(healthy, shard, manifest)
        for document in range(len(opened)):
            ids = opened[document][:-1].tolist()
            assert b"".join(texts[i] for i in ids).decode() == decode(ids)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_found(folder: Path, kind: str) -> None:
    damage, says = DAMAGE[kind]
    damage(folder)
    found = _found(folder)
    assert re.search(says, found), found


def test_files_of_two_preparations_are_found(folder: Path, healthy: Path, tmp_path: Path) -> None:
    """A folder prepared again with other text, half of it copied over the first: every mixture of names and of pairs."""
    other = tmp_path / "other"
    shutil.copytree(ROOT / "tests", tmp_path / "text" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (tmp_path / "text").rglob("*.py"):
        file.write_text(file.read_text().replace("e", "E"))
    sources = [str(tmp_path / "text" / "tests"), str(ROOT / "ibnorm_megatron" / "norms")]
    prepare_folder(sources, other, 600, validation_fraction=0.2, test_fraction=0.1, piece_bytes=150_000)
    assert _found(other) == ""
    for copied in (["*.bin"], ["*.idx"], [f"{TRAIN}.*"], ["tokenizer.model"], [MANIFEST], ["*train*", "tokenizer.model"]):
        mixed = tmp_path / "mixed"
        shutil.copytree(healthy, mixed)
        for pattern in copied:
            for file in other.glob(pattern):
                shutil.copy(file, mixed)
        assert _found(mixed), copied
        shutil.rmtree(mixed)


@pytest.mark.parametrize("kind", BELIEVED)
def test_damage_that_the_manifest_believes_is_found(folder: Path, kind: str) -> None:
    damage, says = BELIEVED[kind]
    damage(folder)
    believe(folder)
    read_manifest(folder)
    found = _found(folder, full=kind == "no text")
    assert re.search(says, found), found


@pytest.mark.parametrize("kind", SAID)
def test_a_wrong_manifest_is_found(folder: Path, kind: str) -> None:
    change, says = SAID[kind]
    edit(folder, change)
    found = _found(folder)
    assert re.search(says, found), found


def test_a_shard_under_two_names_is_found(folder: Path) -> None:
    for suffix in ("bin", "idx"):
        shutil.copy(folder / f"{TRAIN}.{suffix}", folder / f"again.{suffix}")

    def change(manifest: dict[str, Any]) -> None:
        shards = manifest["corpora"][0]["splits"]["train"]
        shards.append({**shard_record(manifest), "name": "again"})
        manifest["corpora"][0]["documents_read"] += shards[-1]["documents"]

    edit(folder, change)
    assert re.search(rf"the shard again in .* is a copy: it holds the tokens of {TRAIN}", _found(folder))


@pytest.mark.parametrize("sizes", [(64, 1, 3), (4096, 7, 64)])
def test_sizes_of_looks_change_nothing(
    folder: Path, healthy: Path, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that reach across looks at tokens, at the index and at text, as giant ones do."""
    for damage in (None, "no end", "moved end", "offset", "no text", "splits mixed up"):
        if damage:
            shutil.rmtree(folder)
            shutil.copytree(healthy, folder)
            BELIEVED[damage][0](folder)
            believe(folder)
        expected = verify_folder(folder, full=True)
        with monkeypatch.context() as patched:
            for name, size in zip(("_CHUNK", "_BLOCK", "_RUN"), sizes, strict=True):
                patched.setattr(shard_checks, name, size)
            assert verify_folder(folder, full=True) == expected


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a byte-level tokenizer with more entries than 16 bits count: every pair of bytes is one."""
    base = tmp_path_factory.mktemp("wide")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)  # so that pairs of letters have the largest ids
    pairs = [(a, b) for a in alphabet for b in alphabet]
    entries = ["<|endoftext|>", *alphabet, *(a + b for a, b in pairs)]
    model = Tokenizer(BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=pairs))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(["<|endoftext|>"])
    model.save(str(base / "tokenizer.json"))
    rows = [{"text": f"{i}: " + "!!!!!!!!! \u00e9\u65e5 abc" * 5} for i in range(50)]
    (base / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = {"vocab_size": None, "file": str(base / "tokenizer.json")}
    prepare_folder([str(base / "a.jsonl")], base / "wide", 0, tokenizer=tokenizer, validation_fraction=0.2)
    return base / "wide"


def test_a_wide_vocabulary_is_well(wide: Path) -> None:
    manifest = read_manifest(wide)
    assert manifest.dtype == "int32"
    assert verify_folder(wide, full=True).findings == []
    opened = open_shard(wide, manifest.shards("train")[0], manifest)
    assert opened.tokens.max() >= 1 << 16


@pytest.mark.parametrize("dtype", ["int32", "uint16"])
def test_ids_that_wrapped_are_found(wide: Path, tmp_path: Path, dtype: str) -> None:
    folder = shutil.copytree(wide, tmp_path / "folder")
    for path in folder.glob("*.bin"):
        wrapped = np.fromfile(path, dtype=np.int32).astype(np.uint16).astype(dtype)
        lengths = read_index(path.with_suffix(".idx")).lengths.copy()
        writer = ShardWriter(folder, path.stem, 600 if dtype == "uint16" else 1 << 17)
        writer._vocab_size = 1 << 17
        for ids in np.split(wrapped, np.cumsum(lengths)[:-1]):
            writer.add(ids, 0)
        assert isinstance(writer.finish(), Shard)
    edit(folder, lambda manifest: manifest.update(dtype=dtype))
    believe(folder)
    found = _found(folder)
    assert "bytes long: manifest.json says" in found, found
    assert (dtype == "uint16") == ("do not fit into it, and ids wrapped" in found)


def test_negative_ids_are_found(wide: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(wide, tmp_path / "folder")
    np.memmap(next(folder.glob("*train.bin")), dtype=np.int32, mode="r+")[3] = -1
    believe(folder)
    assert re.search(r"token 3 of .* is -1: ids of this tokenizer go from 0 to 65792", _found(folder))


def test_a_tokenizer_that_does_not_keep_text_is_told(tmp_path: Path) -> None:
    """Its documents cannot be counted in bytes; everything else is still checked."""
    lines = [f"the {i} quick brown foxes jump over {i * 7} lazy dogs" for i in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "m"), vocab_size=100, minloglevel=2
    )
    tokenizer = {"vocab_size": None, "file": str(tmp_path / "m.model")}
    folder = tmp_path / "out"
    prepare_folder([str(tmp_path / "a.jsonl")], folder, 0, tokenizer=tokenizer, validation_fraction=0.2)
    result = verify_folder(folder)
    assert result.findings == []
    assert ["does not keep text as it is" in note for note in result.notes] == [True]
    flip("a-00000-train.bin", 100)(folder)
    assert "changed" in _found(folder)


def test_no_data_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"^the folder is .*: there is no prepared data there"):
            verify_folder(path)


def test_the_command_tells_and_ends_as_it_should(folder: Path, tmp_path: Path) -> None:
    done = command("ibnorm", "data", "verify", folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^all is well: \d+ shards, \d+ documents, [\d,]+ tokens", done.stdout, flags=re.MULTILINE)
    assert "verifying 100 %" in done.stderr
    flip(f"{TRAIN}.bin", 5)(folder)
    (folder / "old.bin").touch()
    done = command("ibnorm", "data", "verify", folder, "--full")
    assert done.returncode == 1
    assert len(re.findall("^error: .* is .*: .*; .*\\.$", done.stderr, flags=re.MULTILINE)) >= 2
    assert "things are wrong with" in done.stdout
    assert command("ibnorm", "data", "verify", tmp_path).returncode == 2


#: Of a manifest, what nothing else in a folder tells.
_FREE = {
    "recipe_hash": True,
    "held_out": True,
    "tokenizer": {"kind"},
    "corpora": {"__all__": {"name", "source", "source_hash", "weight", "text_bytes_read", "replaced", "removed_lines"}},
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_reported_and_nothing_crashes(healthy: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(healthy, Path(place) / "folder")
        path = data.draw(st.sampled_from(sorted(folder.iterdir())), "file")
        before = path.read_bytes()
        after = bytearray(before)
        begin = data.draw(st.integers(0, len(after) - 1), "place")
        end = begin + data.draw(st.integers(1, 64), "length")
        kind = data.draw(st.sampled_from(["flip", "zero", "truncate", "noise", "grow"]), "kind")
        if kind == "flip":
            after[begin] ^= 1 << data.draw(st.integers(0, 7), "bit")
        elif kind == "zero":
            after[begin:end] = bytes(len(after[begin:end]))
        elif kind == "truncate":
            del after[begin:]
        elif kind == "noise":
            noise = data.draw(st.binary(min_size=64, max_size=64), "noise")
            after[begin:end] = noise[: len(after[begin:end])]
        else:
            after += b"\0" * data.draw(st.integers(1, 9), "more")
        path.write_bytes(after)
        for opening in (read_manifest, lambda folder: [OpenShard(file.with_suffix("")) for file in folder.glob("*.bin")]):
            with contextlib.suppress(UserError, ValueError, OSError):
                opening(folder)
        found = verify_folder(folder).findings
        if path.suffix in (".bin", ".idx", ".model") and bytes(after) != before:
            assert found
        elif path.name == MANIFEST and not found:
            was, now = (load_manifest(of).model_dump(exclude=_FREE) for of in (healthy, folder))
            assert was == now, "what a manifest says and other files tell is checked"
        elif path.name == CARD and not found:
            was, now = (json.loads((of / CARD).read_text()) for of in (healthy, folder))
            assert {name for name in was | now if was.get(name) != now.get(name)} <= {"trained_here", "fertility"} | {
                "fertility_documents"
            }
        if data.draw(st.booleans(), "believe") and path.suffix in (".bin", ".idx"):
            try:
                believe(folder)
            except (ValueError, OSError):
                return  # no index at all
            verify_folder(folder)
