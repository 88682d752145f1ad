"""``python -m tests.errors.page`` writes docs/errors.md from the rows; a test holds the two together."""

from __future__ import annotations

import html

from ..distributed import ROOT
from .cases import AREAS
from .rows import Row

PAGE = ROOT / "docs" / "errors.md"

_HEAD = """# What can go wrong

Everything here is refused with exit code 2, one sentence for each thing that is wrong, before anything is written: what it is,
what was found there, why that cannot work, and what to do. Several mistakes are named together. A run that ends though nobody
made a mistake (a rank that died, a full disk) ends with exit code 1 and one sentence; the same command may work again.

Each line below is a test (`tests/errors`): it is typed in a folder with a small config `tiny.yaml`, whose data is in `data` and
whose run folder is `run`, and all that appears is what stands here. `<such words>` stand for what differs from machine to
machine. `python -m tests.errors.page` writes this page.
"""


def page() -> str:
    """The page, from the rows."""
    parts = [_HEAD]
    for area, rows in AREAS.items():
        if rows:
            parts.append(f"\n## {area}\n\n| what is wrong | what is typed | what is said |\n|---|---|---|\n")
            parts += [_line(row) for row in rows]
    return "".join(parts)


def _line(row: Row) -> str:
    said = "<br>".join(html.escape(sentence, quote=False) for sentence in row.says)
    cells = [row.what, f"`{row.typed}`", said]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
