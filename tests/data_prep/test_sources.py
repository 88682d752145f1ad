"""Reading sources: every byte as it is, every kind of file, and a clear refusal of what is odd."""

from __future__ import annotations

import gzip
import json
import os
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpora import PYTHON_STDLIB, Corpus, find_corpora, longest_document, read_documents
from ibnorm_megatron.errors import UserError


def _documents(*sources: Path, text_field: str = "text") -> list[str]:
    corpora = find_corpora([str(source) for source in sources])
    return [text for corpus in corpora for text in read_documents(corpus, text_field, longest_document(corpora))]


def _jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _parquet(**columns: list) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_reads_every_kind_of_file(tmp_path: Path) -> None:
    texts = ["first\nline", "zweite Zeile: äöü", "third", "2020-01-01", "2020-01-01T00:00:00", "5", "null", ""]
    lines = b"".join(json.dumps({"body": text}).encode() + b"\n" for text in texts)
    written = {
        "a.txt": texts[0].encode(),
        "A.TXT.gz": gzip.compress(texts[0].encode()),
        "b.jsonl": lines,
        "c.jsonl.gz": gzip.compress(lines),
        "d.parquet": _parquet(body=texts, other=list(range(len(texts)))),
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
        expected = texts[:1] if ".txt" in name.lower() else texts
        assert _documents(tmp_path / name, text_field="body") == expected, name
    assert sorted(_documents(tmp_path, text_field="body")) == sorted([texts[0]] * 2 + texts * 3)


@pytest.mark.parametrize("stem", ["a[1]", "b*", "c?", "d{x,y}", "~", "$HOME", "#1", "%20", "-", "ü ö", ".hidden"])
def test_a_file_name_is_no_pattern(tmp_path: Path, stem: str) -> None:
    (tmp_path / "a1").mkdir()
    for other in ("a1", "bb", "cc", "x"):
        (tmp_path / f"{other}.txt").write_text("another file")
        (tmp_path / f"{other}.parquet").write_bytes(_parquet(text=["another file"]))
    for suffix, data in ((".txt", b"mine"), (".jsonl", _jsonl("mine")), (".parquet", _parquet(text=["mine"]))):
        path = tmp_path / f"{stem}{suffix}"
        path.write_bytes(data)
        assert _documents(path) == ["mine"], path


def test_colons_in_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "zip:" / "a::b"
    folder.mkdir(parents=True)
    (folder / "c.txt").write_text("mine")
    assert _documents(folder / "c.txt") == ["mine"]
    (folder / "c.parquet").write_bytes(_parquet(text=["mine"]))
    with pytest.raises(UserError, match=r"a::b/c.parquet: .* rename"):
        _documents(folder)


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("mine")
    assert _documents(Path("~/a.txt")) == ["mine"]


@pytest.mark.parametrize("text", ["a\r\nb\r\n", "a\rb", "\ufeffbom", "a\x00\x0c\u2028b\x85\n", "\n\n\n", " \t"])
def test_text_is_taken_byte_for_byte(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.jsonl").write_bytes(_jsonl(text))
    assert _documents(tmp_path / "a.txt") == [text] == _documents(tmp_path / "b.jsonl")


def test_a_byte_order_mark_before_json_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + _jsonl("a", "b").replace(b"\n", b"\r\n") + b"\r\n")
    assert _documents(tmp_path / "a.jsonl") == ["a", "b"]


def test_rows_need_not_be_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "meta": 1}\n{"meta": {"x": [1, "y"]}, "text": "b"}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"id": 3, "text": "2020-01-01"}\n')
    (tmp_path / "c.parquet").write_bytes(_parquet(text=["c"], meta=["x"]))
    (tmp_path / "d.parquet").write_bytes(_parquet(meta=[5], text=["d"]))
    assert _documents(tmp_path) == ["a", "b", "2020-01-01", "c", "d"]


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.tuples(st.sampled_from(["", " ", "é" * 7, "word " * 3]), st.sampled_from(["\n", "\r\n"])), max_size=80),
    longest=st.integers(1, 200),
)
def test_pieces_are_the_file_and_hold_whole_lines(lines: list[tuple[str, str]], longest: int) -> None:
    text = "".join(line + end for line, end in lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.txt")
        file.write_bytes(text)
        pieces = [piece.encode() for piece in read_documents(Corpus("a", "text", (file,)), "text", longest)]
    assert b"".join(pieces) == text
    for piece in pieces[:-1]:
        assert piece.endswith(b"\n") and len(piece) >= longest
        assert len(piece) < 2 * longest + len(b"word " * 3 + b"\r\n")
        assert len(piece) >= 2 * longest or not piece.splitlines()[-1].strip(), "cut elsewhere than at a blank line"


@pytest.mark.parametrize("size", [60_000, 1_000_000, 30_000_000])
@pytest.mark.parametrize("paragraphs", [True, False])
def test_a_book_becomes_documents(tmp_path: Path, size: int, paragraphs: bool) -> None:
    paragraph = "Call me Ishmael. Some years ago.\n" * 5 + ("\n" if paragraphs else "")
    text = paragraph * (size // len(paragraph))
    (tmp_path / "book.txt").write_text(text)
    pieces = _documents(tmp_path / "book.txt")
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= min(100_000, max(1_000, size // 100)) * (1.2 if paragraphs else 2.1)
    assert len(pieces) >= 30


def test_files_of_a_large_folder_stay_whole(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"{number}\n\n" * 500)
    assert len(_documents(tmp_path)) == 200


def test_the_standard_library_is_a_corpus() -> None:
    (corpus,) = find_corpora([PYTHON_STDLIB])
    assert len(corpus.files) > 400
    assert not any("site-packages" in file.parts or "test" in file.parts for file in corpus.files)
    first = next(iter(read_documents(corpus, "text")))
    assert first == corpus.files[0].read_bytes().decode()
    assert Path(sysconfig.get_paths()["stdlib"]) in corpus.files[0].parents


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.txt", b"fine\n\xff\xfe", r"^byte 5 of .*bad.txt is 0xff: it is not UTF-8"),
        ("late.txt", b"fine\n\n" * 500 + b"\xc3", r"^byte 3000 of .*late.txt is 0xc3"),
        ("bad.jsonl", _jsonl("a") + b'{"text": "\xff"}\n', r"^row 2 of .*bad.jsonl is not JSON: .*0xff"),
        ("none.jsonl", b'{"text": "a"}\n{"other": 1}\n', "^the field 'text' in row 2 of .* is missing.*there are other"),
        ("number.jsonl", b'{"text": 5}\n', "^the field 'text' in row 1 of .* is 5"),
        ("cut.jsonl", _jsonl("a", "b")[:-3], r"^row 2 of .*cut.jsonl is not JSON: Unterminated string.* at column 10"),
        ("array.jsonl", b'[{"text": "a"}]', r"^row 1 of .*array.jsonl is \[\{'text': 'a'\}\]: every line"),
        ("pretty.jsonl", b'{\n"text": "a"\n}', r"^row 1 of .*pretty.jsonl is not JSON"),
        ("deep.jsonl", b"[" * 100_000, r"^row 1 of .*deep.jsonl is not JSON"),
        ("half.jsonl", b'{"text": "\\ud800"}', r"row 1 of .*half.jsonl is .*ud800.*: a lone surrogate is not text"),
        ("fake.parquet", b"no parquet at all", r"fake.parquet is not readable: Parquet magic bytes not found"),
        ("cut.parquet", _parquet(text=["a"])[:-9], r"cut.parquet is not readable"),
        ("none.parquet", _parquet(body=["a"], x=[1]), "^the field 'text' in row 1 of .* is missing.*there are body, x"),
        ("null.parquet", _parquet(text=["a", None]), "^the field 'text' in row 2 of .*null.parquet is missing"),
        ("number.parquet", _parquet(text=[5]), "^the field 'text' in row 1 of .*number.parquet is 5"),
        ("fake.txt.gz", b"not compressed", r"fake.txt.gz is not readable: Not a gzipped file"),
        ("cut.jsonl.gz", gzip.compress(_jsonl("a"), mtime=0)[:-9], r"cut.jsonl.gz is not readable: Compressed file ended"),
        ("bits.txt.gz", gzip.compress(b"a" * 99, mtime=0)[:12] + b"\xff" * 40, r"bits.txt.gz is not readable"),
        ("c4.jsonl.zst", b"x", r"c4.jsonl.zst: zstd is not read here; decompress it"),
        ("a.parquet.gz", b"x", "neither python-stdlib nor"),
        ("empty.txt", b"", "neither python-stdlib nor"),
        ("picture.png", b"x", "neither python-stdlib nor"),
    ],
)
def test_what_is_not_text_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        _documents(tmp_path / name)


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
        _documents(tmp_path / "x.txt")


def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    _documents(_written(tmp_path / "warm.parquet"))  # what it imports may not be readable either, later
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
                    _documents(path)
        finally:
            os.seteuid(user)
            files[3].parent.chmod(0o700)


def _written(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes({".txt": b"a", ".jsonl": _jsonl("a"), ".parquet": _parquet(text=["a"])}[path.suffix])
    return path
