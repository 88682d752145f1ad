"""Colours and markers of arms, the same in every picture and table.

Colours have the hues of Okabe and Ito's (Color Universal Design, 2008). Their lightness was searched for: on the page's ground
each has a contrast of 3 to 1 (WCAG 2.2, 1.4.11), and the first six stay apart for people who lack one kind of cone, as
Machado et al. (IEEE TVCG 15, 2009) compute what they see. No arm is told by its colour alone: it has a marker and its name.
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
        "arm0": "#3e3f40",
        "arm1": "#004f99",
        "arm2": "#cf801c",
        "arm3": "#139d64",
        "arm4": "#c07eb1",
        "arm5": "#673808",
        "arm6": "#037dfc",
        "arm7": "#9183da",
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
        "arm0": "#79888c",
        "arm1": "#08a5fd",
        "arm2": "#d3750b",
        "arm3": "#01d994",
        "arm4": "#ffacd7",
        "arm5": "#f1d839",
        "arm6": "#4588c6",
        "arm7": "#bdaef0",
    }
)
#: Colours that stand for the variables in a drawing, to be replaced by them: no picture uses these by itself.
STAND_INS: Mapping[str, str] = MappingProxyType({role: f"#00a0{number:02x}" for number, role in enumerate(LIGHT)})

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
#: The same marks in text.
GLYPHS: Mapping[str, str] = MappingProxyType({"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖", "*": "★"})
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
