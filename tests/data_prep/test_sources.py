"""Reading sources: every byte as it is, every kind of file, and a clear refusal of what is odd."""

from __future__ import annotations

import gzip
import json
import shutil
import sysconfig
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import readers
from data_prep.readers import Reader
from data_prep.recipe import PYTHON_STDLIB, SourceConfig
from data_prep.sources import find_sources
from ibnorm_megatron.errors import UserError

from .reading import documents_of, jsonl_of, parquet_of, sources_of


def test_reads_every_kind_of_file(tmp_path: Path) -> None:
    texts = ["first\nline", "zweite Zeile: äöü", "third", "2020-01-01", "2020-01-01T00:00:00", "5", "null", ""]
    lines = b"".join(json.dumps({"body": text}).encode() + b"\n" for text in texts)
    written = {
        "a.txt": texts[0].encode(),
        "A.TXT.gz": gzip.compress(texts[0].encode()),
        "b.jsonl": lines,
        "c.jsonl.gz": gzip.compress(lines),
        "d.parquet": parquet_of(body=texts, other=list(range(len(texts)))),
        "e.jsonl.zst": zstandard.compress(lines),
        "f.md.zst": zstandard.compress(texts[0].encode()) + zstandard.compress(b""),
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
        expected = texts[:1] if ".txt" in name.lower() or ".md" in name else texts
        assert documents_of(tmp_path / name, text_field="body") == expected, name
    assert sorted(documents_of(tmp_path, text_field="body")) == sorted([texts[0]] * 3 + texts * 4)


@pytest.mark.parametrize("stem", ["a[1]", "b*", "c?", "d{x,y}", "~", "$HOME", "#1", "%20", "-", "ü ö", ".hidden"])
def test_a_file_name_is_no_pattern(tmp_path: Path, stem: str) -> None:
    (tmp_path / "a1").mkdir()
    for other in ("a1", "bb", "cc", "x"):
        (tmp_path / f"{other}.txt").write_text("another file")
        (tmp_path / f"{other}.parquet").write_bytes(parquet_of(text=["another file"]))
    for suffix, data in ((".txt", b"mine"), (".jsonl", jsonl_of("mine")), (".parquet", parquet_of(text=["mine"]))):
        path = tmp_path / f"{stem}{suffix}"
        path.write_bytes(data)
        assert documents_of(path) == ["mine"], path


def test_colons_in_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "zip:" / "a::b"
    folder.mkdir(parents=True)
    (folder / "c.txt").write_text("mine")
    (folder / "c.parquet").write_bytes(parquet_of(text=["mine"]))
    assert documents_of(folder / "c.txt") == ["mine"] == documents_of(folder / "c.parquet")


def test_globs(tmp_path: Path) -> None:
    for name in ("a1.txt", "a2.txt", "b.txt", "a3.png"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_text("c.txt")
    assert documents_of(tmp_path / "a*") == ["a1.txt", "a2.txt"]
    assert documents_of(tmp_path / "**" / "*.txt") == ["a1.txt", "a2.txt", "b.txt", "c.txt"]
    with pytest.raises(UserError, match="neither python-stdlib nor"):
        documents_of(tmp_path / "x*")


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("mine")
    assert documents_of(Path("~/a.txt")) == ["mine"]


@pytest.mark.parametrize("text", ["a\r\nb\r\n", "a\rb", "\ufeffbom", "a\x00\x0c\u2028b\x85\n", "\n\n\n", " \t"])
def test_text_is_taken_byte_for_byte(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.jsonl").write_bytes(jsonl_of(text))
    assert documents_of(tmp_path / "a.txt") == [text] == documents_of(tmp_path / "b.jsonl")


def test_a_byte_order_mark_before_json_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl_of("a", "b").replace(b"\n", b"\r\n") + b"\r\n")
    assert documents_of(tmp_path / "a.jsonl") == ["a", "b"]


def test_rows_need_not_be_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "meta": 1}\n{"meta": {"x": [1, "y"]}, "text": "b"}\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"id": 3, "text": "2020-01-01"}\n')
    (tmp_path / "c.parquet").write_bytes(parquet_of(text=["c"], meta=["x"]))
    (tmp_path / "d.parquet").write_bytes(parquet_of(meta=[5], text=["d"]))
    assert documents_of(tmp_path) == ["a", "b", "2020-01-01", "c", "d"]


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
        if not text:
            return
        (source,) = sources_of(file)
        source = source.model_copy(update={"longest": longest})
        pieces = [piece.encode() for piece, _ in Reader(source, "strict").documents(source.parts[0])]
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
    pieces = documents_of(tmp_path / "book.txt")
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= min(100_000, max(1_000, size // 100)) * (1.2 if paragraphs else 2.1)
    assert len(pieces) >= 30


def test_files_of_a_large_folder_stay_whole(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"{number}\n\n" * 500)
    assert len(documents_of(tmp_path)) == 200


def test_a_linked_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match=r"the folder is .*b/link: links to folders are not followed"):
        documents_of(tmp_path / "b")
    assert documents_of(tmp_path / "b" / "link") == ["x"]


def test_long_cells_and_repeated_ones_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["x" * 100_000] * 500}), tmp_path / "a.parquet")  # a few hundred bytes in the file
    read: list[int] = []
    batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, **how: (read.append(b.nbytes) or b for b in batches(self, **how))
    )
    assert len(documents_of(tmp_path / "a.parquet")) == 500
    assert max(read) <= 16 * 100_100
    monkeypatch.setattr(readers, "LONGEST_ROW", 1000)
    with pytest.raises(UserError, match=r"row 1 of .*a.parquet is too long"):
        documents_of(tmp_path / "a.parquet")


