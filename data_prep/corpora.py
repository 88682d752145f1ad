"""Reading documents from local files and from the Python standard library.

A row of JSON lines or of parquet is a document, and so is a file of plain text (.txt, .md, .py); ``.gz`` is read through.
Text comes as it is, byte for byte: line ends, and a byte-order mark where a file begins with one. Only a plain-text file
longer than :func:`longest_document` is cut into several documents: at the first blank line after that length, or at the
first line end after twice that length, never inside a line; put together again they are the file. So a single book has
documents to train on and others to validate with, and no document is too long to be encoded at once.

Nothing is skipped or repaired silently: what is not text stops the reading, with the file and the place named.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import reprlib
import sysconfig
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ibnorm_megatron.errors import Problem, UserError, raise_if_any

PYTHON_STDLIB = "python-stdlib"

#: Which reader below takes which suffix; all but parquet, which compresses by itself, may be compressed as a whole.
_LOADERS = {".txt": "text", ".md": "text", ".py": "text", ".jsonl": "json", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

#: Bounds of a plain-text document's length in bytes. The encoder slows down on documents of megabytes.
_SHORTEST, _LONGEST = 1_000, 100_000

#: Plain text is cut so that the sources hold about this many documents or more: some of them fall into a small share.
_DOCUMENTS = 100


@dataclass(frozen=True)
class Corpus:
    """Files that one loader reads, under the name the user gave."""

    name: str
    loader: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes on disk, for progress."""
        return sum(file.stat().st_size for file in self.files)


def find_corpora(sources: Sequence[str]) -> list[Corpus]:
    """The files behind each source: ``python-stdlib``, a file, or a folder searched in depth.

    Raises:
        UserError: a source that is missing, empty, of no known kind, not accessible, or given twice.
    """
    corpora: list[Corpus] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            found = list(_corpora_of(source))
        except OSError as error:  # a folder or file on the way that may not be entered, or a link to nowhere
            why = f"{error.filename} cannot be opened ({error.strerror})"
            problems.append(Problem("the source", source, why, "mend it or leave it out"))
            continue
        if not found:
            kinds = ", ".join(_LOADERS)
            why = "it is neither python-stdlib nor a file or folder of " + kinds
            problems.append(Problem("the source", source, why, "give an existing file or folder of such files"))
        corpora += found
    if not sources:
        problems.append(
            Problem("the sources", "empty", "there is nothing to read", f"name a file, a folder or {PYTHON_STDLIB}")
        )
    seen: set[Path] = set()
    for file in (file for corpus in corpora for file in corpus.files):
        if file in seen:
            problems.append(Problem("the source", str(file), "it is given twice and would be trained on twice", "name it once"))
        elif file.suffix == ".zst":
            problems.append(Problem("the source", str(file), "zstd is not read here", "decompress it, or compress it by gzip"))
        elif file.suffix == ".parquet" and "::" in str(file):
            why = "the parquet reader takes :: for a chain of addresses"
            problems.append(Problem("the source", str(file), why, "rename the file or its folder"))
        seen.add(file)
    raise_if_any(problems)
    return corpora


