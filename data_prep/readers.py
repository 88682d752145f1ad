"""Reading the documents of a part of a source, in order, in bounded memory, with nothing skipped or repaired silently.

A row of JSON lines, of parquet or of a data set is a document, and so is a web page and a file of plain text. Plain text comes
as it is, byte for byte: line ends, and a byte-order mark where a file begins with one. It is cut into several documents where a
file is longer than the source's ``longest``: at the first blank line after that length, or at the first line end after twice
that length, never inside a line unless it is longer than a MiB, then at a space. Put together again the documents are the file.
What is not text stops the reading, with the file and the place named, unless it is to be replaced.
"""

from __future__ import annotations

import gzip
import io
import json
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from ibnorm_megatron.errors import Problem, UserError

from .recipe import SourceConfig
from .sources import Part, Source

#: No JSON line, page or row longer than this many bytes is read. Python takes four bytes a character if one of them is an
#: emoji, and rules that look at words hold them all, at 50 bytes each and more: twice as much would take gigabytes.
LONGEST_ROW = 32 << 20

#: A line of plain text that is longer than this many bytes is cut.
_LONGEST_LINE = 1 << 20

_BUFFER = 1 << 20
_ROWS_BYTES, _ROWS = 8 << 20, 16  # of a parquet file, decoded at once at most


