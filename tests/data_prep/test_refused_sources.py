"""What is no text, no file, or may not be read is refused by name."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ibnorm_megatron.errors import UserError

from .reading import column_twice, documents_of, jsonl_of, parquet_of


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.txt", b"fine\n\xff\xfe", r"^byte 5 of .*bad.txt is 0xff: it is not UTF-8"),
        ("late.txt", b"fine\n\n" * 500 + b"\xc3", r"^byte 3000 of .*late.txt is 0xc3"),
        ("bad.jsonl", jsonl_of("a") + b'{"text": "\xff"}\n', r"^byte 24 of .*bad.jsonl is 0xff: it is not UTF-8"),
        ("none.jsonl", b'{"text": "a"}\n{"other": 1}\n', "^the field 'text' in row 2 of .* is missing.*there are other"),
        ("number.jsonl", b'{"text": 5}\n', "^the field 'text' in row 1 of .* is 5"),
        ("cut.jsonl", jsonl_of("a", "b")[:-3], r"^row 2 of .*cut.jsonl is not JSON: Unterminated string.* at column 10"),
        ("array.jsonl", b'[{"text": "a"}]', r"^row 1 of .*array.jsonl is \[\{'text': 'a'\}\]: every line"),
        ("pretty.jsonl", b'{\n"text": "a"\n}', r"^row 1 of .*pretty.jsonl is not JSON"),
        ("deep.jsonl", b"[" * 100_000, r"^row 1 of .*deep.jsonl is not JSON"),
        ("twice.jsonl", b'{"text": "a", "text": "b"}', r"^the field 'text' in row 1 of .*twice.jsonl is there twice"),
        ("half.jsonl", b'{"text": "\\ud800"}', r"row 1 of .*half.jsonl is .*ud800.*: a lone surrogate is not text"),
        ("fake.parquet", b"no parquet at all", r"fake.parquet is not readable: Parquet magic bytes not found"),
        ("cut.parquet", parquet_of(text=["a"])[:-9], r"cut.parquet is not readable"),
        ("none.parquet", parquet_of(body=["a"], x=[1]), "^the field 'text' in row 1 of .* is missing.*there are body, x"),
        ("null.parquet", parquet_of(text=["a", None]), "^the field 'text' in row 2 of .*null.parquet is missing"),
        ("twice.parquet", column_twice(), r"^the column 'text' of .*twice.parquet is there twice: only one"),
        ("number.parquet", parquet_of(text=[5]), "^the field 'text' in row 1 of .*number.parquet is 5"),
        ("fake.txt.gz", b"not compressed", r"fake.txt.gz is not readable: Not a gzipped file"),
        ("cut.jsonl.gz", gzip.compress(jsonl_of("a"), mtime=0)[:-9], r"cut.jsonl.gz is not readable: Compressed file ended"),
        ("bits.txt.gz", gzip.compress(b"a" * 99, mtime=0)[:12] + b"\xff" * 40, r"bits.txt.gz is not readable"),
        ("fake.jsonl.zst", b"not compressed", r"fake.jsonl.zst is not readable"),
        (
            "cut.jsonl.zst",
            zstandard.compress(jsonl_of(*map(str, range(999))))[:-50],
            r"cut.jsonl.zst is (not readable|not JSON)",
        ),
        ("a.parquet.gz", b"x", "neither python-stdlib nor"),
        ("empty.txt", b"", "neither python-stdlib nor"),
        ("picture.png", b"x", "neither python-stdlib nor"),
    ],
)
def test_what_is_not_text_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        documents_of(tmp_path / name)


def _folder_named_as_file(path: Path) -> None:
    path.mkdir()


def _link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere.txt")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _link_to_nowhere_in_a_folder(path: Path) -> None:
    path.mkdir()
    (path / "fine.txt").write_text("fine")
    (path / "x.txt").symlink_to("nowhere.txt")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_folder_named_as_file, "neither python-stdlib nor"),
        (_link_to_nowhere, r"nowhere.txt cannot be opened \(No such file"),
        (_link_to_itself, r"x.txt cannot be opened \(Too many levels of symbolic links\)"),
        (_link_to_nowhere_in_a_folder, r"x.txt cannot be opened \(No such file"),
        (os.mkfifo, "neither python-stdlib nor"),
        (lambda path: None, r"x.txt cannot be opened \(No such file"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "x.txt")
    with pytest.raises(UserError, match=says):
        documents_of(tmp_path / "x.txt")


def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    documents_of(_written(tmp_path / "warm.parquet"))  # what it imports may not be readable either, later
    with tempfile.TemporaryDirectory() as shared:  # everybody may enter it, unlike pytest's
        files = [_written(Path(shared, name)) for name in ("a.txt", "a.jsonl", "a.parquet", "folder/a.txt")]
        Path(shared).chmod(0o755)
        for path in [*files[:3], files[3].parent]:
            path.chmod(0)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # root may read everything
        try:
            for path in [*files[:3], files[3], files[3].parent]:
                with pytest.raises(UserError, match=rf"{path.name}.* (is not readable|cannot be opened)"):
                    documents_of(path)
        finally:
            os.seteuid(user)
            files[3].parent.chmod(0o700)


def _written(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes({".txt": b"a", ".jsonl": jsonl_of("a"), ".parquet": parquet_of(text=["a"])}[path.suffix])
    return path
