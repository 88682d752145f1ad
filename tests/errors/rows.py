"""One wrong thing as a row: what is wrong, what is typed, what is said; and the folder in which it is typed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..conftest import VOCABULARY
from ..distributed import ROOT

#: What is done to the folder before the command is typed there. Rows run in the test's process, so it is also told what to
#: change there: a variable of the environment, a module's search path.
Before = Callable[[Path, "pytest.MonkeyPatch"], object]  # type: ignore[name-defined]  # noqa: F821

#: Of what stands between these in an expected sentence only that there is something is compared.
ANY = re.compile(r"<[a-z ]+>")


@dataclass(frozen=True)
class Row:
    """One thing that a user can get wrong.

    Attributes:
        what: is wrong, in a few words; rows of an area differ in it.
        typed: the command line, perhaps with variables of the environment in front. It is typed in a folder that holds
            ``tiny.yaml`` and ``data``, as :func:`furnish` makes it.
        says: the sentences on stderr, without ``error:`` in front; ``<such words>`` stand for anything.
        before: what is done first.
        alone: run it as a process of its own, as a user does; else in the test's process, which is quick.
        nobody: run it as a user with no rights.
    """

    what: str
    typed: str
    says: tuple[str, ...]
    before: Before | None = None
    alone: bool = False
    nobody: bool = False

    def fits(self, stderr: str) -> bool:
        """Whether these are the sentences."""
        patterns = [".+".join(map(re.escape, ANY.split(f"error: {sentence}"))) for sentence in self.says]
        return re.fullmatch("".join(f"{pattern}\n" for pattern in patterns), stderr) is not None


def furnish(folder: Path, prepared: Path) -> None:
    """Put a small config and prepared data into a folder. Paths in both are relative to it."""
    text = (ROOT / "configs" / "tiny_llama.yaml").read_text(encoding="utf-8")
    text = re.sub(r"vocab_size: \d+", f"vocab_size: {VOCABULARY}", text).replace("runs/tiny_llama", "run")
    (folder / "tiny.yaml").write_text(f"{text}\ndata:\n  path: data\n", encoding="utf-8")
    shutil.copytree(prepared, folder / "data")


def snapshot(folder: Path) -> dict[str, object]:
    """Everything in a folder: kinds, contents and times of files; not when a lock was last asked for."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.name != ".lock" and path.lstat().st_mtime_ns,
            path.is_file() and path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def as_nobody(wanted: bool) -> Iterator[None]:
    """Give this process's rights up for a while, where it has root's: permissions do not bind root."""
    if not wanted or os.geteuid() != 0:
        yield
        return
    nobody = 65_534
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
