"""Which files a source stands for, and how they can be cut so that workers read them side by side."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ibnorm_megatron.errors import Problem, UserError, raise_if_any

from .recipe import DEBIAN, PYTHON_STDLIB, SourceConfig, is_unicode

Kind = Literal["text", "html", "json", "parquet", "dataset"]

#: Which reader takes which suffix; all but parquet, which compresses by itself, may be compressed as a whole.
_KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".py": "text",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "json",
    ".parquet": "parquet",
}
_COMPRESSED = (".gz", ".zst")
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

#: Documentation of Debian packages that has no suffix.
_DEBIAN_TEXT = re.compile(r"(README|NEWS|TODO|FAQ|HACKING|AUTHORS|copyright)[\w.-]*?(\.gz)?")

#: Files are cut at every multiple of this, at the next line end, so that workers can share them.
BLOCK = 1 << 26

#: Bounds of a plain-text document's length in bytes.
_SHORTEST, _LONGEST = 1_000, 100_000

#: A text file that is a source by itself is cut into about this many documents or more: some fall into a small share.
_DOCUMENTS = 100


class Part(BaseModel):
    """A run of one file, or of a streamed data set, that one worker reads.

    ``begin`` and ``end`` are bytes of the file for text and JSON lines, row groups for parquet, shards for data sets; -1 stands
    for all of a file that can only be read from its beginning. ``size`` is in bytes, for progress. ``changed`` is the file's
    modification time in nanoseconds, to notice that it is another now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    file: str
    begin: int
    end: int
    size: int
    changed: int = 0

    @property
    def whole(self) -> bool:
        """Whether this is all of its file."""
        return self.end < 0


