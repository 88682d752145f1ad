"""Colours and markers of arms, the same in every picture and table.

Colours are Okabe and Ito's (Color Universal Design, 2008), which people with any of the common kinds of colour blindness can
tell apart, made darker on white and lighter on black until they have a contrast of 3 to 1 (WCAG 2.2, 1.4.11). No arm is told
by its colour alone: it has a marker, too, and its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

#: What a picture is drawn with, for light and for dark pages; the page's style sheet has the same as variables.
LIGHT: Mapping[str, str] = MappingProxyType(
    {
        "paper": "#ffffff",
        "ink": "#1d2328",
        "soft": "#5b666f",
        "grid": "#dfe3e6",
        "band": "#aab4bb",
        "bad": "#b3261e",
        "heat": "#0072b2",
        "arm0": "#4a545c",
        "arm1": "#0072b2",
        "arm2": "#c65400",
        "arm3": "#008360",
        "arm4": "#b0548a",
        "arm5": "#a87400",
        "arm6": "#2b93d1",
        "arm7": "#6a4fb3",
    }
)
DARK: Mapping[str, str] = MappingProxyType(
    {
        "paper": "#15191c",
        "ink": "#e4e8ea",
        "soft": "#9ba6ae",
        "grid": "#2e363b",
        "band": "#6d7880",
        "bad": "#ff8a80",
        "heat": "#3ea5e6",
        "arm0": "#aeb8bf",
        "arm1": "#3ea5e6",
        "arm2": "#f08a3c",
        "arm3": "#2fc79a",
        "arm4": "#e596c4",
        "arm5": "#e8b738",
        "arm6": "#8fd0f7",
        "arm7": "#a893e8",
    }
)
#: Colours that stand for the variables in a drawing, to be replaced by them: no picture uses these by itself.
STAND_INS: Mapping[str, str] = MappingProxyType({role: f"#00a0{number:02x}" for number, role in enumerate(LIGHT)})

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
#: The same marks in text.
GLYPHS: Mapping[str, str] = MappingProxyType(
    {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖", "*": "★"}  # noqa: RUF001
)
_COLOURS = 8


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: the role of its colour, and its marker."""

    role: str
    marker: str

    @property
    def glyph(self) -> str:
        """The marker as a character."""
        return GLYPHS[self.marker]


def looks(arms: Sequence[str], baseline: str) -> dict[str, Look]:
    """A look for every arm: the baseline is grey, and no two are alike up to fifty."""
    others = [arm for arm in arms if arm != baseline]
    found = {baseline: Look("arm0", MARKERS[0])}
    for number, arm in enumerate(others):
        colour, turn = number % (_COLOURS - 1) + 1, number // (_COLOURS - 1)
        found[arm] = Look(f"arm{colour}", MARKERS[(colour + turn) % len(MARKERS)])
    return found
