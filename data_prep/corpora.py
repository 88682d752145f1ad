"""Reading documents from local files and from the Python standard library, through Hugging Face ``datasets``.

A document is a file of plain text or source code, a line of JSON, or a row of parquet. Nothing is skipped or repaired
silently: a document that is not text stops the reading, with the file and the place named.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ibnorm_megatron.errors import Problem, UserError, raise_if_any

PYTHON_STDLIB = "python-stdlib"

#: Which ``datasets`` loader reads which suffix; ``.jsonl`` and ``.txt`` may be compressed by gzip or zstd.
_LOADERS = {".txt": "text", ".md": "text", ".py": "text", ".jsonl": "json", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


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
        UserError: a source that is missing, empty, of no known kind, or given twice.
    """
    corpora: list[Corpus] = []
    problems: list[Problem] = []
    for source in sources:
        found = list(_corpora_of(source))
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
        seen.add(file)
    raise_if_any(problems)
    return corpora


def _corpora_of(source: str) -> Iterator[Corpus]:
    if source == PYTHON_STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [file for file in root.rglob("*.py") if not _NOT_LIBRARY & set(file.relative_to(root).parts)]
    else:
        root = Path(source).expanduser().resolve()
        files = [file for file in root.rglob("*") if file.is_file()] if root.is_dir() else [root]
    for loader in dict.fromkeys(_LOADERS.values()):
        mine = tuple(sorted(file for file in files if file.is_file() and _loader_of(file) == loader and file.stat().st_size))
        if mine:
            yield Corpus(source, loader, mine)


def _loader_of(file: Path) -> str | None:
    suffix = Path(file.stem).suffix if file.suffix in _COMPRESSED else file.suffix
    return _LOADERS.get(suffix)


def read_documents(corpus: Corpus, text_field: str) -> Iterator[str]:
    """Every document's text, in a fixed order.

    Args:
        corpus: from :func:`find_corpora`.
        text_field: the field of a JSON line or parquet row that holds the text.

    Raises:
        UserError: bytes that are not UTF-8, a missing or empty text field, or text that cannot be encoded.
    """
    import datasets

    datasets.disable_progress_bars()
    options = {"sample_by": "document"} if corpus.loader == "text" else {}
    rows = datasets.load_dataset(
        corpus.loader, data_files=[str(file) for file in corpus.files], split="train", streaming=True, **options
    )
    field = "text" if corpus.loader == "text" else text_field
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield _text_of(row, field, corpus, number)
    except UnicodeDecodeError:
        raise UserError(*_not_utf8(corpus)) from None
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise UserError(*_not_utf8(corpus)) from None
        where = f"row {number + 1} of {corpus.name}"
        raise UserError(Problem(where, "not readable", " ".join(str(error).split()), "mend the file")) from None


def _text_of(row: dict[str, object], field: str, corpus: Corpus, number: int) -> str:
    text = row.get(field)
    where = f"the field {field!r} in row {number} of {corpus.name}"
    if not isinstance(text, str):
        found = "missing" if text is None else repr(text)
        known = ", ".join(map(str, row))
        raise UserError(
            Problem(where, found, "a document's text is a string", f"name the right one with --text-field (there are {known})")
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(Problem(where, repr(text[error.start]), "a lone surrogate is not text", "mend the file")) from None
    return text


def _not_utf8(corpus: Corpus) -> Iterator[Problem]:
    """``datasets`` does not say which file it was, so look."""
    for file in corpus.files:
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            yield Problem(str(file), f"byte {error.start}", "it is not UTF-8 from there on", "convert the file or leave it out")
            return
    yield Problem(corpus.name, "not UTF-8", "one of its files cannot be decoded", "convert it")