def longest_document(corpora: Iterable[Corpus]) -> int:
    """Bytes after which a plain-text file is cut: a hundredth of all sources' bytes, from 1 kB to 100 kB."""
    return min(_LONGEST, max(_SHORTEST, sum(corpus.size for corpus in corpora) // _DOCUMENTS))


def _corpora_of(source: str) -> Iterator[Corpus]:
    if source == PYTHON_STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        python = (file for file in _files_below(root) if file.suffix == ".py")
        files = [file for file in python if not _NOT_LIBRARY & set(file.relative_to(root).parts)]
    else:
        root = Path(os.path.realpath(os.path.expanduser(source)))
        files = list(_files_below(root)) if root.is_dir() else [root]
    name = os.fsencode(source).decode("utf-8", "backslashreplace")  # it goes into the manifest, which is UTF-8
    for loader in dict.fromkeys(_LOADERS.values()):
        mine = tuple(sorted(file for file in files if _loader_of(file) == loader and file.stat().st_size and file.is_file()))
        if mine:
            yield Corpus(name, loader, mine)


def _files_below(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error  # os.walk and Path.rglob pass over folders that they may not list

    for folder, _, names in os.walk(root, onerror=refuse):
        yield from (Path(folder, name) for name in names)


def _loader_of(file: Path) -> str | None:
    if file.suffix not in _COMPRESSED:
        return _LOADERS.get(file.suffix.lower())
    inner = _LOADERS.get(Path(file.stem).suffix.lower())
    return inner if inner != "parquet" else None


def read_documents(corpus: Corpus, text_field: str, longest: int = _LONGEST) -> Iterator[str]:
    """Every document's text, in a fixed order.

    Args:
        corpus: from :func:`find_corpora`.
        text_field: the field of a JSON line or parquet row that holds the text.
        longest: the length after which a plain-text file is cut, from :func:`longest_document`.

    Raises:
        UserError: a file that cannot be read or is not what its name says, bytes that are not UTF-8, a missing text
            field, or text that cannot be encoded.
    """
    readers = {
        "text": partial(_plain_documents, longest=longest),
        "json": partial(_json_documents, field=text_field),
        "parquet": partial(_parquet_documents, field=text_field),
    }
    for file in corpus.files:
        try:
            yield from readers[corpus.loader](file)
        # What the file system, gzip and Arrow raise over a file that is not what its name says.
        except (OSError, EOFError, zlib.error, ValueError, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
            raise UserError(Problem(str(file), "not readable", why, "mend the file or leave it out")) from None


def _open(file: Path) -> BinaryIO:
    return gzip.open(file) if file.suffix == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _plain_documents(file: Path, longest: int) -> Iterator[str]:
    begin = 0
    with _open(file) as lines:
        for piece in _pieces(lines, longest):
            try:
                yield piece.decode("utf-8")
            except UnicodeDecodeError as error:
                where, found = f"byte {begin + error.start} of {file}", f"0x{piece[error.start]:02x}"
                raise UserError(Problem(where, found, "it is not UTF-8", "convert the file or leave it out")) from None
            begin += len(piece)


def _pieces(lines: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """Cut as the module says. Lines end at a newline byte, which is part of no other character in UTF-8."""
    piece: list[bytes] = []
    length, after_blank = 0, False
    for line in lines:
        blank = not line.strip()
        if length >= 2 * longest or (length >= longest and after_blank and not blank):
            yield b"".join(piece)
            piece, length = [], 0
        piece.append(line)
        length, after_blank = length + len(line), blank
    if piece:
        yield b"".join(piece)


def _json_documents(file: Path, field: str) -> Iterator[str]:
    # Not by the JSON reader of ``datasets``: it guesses types over many rows, so that text which looks like a date
    # becomes a date, and does not say which row it could not read.
    with _open(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"row {number} of {file}"
            try:
                row = json.loads(line.decode("utf-8-sig"))  # here a byte-order mark is no part of any document
            except (ValueError, RecursionError) as error:
                why = str(error).replace(": line 1", " at")  # json counts lines within what it was given
                raise UserError(Problem(where, "not JSON", why, "mend or remove the line")) from None
            if not isinstance(row, dict):
                why = "every line of .jsonl is an object with fields"
                raise UserError(Problem(where, reprlib.repr(row), why, 'write it as {"text": ...}'))
            yield _text_of(row, field, where)


def _parquet_documents(file: Path, field: str) -> Iterator[str]:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it prints what it raises, too
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it calls the hub, for a local file
    with tempfile.TemporaryDirectory() as cache:  # it leaves a lock behind for every file
        rows = datasets.load_dataset(
            "parquet", data_files=glob.escape(str(file)), split="train", streaming=True, cache_dir=cache
        )
        if field in rows.column_names:
            rows = rows.select_columns([field])
        for number, row in enumerate(rows, start=1):
            yield _text_of(row, field, f"row {number} of {file}")


def _text_of(row: dict[str, Any], field: str, where: str) -> str:
    text, where = row.get(field), f"the field {field!r} in {where}"
    if not isinstance(text, str):
        found = "missing" if text is None else reprlib.repr(text)
        mend = f"name the right one with --text-field (there are {', '.join(map(str, row))})"
        raise UserError(Problem(where, found, "a document's text is a string", mend))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(Problem(where, repr(text[error.start]), "a lone surrogate is not text", "mend the file")) from None
    return text