def test_the_standard_library_is_a_corpus() -> None:
    (source,) = sources_of(Path(PYTHON_STDLIB))
    files = [Path(part.file) for part in source.parts]
    assert len(files) > 400
    assert not any("site-packages" in file.parts or "test" in file.parts for file in files)
    text, where = next(Reader(source, "strict").documents(source.parts[0]))
    assert text == files[0].read_bytes().decode()
    assert where == f"byte 0 of {files[0]}"
    assert Path(sysconfig.get_paths()["stdlib"]) in files[0].parents


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["", "é" * 7, "word " * 9, "x"]), min_size=1, max_size=60),
    split_bytes=st.integers(1, 400),
    kind=st.sampled_from(["jsonl", "line", "auto"]),
    last=st.sampled_from(["", "\n"]),
)
def test_ranges_read_every_document_once(lines: list[str], split_bytes: int, kind: str, last: str) -> None:
    rows = [json.dumps({"text": line}, ensure_ascii=False) for line in lines] if kind == "jsonl" else lines
    data = ("\n".join(rows) + last).encode()
    if not data:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.jsonl" if kind == "jsonl" else "a.txt")
        file.write_bytes(data)
        asked = {"documents": "line"} if kind == "line" else {}
        (source,) = sources_of(file, split_bytes=split_bytes, **asked)
        assert len(source.parts) == max(1, -(-len(data) // split_bytes))
        found = [text for part in source.parts for text, _ in Reader(source, "strict").documents(part)]
    if kind == "jsonl":
        assert found == lines
    elif kind == "line":
        assert found == data.decode().split("\n")[: None if not data.endswith(b"\n") else -1]
    else:
        assert "".join(found) == data.decode()


def test_giant_lines_of_text_are_cut_at_spaces_or_between_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LONGEST_LINE", 1000)
    spaced, solid = "word " * 2000 + "\nend", "é" * 5000
    for name, text in (("a.txt", spaced), ("b.txt", solid), ("c.txt", " " + solid)):
        (tmp_path / name).write_text(text)
        pieces = documents_of(tmp_path / name)
        assert "".join(pieces) == text
        assert max(len(piece.encode()) for piece in pieces) <= 4000 and len(pieces) > 3
        if name == "a.txt":
            assert all(piece.endswith((" ", "\n")) for piece in pieces[:-1])


def test_separators_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BUFFER", 5)  # a separator lies across reads
    (tmp_path / "a.txt").write_text("one<|end|>two\n<|end|><|end|>four")
    assert documents_of(tmp_path / "a.txt", separator="<|end|>") == ["one", "two\n", "", "four"]
    assert documents_of(tmp_path / "a.txt", documents="line") == ["one<|end|>two", "<|end|><|end|>four"]
    assert documents_of(tmp_path / "a.txt", documents="file") == ["one<|end|>two\n<|end|><|end|>four"]
    (tmp_path / "b.txt").write_bytes(b"one\r\r\ntwo\r\nthree\nfour\r")
    assert documents_of(tmp_path / "b.txt", documents="line") == ["one\r", "two", "three", "four\r"], (
        "one line end is taken off"
    )
    (tmp_path / "b.jsonl").write_text('{"text": "the field \\"text\\"", "meta": {"text": "text"}}\n')
    assert documents_of(tmp_path / "b.jsonl") == ['the field "text"']


def test_what_is_longer_than_a_worker_may_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LONGEST_ROW", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(jsonl_of("fine") + jsonl_of("x" * (1 << 20)))
    (tmp_path / "a.html").write_bytes(b"<p>" + b"x" * (1 << 20))
    (tmp_path / "a.txt").write_bytes(b"x" * ((1 << 20) + 1))
    for name, asked in (("a.jsonl", {}), ("a.html", {}), ("a.txt", {"documents": "file"}), ("a.txt", {"separator": "|"})):
        with pytest.raises(UserError, match=rf"^the document at byte \d+ of .*{name} is too long: .* 1 MiB; cut it"):
            documents_of(tmp_path / name, **asked)
    assert "".join(documents_of(tmp_path / "a.txt")) == "x" * ((1 << 20) + 1)


def test_bad_bytes_are_replaced_on_request_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("fine \ufffd \xe9 ".encode() + b"\xff\xfe bad \xc3")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a\xffb \\ud800"}\n')
    for name, expected, count in (("a.txt", "fine \ufffd \xe9 \ufffd\ufffd bad \ufffd", 3), ("b.jsonl", "a\ufffdb \ufffd", 2)):
        (source,) = sources_of(tmp_path / name)
        reader = Reader(source, "replace")
        assert [text for text, _ in reader.documents(source.parts[0])] == [expected]
        assert reader.replaced == count
    with pytest.raises(UserError, match=r"byte 12 of .*a.txt is 0xff: .*--encoding-errors replace"):
        documents_of(tmp_path / "a.txt")


def test_pages_become_text(tmp_path: Path) -> None:
    page = "<?xml version='1.0' encoding='latin-1'?><html><head><title>T</title><script>no()</script></head><body><h1>Über</h1>"
    (tmp_path / "a.html").write_text(page + "<p>One <b>two</b></p><pre>  three\n  four</pre></body></html>")
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(b"<p>five"))
    first, second = documents_of(tmp_path)
    assert [line.rstrip() for line in first.split("\n") if line.strip()] == ["Über", "One two", "  three", "  four"]
    assert second.strip() == "five"


def test_what_a_page_holds_is_never_cut_off(tmp_path: Path) -> None:
    """lxml stops without a word at a depth of 256 and at texts of 10 MB."""
    for name, page in (
        ("deep", "before" + "<div>" * 300 + "inside" + "</div>" * 300 + "after"),
        ("long", "before<p>" + "inside " * 2_000_000 + "</p>after"),
        ("comment", "before inside<!--" + "x" * 11_000_000 + "-->after"),
    ):
        (tmp_path / f"{name}.html").write_text(page)
        (text,) = documents_of(tmp_path / f"{name}.html")
        assert "before" in text and "inside" in text and "after" in text, name
    for depth in (2_000, 100_000):
        (tmp_path / "deeper.html").write_text("before" + "<b>" * depth + "inside")
        with pytest.raises(UserError, match=r"^.*deeper.html is not readable: its elements are nested"):
            documents_of(tmp_path / "deeper.html")
    for empty in ("\n", "<!-- -->", "<?xml version='1.0'?>"):
        (tmp_path / "empty.html").write_text(empty)
        assert [text.strip() for text in documents_of(tmp_path / "empty.html")] == [""], "it is counted as a document"


def test_strings_of_parquet_need_not_be_utf_8(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 4, 5], pa.int32()).buffers()[1]
    bad = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"ab\xffcd")])
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"^byte 1 of row 2 of .*a.parquet is 0xff: it is not UTF-8"):
        documents_of(tmp_path / "a.parquet")
    (source,) = sources_of(tmp_path / "a.parquet")
    reader = Reader(source, "replace")
    assert [text for text, _ in reader.documents(source.parts[0])] == ["a", "b\ufffdc", "d"]
    assert reader.replaced == 1


