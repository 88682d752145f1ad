"""Writing so that nothing is half there: temporary name, fsync, rename. And hashing what was written."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from .errors import Problem, UserError

_CHUNK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` in one step: a reader sees the old file or the new one, never a part.

    If the block raises, the old file stays and nothing is left of the new one.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill within :func:`replacing` has left in a folder into which nobody else is writing."""
    for leftover in folder.glob(".*.tmp-*"):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def unused_name(folder: Path, stem: str, suffix: str = "") -> Path:
    """The first of STEM-1, STEM-2 ... that does not exist."""
    return next(path for n in itertools.count(1) if not (path := folder / f"{stem}-{n}{suffix}").exists())


def for_json(value: Any) -> Any:
    """Plain values, with null for numbers that are not finite: JSON has none of these."""
    if isinstance(value, dict):
        return {key: for_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync_file(path: Path) -> None:
    """Make a finished file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; a rename is not before this."""
    sync_file(path)


def rename_directory(source: Path, target: Path) -> None:
    """Give a finished directory its final name, durably. Its files must be synced already."""
    sync_directory(source)
    os.rename(source, target)
    sync_directory(target.parent)


def hash_file(path: Path) -> str:
    """XXH3 (64 bit, hex) of a file's bytes: fast enough to check every shard when it is opened."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """XXH3 (64 bit, hex) of a text's UTF-8 bytes."""
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8"))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that then becomes ``out``, what ``--out`` names; if the block raises, nothing of it stays.

    Raises:
        UserError: ``out`` exists, or the folder that it is to be in does not.
    """
    if out.exists():
        raise UserError(Problem("--out", str(out), "it exists", "give the name of a new folder"))
    if not out.parent.is_dir():
        raise UserError(Problem("--out", str(out), f"there is no folder {out.parent}", "make it first"))
    draft = out.with_name(f".{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        rename_directory(draft, out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
