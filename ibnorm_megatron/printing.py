"""Text from outside on a terminal: shown, never obeyed; and tables, which all look alike, with room to print them."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Columns of what is printed into a file or a pipe, which have no width to keep to.
_WIDE = 160


def printable(text: str, *, lines: bool = False) -> str:
    """The text with everything that a terminal could obey, or that hides what stands beside it, as an escape.

    These are control characters, escape sequences among them, and the invisible ones that turn the direction of writing.

    Args:
        text: from anywhere.
        lines: leave line feeds as they are.
    """
    return "".join(character if lines and character == "\n" else _shown(character) for character in text)


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "C" or category in ("Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def table(title: str, *columns: str, left: int = 1, **column: Any) -> Table:
    """An empty table of numbers beside ``left`` columns of text; the title is plain, ``column`` what rich is told of each."""
    from rich.table import Table
    from rich.text import Text

    empty = Table(title=Text(title, style="table.title"), title_justify="left")
    for number, name in enumerate(columns):
        empty.add_column(name, justify="left" if number < left else "right", **column)
    return empty


def wide_console() -> Console:
    """Standard output for tables: as wide as the terminal, or wide where there is none."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDE)