class Reader:
    """Reads the parts of one source.

    Args:
        source: the source.
        errors: ``strict``, or ``replace`` to turn bytes that are no text into U+FFFD and count them in ``replaced``.
        read: called with numbers of bytes as they are read, which add up to the part's ``size`` or nearly so.
    """

    def __init__(self, source: Source, errors: str, read: Callable[[int], None] = lambda size: None) -> None:
        self._asked: SourceConfig = source.asked
        self._longest, self._errors, self._read = source.longest, errors, read
        self.replaced = 0

    def documents(self, part: Part) -> Iterator[tuple[str, str]]:
        """Every document's text, and where it was found.

        Raises:
            UserError: a file that cannot be read or is not what its name says, bytes that are not UTF-8, a missing text
                field, or text that cannot be encoded.
        """
        readers: dict[str, Callable[[Part], Iterator[tuple[str, str]]]] = {
            "text": self._text,
            "html": self._page,
            "json": self._rows_of_json,
            "parquet": self._rows_of_parquet,
            "dataset": self._rows_of_dataset,
        }
        import pyarrow

        try:
            yield from readers[part.kind](part)
        # What the file system, decompressors and Arrow raise over a file that is not what its name says.
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
            raise UserError(Problem(part.file, "not readable", why, "mend the file or leave it out")) from None

    # Plain text

    def _text(self, part: Part) -> Iterator[tuple[str, str]]:
        with self._open(part) as file:
            if self._asked.separator is not None:
                pieces: Iterable[tuple[int, bytes]] = self._separated(file, self._asked.separator.encode("utf-8"), part)
            elif self._asked.documents == "file":
                pieces = [(0, self._bounded(file.read(LONGEST_ROW + 1), part, 0))]
            elif self._asked.documents == "line":
                pieces = ((at, _without_end(line)) for at, line in self._lines(file, part, LONGEST_ROW))
            else:
                pieces = _cut(self._lines(file, part, _LONGEST_LINE, may_cut=True), self._longest)
            for begin, piece in pieces:
                yield self._decode(piece, begin, part), f"byte {begin} of {part.file}"

    def _separated(self, file: BinaryIO, separator: bytes, part: Part) -> Iterator[tuple[int, bytes]]:
        begin, kept = 0, b""
        while chunk := file.read(_BUFFER):
            *complete, kept = (kept + chunk).split(separator)
            for piece in complete:
                yield begin, piece
                begin += len(piece) + len(separator)
            self._bounded(kept, part, begin)
        yield begin, kept

    # Rows

    def _rows_of_json(self, part: Part) -> Iterator[tuple[str, str]]:
        # Not by the JSON reader of ``datasets``: it guesses types over many rows, so that text which looks like a date
        # becomes a date, and does not say which row it could not read.
        with self._open(part) as file:
            for number, (at, line) in enumerate(self._lines(file, part, LONGEST_ROW), start=1):
                if not line.strip():
                    continue
                where = f"row {number} of {part.file}" if part.begin == 0 else f"the row at byte {at} of {part.file}"
                # Here a byte-order mark is no part of any document.
                text = self._decode(line.removeprefix(b"\xef\xbb\xbf") if at == 0 else line, at, part)
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    why = str(error).replace(": line 1", " at")  # json counts lines within what it was given
                    raise UserError(Problem(where, "not JSON", why, "mend or remove the line")) from None
                if not isinstance(row, dict):
                    why = "every line of .jsonl is an object with fields"
                    raise UserError(Problem(where, reprlib.repr(row), why, 'write it as {"text": ...}'))
                self._refuse_twice(text, where)
                yield self._text_of(row, where), where

    def _refuse_twice(self, line: str, where: str) -> None:
        """json takes the last of two fields of the same name, and the other's text would be lost."""
        field = self._asked.text_field
        if line.count(f'"{field}"') > 1 and sum(name == field for name, _ in json.loads(line, object_pairs_hook=list)) > 1:
            why = "only one of them can be the document"
            raise UserError(Problem(f"the field {field!r} in {where}", "there twice", why, "mend or remove the line"))

    def _rows_of_parquet(self, part: Part) -> Iterator[tuple[str, str]]:
        import pyarrow.parquet as pq

        field, left = self._asked.text_field, part.size
        with pq.ParquetFile(part.file, pre_buffer=False, buffer_size=_BUFFER) as file:
            groups = range(part.begin, part.end)
            first = sum(file.metadata.row_group(i).num_rows for i in range(part.begin))
            rows = sum(file.metadata.row_group(i).num_rows for i in groups)
            sizes = sum(file.metadata.row_group(i).total_byte_size for i in groups)
            names = file.schema_arrow.names
            if field not in names:
                self._text_of(dict.fromkeys(names), f"row {first + 1} of {part.file}")  # says what there is
            if names.count(field) > 1:
                why = "only one of them can be the document"
                raise UserError(Problem(f"the column {field!r} of {part.file}", "there twice", why, "rename one of them"))
            # What a column takes in the file says little of what it takes in memory: the same text may stand there once.
            at_once = min(_ROWS, max(1, _ROWS_BYTES * rows // max(1, sizes)))
            number = first
            for batch in file.iter_batches(batch_size=at_once, row_groups=list(groups), columns=[field]):
                for value in self._values(batch.column(0), number, part):
                    number += 1
                    where = f"row {number} of {part.file}"
                    text = self._text_of({field: value}, where)
                    if len(text) > LONGEST_ROW:
                        raise self._too_long(where, LONGEST_ROW)
                    yield text, where
                share = part.size * batch.num_rows // max(1, rows)
                left -= share
                self._read(share)
            self._read(left)

    def _values(self, column: Any, before: int, part: Part) -> Iterable[Any]:
        """A column's values. Arrow and those who write its files need not look whether a string is UTF-8."""
        import pyarrow

        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            plain = column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
            rows = enumerate(plain.cast(pyarrow.large_binary()).to_pylist(), start=before + 1)
            return [data if data is None else self._decode(data, 0, part, f"row {row} of {part.file}") for row, data in rows]

    def _rows_of_dataset(self, part: Part) -> Iterator[tuple[str, str]]:
        from .hub import open_dataset

        rows, field = open_dataset(self._asked), self._asked.text_field
        shard = rows.shard(num_shards=rows.num_shards, index=part.begin)
        if shard.column_names and field in shard.column_names:
            shard = shard.select_columns([field])
        for number, row in enumerate(_iterated(shard, part), start=1):
            where = f"row {number} of shard {part.begin} of {part.file}"
            yield self._text_of(row, where), where
        self._read(part.size)

    def _text_of(self, row: dict[str, Any], where: str) -> str:
        field = self._asked.text_field
        text, place = row.get(field), f"the field {field!r} in {where}"
        if not isinstance(text, str):
            found = "missing" if text is None else reprlib.repr(text)
            mend = f"name the right text field (there are {', '.join(map(str, row))})"
            raise UserError(Problem(place, found, "a document's text is a string", mend))
        if text.isascii():
            return text
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self._errors == "replace":
                replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
                self.replaced += sum("\ud800" <= c <= "\udfff" for c in text)
                return replaced
            why, mend = "a lone surrogate is not text", "mend the file, or give --encoding-errors replace"
            raise UserError(Problem(place, repr(text[error.start]), why, mend)) from None
        return text

    # Pages

    def _page(self, part: Part) -> Iterator[tuple[str, str]]:
        with self._open(part) as file:
            page = self._decode(self._bounded(file.read(LONGEST_ROW + 1), part, 0), 0, part)
        # Without its declaration: lxml refuses text that says how its bytes are encoded.
        body = page[page.find("?>") + 2 :] if page.startswith("<?xml") else page
        yield _text_of_page(body, part.file), part.file

    # Bytes

    def _open(self, part: Part) -> BinaryIO:
        raw = io.BufferedReader(_Counted(open(part.file, "rb", buffering=0), self._read), _BUFFER)  # noqa: SIM115
        if part.file.endswith(".gz"):
            return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER)  # type: ignore[arg-type]
        if part.file.endswith(".zst"):
            import pyarrow

            # Of the readers at hand this one notices that a file ends too early.
            return io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"), _BUFFER)
        return raw

    def _lines(self, file: BinaryIO, part: Part, longest: int, may_cut: bool = False) -> Iterator[tuple[int, bytes]]:
        """The lines that begin in the part, with their ends, and where each begins.

        A line longer than ``longest`` is refused, or comes in runs that are no longer, each cut at a space if there is one.
        """
        at = 0
        if part.begin:
            file.seek(part.begin - 1)
            at = part.begin - 1
            skipped = b" "
            while skipped and not skipped.endswith(b"\n") and at < part.end:  # behind its end none begins in the part
                skipped = file.readline(_BUFFER)
                at += len(skipped)
            if not skipped.endswith(b"\n"):
                return
        end = float("inf") if part.whole else part.end
        while at < end:
            line = file.readline(longest + 1)
            if len(line) > longest and not may_cut:
                self._bounded(line, part, at, longest)
            while len(line) > longest:
                run = _run(line)
                yield at, run
                at += len(run)
                line = line[len(run) :]
                line = line if line.endswith(b"\n") else line + file.readline(longest + 1 - len(line))
            if not line:
                return
            yield at, line
            at += len(line)

    def _bounded(self, data: bytes, part: Part, at: int, longest: int | None = None) -> bytes:
        longest = longest or LONGEST_ROW
        if len(data) > longest:
            raise self._too_long(f"the document at byte {at} of {part.file}", longest)
        return data

    @staticmethod
    def _too_long(where: str, longest: int) -> UserError:
        why = f"a worker's memory is bounded, so no row is longer than {longest >> 20} MiB"
        return UserError(Problem(where, "too long", why, "cut it into several, or give it as plain text"))

    def _decode(self, data: bytes, begin: int, part: Part, place: str | None = None) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            if self._errors == "replace":
                text = data.decode("utf-8", "replace")
                self.replaced += text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
                return text
            where, found = f"byte {begin + error.start} of {place or part.file}", f"0x{data[error.start]:02x}"
            mend = "convert the file, leave it out, or give --encoding-errors replace"
            raise UserError(Problem(where, found, "it is not UTF-8", mend)) from None


def _iterated(rows: Iterable[dict[str, Any]], part: Part) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # the datasets library raises whatever the network, the hub or a file made it raise
        why = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        raise UserError(Problem(f"shard {part.begin} of {part.file}", "not readable", why, "mend it or leave it out")) from None


def _text_of_page(page: str, file: str) -> str:
    from inscriptis import Inscriptis
    from lxml.etree import ParserError
    from lxml.html import HTMLParser, document_fromstring

    # By itself lxml stops at a depth of 256 or a text of 10 MB, and gives what it has so far, or nothing, without a word.
    parser = HTMLParser(huge_tree=True)
    if not (page := page.strip()):
        return ""
    try:
        tree = document_fromstring(page, parser=parser)
    except ParserError:  # a comment and nothing else, for example
        tree = document_fromstring("<pre>" + page + "</pre>", parser=parser)
    try:
        if not any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
            return Inscriptis(tree).get_text()
    except RecursionError:
        pass
    why = "its elements are nested more deeply than can be read"
    raise UserError(Problem(file, "not readable", why, "mend the file or leave it out")) from None


class _Counted(io.RawIOBase):
    """A raw file that tells how much of it is read."""

    def __init__(self, file: io.RawIOBase, read: Callable[[int], None]) -> None:
        self._file, self._told = file, read

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int | None:
        count = self._file.readinto(buffer)
        self._told(count or 0)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _without_end(line: bytes) -> bytes:
    return line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")


def _run(line: bytes) -> bytes:
    """The first part of a line that is too long: to its last space, or else to its last whole character."""
    space = line.rfind(b" ", 0, len(line) - 1)
    if space > 0:
        return line[: space + 1]
    end = len(line) - 1
    while end > len(line) - 5 and line[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return line[:end]


def _cut(lines: Iterable[tuple[int, bytes]], longest: int) -> Iterator[tuple[int, bytes]]:
    """Documents from lines, cut as the module says. A newline byte is part of no other character in UTF-8."""
    piece: list[bytes] = []
    begin = length = 0
    after_blank = False
    for at, line in lines:
        blank = not line.strip()
        if length >= 2 * longest or (length >= longest and after_blank and not blank):
            yield begin, b"".join(piece)
            piece, length = [], 0
        if not piece:
            begin = at
        piece.append(line)
        length, after_blank = length + len(line), blank
    if piece:
        yield begin, b"".join(piece)
