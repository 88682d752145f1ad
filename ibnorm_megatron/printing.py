"""Text from outside on a terminal: shown, never obeyed."""

from __future__ import annotations

import unicodedata


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