class Source(BaseModel):
    """A corpus to be made: its name, its source as asked for, and what there is to read, in order.

    ``longest`` is the number of bytes after which a text file is cut into documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    asked: SourceConfig
    longest: int
    parts: list[Part]


def find_sources(asked: Sequence[SourceConfig], names: Sequence[str], split_bytes: int | None = None) -> list[Source]:
    """The files behind each source, cut into parts.

    Args:
        asked: the sources.
        names: of the corpora.
        split_bytes: every how many bytes files are cut for workers, if less than :data:`BLOCK`.

    Raises:
        UserError: a source that is missing, empty, of no known kind, not accessible, or given twice.
    """
    problems: list[Problem] = []
    sources: list[Source] = []
    for source, name in zip(asked, names, strict=True):
        try:
            parts = (
                _dataset_parts(source) if source.dataset is not None else list(_parts(source, min(split_bytes or BLOCK, BLOCK)))
            )
        except UserError as error:
            problems += error.problems
            continue
        except OSError as error:  # a folder or file on the way that may not be entered, or a link to nowhere
            why = f"{error.filename} cannot be opened ({error.strerror})"
            problems.append(Problem("the source", source.place, why, "mend it or leave it out"))
            continue
        if not parts:
            kinds = ", ".join(_KINDS)
            why = f"it is neither {PYTHON_STDLIB} nor a file, folder or glob of " + kinds
            problems.append(Problem("the source", source.place, why, "give existing files of these kinds, not empty"))
        sources.append(Source(name=name, asked=source, longest=_longest(source, parts), parts=parts))
    for file in dict.fromkeys(part.file for source in sources for part in source.parts if not is_unicode(part.file)):
        problems.append(Problem("the source", file, "its name is not UTF-8", "rename the file or leave it out"))
    seen: dict[str, int] = {}
    for number, source in enumerate(sources):
        for file in dict.fromkeys(part.file for part in source.parts if part.kind != "dataset"):
            if seen.setdefault(file, number) != number:
                why = "it is given twice and would be trained on twice"
                problems.append(Problem("the source", file, why, "name it once"))
    raise_if_any(problems)
    return sources


def _longest(source: SourceConfig, parts: list[Part]) -> int:
    """Bytes after which a text file is cut: 100 kB, or for a file that is given by itself a hundredth, but at least 1 kB."""
    files = {part.file for part in parts}
    alone = len(files) == 1 and source.path is not None and not os.path.isdir(os.path.expanduser(source.path))
    return min(_LONGEST, max(_SHORTEST, sum(part.size for part in parts) // _DOCUMENTS)) if alone else _LONGEST


def _parts(source: SourceConfig, split_bytes: int) -> Iterator[Part]:
    assert source.path is not None
    sequential = source.separator is not None or source.documents == "file"
    for file, kind in _files(source.path):
        stat = file.stat()
        if kind == "parquet":
            yield from _row_groups(file, stat)
        elif kind == "html" or file.suffix in _COMPRESSED or (kind == "text" and sequential) or stat.st_size <= split_bytes:
            yield Part(kind=kind, file=str(file), begin=0, end=-1, size=stat.st_size, changed=stat.st_mtime_ns)
        else:
            for begin in range(0, stat.st_size, split_bytes):
                end = min(begin + split_bytes, stat.st_size)
                yield Part(kind=kind, file=str(file), begin=begin, end=end, size=end - begin, changed=stat.st_mtime_ns)


def _files(path: str) -> list[tuple[Path, Kind]]:
    if path == PYTHON_STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        python = (file for file in _files_below(root, links=False) if file.suffix == ".py")
        found = [file for file in python if not _NOT_LIBRARY & set(file.relative_to(root).parts)]
    elif path.startswith(DEBIAN):
        return _debian_files(path)
    else:
        expanded = os.path.expanduser(path)
        is_pattern = glob.has_magic(expanded) and not os.path.lexists(expanded)
        places = [
            Path(os.path.realpath(match)) for match in (glob.glob(expanded, recursive=True) if is_pattern else [expanded])
        ]
        found = [file for place in places for file in (_files_below(place) if place.is_dir() else [place])]
    kinds = ((file, kind_of(file)) for file in sorted(set(found)))
    return [(file, kind) for file, kind in kinds if kind and file.stat().st_size and file.is_file()]


def _debian_files(path: str) -> list[tuple[Path, Kind]]:
    """Documentation that an installed package brought: its own list of files says which."""
    package, mend = path.removeprefix(DEBIAN), "install it, or name another"
    try:
        done = subprocess.run(["dpkg-query", "--listfiles", "--", package], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        raise UserError(Problem("the source", path, "this system has no dpkg", "give files in place of a package")) from None
    if done.returncode:
        why = f"dpkg knows no installed package {package!r}"
        raise UserError(Problem("the source", path, why, f"{mend} (apt-get install {package})"))
    files = {Path(os.path.realpath(line)) for line in done.stdout.splitlines() if line.startswith("/usr/share/")}
    found = []
    for file in sorted(file for file in files if file.is_file() and file.stat().st_size):
        kind = kind_of(file) or ("text" if _DEBIAN_TEXT.fullmatch(file.name) else None)
        if kind:
            found.append((file, kind))
    return found


def _files_below(root: Path, links: bool = True) -> Iterator[Path]:
    """Files in depth; a folder that is a link is refused, or passed over if ``links`` are nobody's business."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk and Path.rglob pass over folders that they may not list

    for folder, below, names in os.walk(root, onerror=refuse):
        if links and (linked := next((name for name in below if os.path.islink(os.path.join(folder, name))), None)):
            where, why = os.path.join(folder, linked), "links to folders are not followed, so that nothing is read twice"
            raise UserError(
                Problem("the folder", where, why, "name what it links to as a source of its own, and remove the link")
            )
        yield from (Path(folder, name) for name in names)


def kind_of(file: Path) -> Kind | None:
    """How a file is read, by its suffix; None if it is not."""
    if file.suffix not in _COMPRESSED:
        return _KINDS.get(file.suffix.lower())
    inner = _KINDS.get(Path(file.stem).suffix.lower())
    return inner if inner != "parquet" else None


def _row_groups(file: Path, stat: os.stat_result) -> Iterator[Part]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(file)
    except (OSError, pyarrow.ArrowException) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(Problem(str(file), "not readable", why, "mend the file or leave it out")) from None
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    begin = 0
    while begin < len(sizes):
        end, size = begin + 1, sizes[begin]
        while end < len(sizes) and size + sizes[end] <= BLOCK:
            size, end = size + sizes[end], end + 1
        share = round(stat.st_size * size / max(1, sum(sizes)))
        yield Part(kind="parquet", file=str(file), begin=begin, end=end, size=share, changed=stat.st_mtime_ns)
        begin = end


def _dataset_parts(source: SourceConfig) -> list[Part]:
    from .hub import open_dataset

    rows = open_dataset(source)
    size = (rows.info.download_size or 0) // rows.num_shards if rows.info else 0
    return [Part(kind="dataset", file=source.place, begin=shard, end=shard + 1, size=size) for shard in range(rows.num_shards)]
