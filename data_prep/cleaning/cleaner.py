"""Cleaning one document: normalize it, remove lines, and say whether and why it is dropped.

Order: Unicode, line ends, C4's rules, Gopher's, language, decontamination. The first rule that drops a document ends its
cleaning. Duplicates are found among the documents that are left (:mod:`data_prep.cleaning.duplicates`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from .c4 import C4
from .config import CleaningConfig
from .decontaminate import Decontaminate
from .gopher import Gopher
from .language import Language


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A document after cleaning.

    Attributes:
        text: the changed text; of a dropped document, the text when it was dropped.
        dropped_by: the rule that drops it, such as ``gopher.words``, or None if it is kept.
        detail: why it is dropped, with the measured value: "mean word length 13.2 is above 10.0". Empty if it is kept.
        removed_lines: lines with text that C4's rules took away.
    """

    text: str
    dropped_by: str | None = None
    detail: str = ""
    removed_lines: int = 0


class _Judge(Protocol):
    def __call__(self, text: str) -> tuple[str, str] | None: ...

    def rules(self) -> list[str]: ...


class Cleaner:
    """Cleans documents as a config says. Built once a worker: it loads the language model and the evaluation texts.

    Args:
        config: what to do; with everything off a call hands the text back.
        base: the folder that names of evaluation files are relative to; the working folder if None.

    Raises:
        UserError: an evaluation file cannot be read or holds nothing to compare with.
    """

    def __init__(self, config: CleaningConfig, base: Path | None = None) -> None:
        self._changes: list[Callable[[str], str]] = []
        if config.unicode != "none":
            self._changes.append(partial(unicodedata.normalize, "NFC" if config.unicode == "nfc" else "NFKC"))
        if config.line_ends == "lf":
            self._changes.append(_line_feeds)
        self._c4 = C4(config.c4) if config.c4 else None
        self._judges: list[_Judge] = []
        if config.gopher:
            self._judges.append(Gopher(config.gopher))
        if config.language:
            self._judges.append(Language(config.language))
        if config.decontaminate:
            self._judges.append(Decontaminate(config.decontaminate, base))
        self._idle = not (self._changes or self._c4 or self._judges)

    def rules(self) -> list[str]:
        """The names of all rules that may drop a document, in the order in which they are tried."""
        return [name for part in (self._c4, *self._judges) if part for name in part.rules()]

    def __call__(self, text: str) -> Cleaned:
        """Clean one document."""
        if self._idle:
            return Cleaned(text)
        for change in self._changes:
            text = change(text)
        removed, verdict = 0, None
        if self._c4:
            text, removed, verdict = self._c4(text)
        if verdict is None:
            verdict = next((found for judge in self._judges if (found := judge(text))), None)
        rule, detail = verdict or (None, "")
        return Cleaned(text, rule, detail, removed)


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