def test_row_groups_are_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep import sources

    monkeypatch.setattr(sources, "BLOCK", 4_000)
    texts = [f"{i} " * 200 for i in range(100)]
    pq.write_table(pa.table({"text": texts, "n": list(range(100))}), tmp_path / "a.parquet", row_group_size=7)
    (source,) = sources_of(tmp_path / "a.parquet")
    assert len(source.parts) > 3 and source.parts[0].begin == 0
    found = [pair for part in source.parts for pair in Reader(source, "strict").documents(part)]
    assert [text for text, _ in found] == texts
    assert [where for _, where in found] == [f"row {i + 1} of {tmp_path}/a.parquet" for i in range(100)]
    assert sum(part.size for part in source.parts) == pytest.approx((tmp_path / "a.parquet").stat().st_size, rel=0.01)


def test_a_data_set_is_streamed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for shard in range(3):
        table = pa.table({"body": [f"{shard}-{i}" for i in range(5)], "id": list(range(5))})
        pq.write_table(table, folder / "data" / f"train-{shard:05d}-of-00003.parquet")
    config = SourceConfig(dataset=str(folder), text_field="body")
    (source,) = find_sources([config], ["set"])
    assert len(source.parts) == 3
    found = [text for part in source.parts for text, _ in Reader(source, "strict").documents(part)]
    assert found == [f"{shard}-{i}" for shard in range(3) for i in range(5)]
    for wrong, says in (
        (config.model_copy(update={"split": "no"}), "the data set is .*set"),
        (SourceConfig(dataset="no/such"), "no/such"),
    ):
        with pytest.raises(UserError, match=says):
            find_sources([wrong], ["x"])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.jsonl").write_bytes(b'{"text": "\xff"}\n')
    (source,) = find_sources([SourceConfig(dataset=str(tmp_path / "bad"))], ["bad"])
    with pytest.raises(UserError, match=r"^shard 0 of .*bad is not readable: .*codec can't decode byte 0xff"):
        list(Reader(source, "strict").documents(source.parts[0]))
    (source,) = find_sources([SourceConfig(dataset=str(folder))], ["set"])
    with pytest.raises(UserError, match=r"the field 'text' in row 1 of shard 0 .* is missing.*there are body, id"):
        list(Reader(source, "strict").documents(source.parts[0]))


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="this system has no dpkg")
def test_documentation_of_a_debian_package() -> None:
    (source,) = sources_of(Path("debian:base-files"))
    assert any(part.file.startswith("/usr/share/doc/base-files/") for part in source.parts)
    assert len([text for part in source.parts for text, _ in Reader(source, "replace").documents(part)]) >= len(source.parts)
    with pytest.raises(UserError, match=r"debian:no-such-package: dpkg knows no installed package .*apt-get install"):
        sources_of(Path("debian:no-such-package"))
