"""What can go wrong with a prepared folder: damage to files, indices and manifests, with what must be said of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ibnorm_megatron.data.manifest import MANIFEST
from ibnorm_megatron.data.shards import read_index
from ibnorm_megatron.files import hash_file

from ..conftest import prepare_folder
from ..distributed import ROOT

TRAIN, VALIDATION = "tests-00000-train", "tests-00000-validation"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest's plain values."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _records(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {shard["name"]: shard for corpus in manifest["corpora"] for shards in corpus["splits"].values() for shard in shards}


def believe(folder: Path) -> None:
    """Make the manifest's sizes, hashes and counts those of the files, as a script would that trusts them."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["tokenizer"]["hash"] = hash_file(next(folder.glob("tokenizer.[mj]*")))
        for name, shard in _records(manifest).items():
            files = {suffix: folder / f"{name}.{suffix}" for suffix in ("bin", "idx")}
            for suffix, file in files.items():
                shard[f"{suffix}_size"], shard[f"{suffix}_hash"] = file.stat().st_size, hash_file(file)
            shard["documents"] = read_index(files["idx"]).lengths.size
            shard["tokens"] = shard["bin_size"] // np.dtype(manifest["dtype"]).itemsize

    edit(folder, change)


def _swap(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def _index(folder: Path, name: str = TRAIN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays of an index, writable; they reach the file when they are gone."""
    path = folder / f"{name}.idx"
    documents = read_index(path).lengths.size
    arrays, at = [], 34
    for dtype, count in ((np.int32, documents), (np.int64, documents), (np.int64, documents + 1)):
        arrays.append(np.memmap(path, dtype=dtype, mode="r+", offset=at, shape=(count,)))
        at += arrays[-1].nbytes
    return tuple(arrays)  # type: ignore[return-value]


def _tokens(folder: Path, name: str = TRAIN) -> np.ndarray:
    return np.memmap(folder / f"{name}.bin", dtype=np.uint16, mode="r+")


def _truncate(name: str, by: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - by)


def flip(name: str, bit: int) -> Callable[[Path], object]:
    """Turn one bit of a file over."""

    def flip(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(data)

    return flip


def _replaced_by(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


#: What happens to files, and what is said of it.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated bin": (_truncate(f"{TRAIN}.bin", 2), rf"{TRAIN}\.bin is \d+ bytes: manifest.json says \d+; restore"),
    "odd bin": (_truncate(f"{TRAIN}.bin", 1), r"bytes: ids take 2 bytes each"),
    "empty bin": (lambda folder: os.truncate(folder / f"{TRAIN}.bin", 0), r"\.bin is 0 bytes"),
    "truncated idx": (_truncate(f"{TRAIN}.idx", 8), rf"{TRAIN}\.idx is \d+ bytes: manifest.json says \d+"),
    "empty idx": (lambda folder: os.truncate(folder / f"{TRAIN}.idx", 0), r"\.idx is 0 bytes"),
    "swapped idx": (
        lambda folder: _swap(folder / f"{TRAIN}.idx", folder / f"{VALIDATION}.idx"),
        rf"{TRAIN}\.idx is \d+ bytes(.|\n)*of [\d,]+ tokens: {TRAIN}\.bin has [\d,]+",
    ),
    "swapped bin": (
        lambda folder: _swap(folder / f"{TRAIN}.bin", folder / f"{VALIDATION}.bin"),
        rf"{TRAIN}\.bin is \d+ bytes(.|\n)*{VALIDATION}\.bin is \d+ bytes",
    ),
    "one bit": (flip(f"{TRAIN}.bin", 12345), rf"{TRAIN}\.bin is changed: its hash is not the one"),
    "one bit of the idx": (flip(f"{TRAIN}.idx", 400), rf"{TRAIN}\.idx is changed"),
    "missing bin": (lambda folder: (folder / f"{TRAIN}.bin").unlink(), rf"{TRAIN}\.bin is missing"),
    "missing idx": (lambda folder: (folder / f"{TRAIN}.idx").unlink(), rf"{TRAIN}\.idx is missing"),
    "a folder for a bin": (_replaced_by(f"{TRAIN}.bin", Path.mkdir), rf"{TRAIN}\.bin is missing"),
    "a folder for an idx": (_replaced_by(f"{TRAIN}.idx", Path.mkdir), rf"{TRAIN}\.idx is missing"),
    "a pipe for a bin": (_replaced_by(f"{TRAIN}.bin", os.mkfifo), rf"{TRAIN}\.bin is missing"),
    "a pipe for an idx": (_replaced_by(f"{TRAIN}.idx", os.mkfifo), rf"{TRAIN}\.idx is missing"),
    "unreadable bin": (  # a disk that fails: reading gives EIO, for root as well
        _replaced_by(f"{TRAIN}.bin", lambda path: path.symlink_to("/proc/self/mem")),
        rf"{TRAIN}\.bin is not readable: Input/output error",
    ),
    "unreadable idx": (
        _replaced_by(f"{TRAIN}.idx", lambda path: path.symlink_to("/proc/self/mem")),
        rf"{TRAIN}\.idx is 0 bytes",
    ),
    "changed tokenizer": (flip("tokenizer.model", 2000), r"tokenizer\.model is changed"),
    "missing tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), r"tokenizer\.model is missing"),
    "changed card": (
        lambda folder: (folder / "tokenizer_card.json").write_text(
            (folder / "tokenizer_card.json").read_text().replace('"vocab_size": 600', '"vocab_size": 601')
        ),
        r"vocab_size in .*tokenizer_card\.json is 601: .* 600",
    ),
    "stray shard": (lambda folder: (folder / "old.bin").write_bytes(b"x"), r"the file .*/old\.bin is a stray: .* remove it"),
    "stray idx": (lambda folder: (folder / "old.idx").write_bytes(b"x"), r"the file .*/old\.idx is a stray"),
    "temporary": (lambda folder: (folder / f".{TRAIN}.bin.tmp-7").touch(), r"\.tmp-7 is a stray: .* left behind; remove it"),
    "another tokenizer": (lambda folder: (folder / "tokenizer.json").touch(), r"tokenizer\.json is a stray"),
}


def _no_text_in_the_middle(folder: Path) -> None:
    lengths, *_ = _index(folder)
    _tokens(folder)[int(lengths[0]) + 3] = 2


def _no_end(folder: Path) -> None:
    lengths, *_ = _index(folder)
    _tokens(folder)[int(lengths[:4].sum()) - 1] = 300


def _move_an_end(folder: Path) -> None:
    """Lengths of two documents as if one token of the first were the second's."""
    lengths, offsets, _ = _index(folder)
    lengths[0] -= 1
    lengths[1] += 1
    offsets[1] -= 2


def _empty_document(folder: Path) -> None:
    lengths, offsets, _ = _index(folder)
    lengths[1] += lengths[0]
    lengths[0] = 0
    offsets[1] = 0


def _blank_document(folder: Path) -> None:
    lengths, offsets, _ = _index(folder)
    lengths[1] += lengths[0] - 1
    lengths[0] = 1
    offsets[1] = 2
    _tokens(folder)[0] = 2


def _negative_length(folder: Path) -> None:
    lengths, *_ = _index(folder)
    lengths[1] += lengths[0] + 5
    lengths[0] = -5


def _set(which: int, at: int, value: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        _index(folder)[which][at] = value

    return change


def _set_token(at: int, value: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        _tokens(folder)[at] = value

    return change


def _mix_up_splits(folder: Path) -> None:
    for suffix in ("bin", "idx"):
        _swap(folder / f"{TRAIN}.{suffix}", folder / f"{VALIDATION}.{suffix}")

    def change(manifest: dict[str, Any]) -> None:
        one, two = shard_record(manifest, TRAIN), shard_record(manifest, VALIDATION)
        one["text_bytes"], two["text_bytes"] = two["text_bytes"], one["text_bytes"]

    edit(folder, change)


def _no_longer_text(folder: Path) -> None:
    """Two byte tokens change places, where a character of two bytes was."""
    ids = _tokens(folder)
    first = int(np.flatnonzero((ids >= 3 + 0xC2) & (ids < 3 + 0xF5))[0])
    ids[first], ids[first + 1] = ids[first + 1], ids[first]


def _other_vocabulary(folder: Path) -> None:
    """A tokenizer of fewer entries, with all hashes made to match."""
    prepare_folder([str(ROOT / "tests")], folder.parent / "smaller", 500)
    shutil.copy(folder.parent / "smaller" / "tokenizer.model", folder)


#: What was wrong before the hashes were taken, and what is said of it.
BELIEVED: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated bin": (_truncate(f"{TRAIN}.bin", 2), rf"{TRAIN}\.idx is of [\d,]+ tokens: {TRAIN}\.bin has [\d,]+"),
    "swapped idx": (DAMAGE["swapped idx"][0], rf"{TRAIN}\.idx is of [\d,]+ tokens: {TRAIN}\.bin has [\d,]+"),
    "swapped bin": (DAMAGE["swapped bin"][0], rf"{TRAIN}\.idx is of [\d,]+ tokens: {TRAIN}\.bin has [\d,]+"),
    "id outside the vocabulary": (_set_token(7, 600), r"token 7 of .* is 600: ids of this tokenizer go from 0 to 599"),
    "id far outside": (_set_token(7, 65535), r"token 7 of .* is 65535"),
    "no end": (_no_end, r"the last token of document 3 of .* is not the end-of-document token 2"),
    "end in the middle": (_no_text_in_the_middle, r"a token inside document 1 of .* is the end-of-document token 2"),
    "moved end": (_move_an_end, r"the last token of document 0 (.|\n)*a token inside document 1"),
    "empty document": (_empty_document, r"document 0 of .*\.idx is empty: every document has its end"),
    "blank document": (_blank_document, r"document 0 of .*\.idx is empty: it holds one token"),
    "negative length": (_negative_length, r"document 0 of .*\.idx is -5 tokens long"),
    "offset": (_set(1, 5, 4), r"document 5 of .*\.idx is said to begin at byte 4: .* without a gap"),
    "negative offset": (_set(1, 0, -2), r"document 0 of .* is said to begin at byte -2"),
    "document number": (_set(2, 3, 4), r"document number 3 of .* is 4: every sequence is a document"),
    "last document number": (_set(2, -1, 0), r"document number \d+ of .* is 0"),
    "another token": (_set_token(7, 263), r"the text that .* stands for is .* bytes long: manifest.json says"),
    "splits mixed up": (_mix_up_splits, r"document \d+ of .*validation\.bin is in the validation split: .* into (train|test)"),
    "no text": (_no_longer_text, r"document \d+ of .*\.bin is no text: .* not UTF-8"),
    "other vocabulary": (_other_vocabulary, r"the vocabulary of .*tokenizer\.model is 500 entries: manifest.json says 600"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").write_bytes(b"x" * 99), r"tokenizer\.model is no tokenizer"),
}


def shard_record(manifest: dict[str, Any], name: str = TRAIN) -> dict[str, Any]:
    """What a manifest says of a shard, to be changed."""
    return _records(manifest)[name]


#: What a manifest may wrongly say, and what is said of it.
SAID: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version 1": (lambda manifest: manifest.update(version=1), r"the version of manifest.json .* is 1: .* version 2; prepare"),
    "no split": (lambda manifest: manifest["corpora"][0]["splits"].update(test=[]), r"the test split of tests in .* is empty"),
    "no test": (
        lambda manifest: [corpus["splits"].pop("test", None) for corpus in manifest["corpora"]],
        r"the test split in .* is empty: 0.1 of the documents",
    ),
    "no validation": (
        lambda manifest: [corpus["splits"].pop("validation") for corpus in manifest["corpora"]],
        "the validation split holds no document",
    ),
    "named twice": (lambda manifest: manifest["corpora"][0]["splits"]["train"].append(shard_record(manifest)), "named twice"),
    "dtype": (lambda manifest: manifest.update(dtype="int32"), r"\.idx is for ids of uint16: manifest.json says int32"),
    "vocabulary": (lambda manifest: manifest["tokenizer"].update(vocab_size=601), "is 600 entries: manifest.json says 601"),
    "a giant vocabulary": (lambda manifest: manifest["tokenizer"].update(vocab_size=10**15), "do not fit into it"),
    "end": (lambda manifest: manifest["tokenizer"].update(end_of_document=1), "the end-of-document token of .* is 2"),
    "text bytes": (lambda manifest: shard_record(manifest).update(text_bytes=5), "bytes long: manifest.json says 5"),
    "documents": (
        lambda manifest: shard_record(manifest).update(documents=5),
        r"\.idx is of .* documents: manifest.json says 5",
    ),
    "tokens": (lambda manifest: shard_record(manifest).update(tokens=5), r"\.bin is of .* tokens: manifest.json says 5"),
    "read": (lambda manifest: manifest["corpora"][0].update(documents_read=5), "documents_read of tests .* is 5"),
    "entropy": (lambda manifest: manifest.update(unigram_entropy=5.0), "unigram_entropy in .* is 5.0: .* training tokens"),
    "no share": (lambda manifest: manifest["held_out"].update(test=-1.0), "held_out.test in .* is -1.0"),
    "another share": (lambda manifest: manifest["held_out"].update(validation=0.01), "is in the validation split: the hash"),
    "hostile": (lambda manifest: manifest.update({"\x1b[2J": 1}), r"\\x1b\[2J: Extra inputs"),
}
