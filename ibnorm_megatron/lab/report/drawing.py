"""From one drawing to what a page needs of it: SVG that takes the page's colours and fonts, wide and narrow, and a PNG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .style import LIGHT, STAND_INS

#: Inches. The page shows them a third larger, and takes the narrow drawing where the wide one's text would be too small.
WIDE, NARROW = 7.9, 3.5

_DPI = 160
_TITLES_OF_LINKS = re.compile(r'<a xlink:href="#([^"]+)"[^>]*>')


@dataclass(frozen=True)
class Paint:
    """What a drawing is made with: colours by role, and how much room there is."""

    colours: Mapping[str, str]
    narrow: bool

    def __getitem__(self, role: str) -> str:
        return self.colours[role]

    def figure(self, height: float) -> Figure:
        """An empty figure of the page's width, ``height`` inches high."""
        return Figure(figsize=(NARROW if self.narrow else WIDE, height), layout="constrained")


@dataclass(frozen=True)
class Picture:
    """A drawing in all its forms. ``wide`` and ``narrow`` are SVG elements for a page, ``png`` is a file's bytes."""

    name: str
    wide: str
    narrow: str
    png: bytes


def paint(name: str, draw: Callable[[Paint], Figure], titles: Mapping[str, str], stamp: str = "") -> Picture:
    """Draw for the page and for a file.

    Args:
        name: a word that is this picture's alone on the page.
        draw: makes the figure. Artists whose url is ``#anchor`` become links to that place of the page.
        titles: what is said of an anchor under the mouse.
        stamp: what the file has to say of itself where it is seen without the page.
    """
    with _settings(LIGHT):
        file = io.BytesIO()
        figure = draw(Paint(LIGHT, narrow=False))
        figure.text(0.995, 0.006, stamp, ha="right", va="bottom", fontsize=6.5, color=LIGHT["bad"])
        figure.savefig(file, format="png", dpi=_DPI, facecolor=LIGHT["paper"])
    forms = {}
    with _settings(STAND_INS):
        for form, narrow in (("wide", False), ("narrow", True)):
            text = io.StringIO()
            draw(Paint(STAND_INS, narrow)).savefig(text, format="svg", transparent=True)
            forms[form] = _for_page(text.getvalue(), f"{name}-{form}", titles)
    return Picture(name, forms["wide"], forms["narrow"], file.getvalue())


def _settings(colours: Mapping[str, str]) -> AbstractContextManager[None]:
    """Matplotlib's settings, as long as a drawing takes. No text is mathematics: names of arms may hold dollar signs."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "text.parse_math": False,
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.5,
        "axes.titlesize": 8.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.labelsize": 8,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "legend.fontsize": 7.5,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colours["soft"],
        "axes.labelcolor": colours["soft"],
        "axes.titlecolor": colours["ink"],
        "axes.facecolor": "none",
        "axes.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colours["grid"],
        "grid.linewidth": 0.6,
        "text.color": colours["ink"],
        "xtick.color": colours["soft"],
        "ytick.color": colours["soft"],
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "hatch.linewidth": 0.6,
        "lines.linewidth": 1.5,
        "lines.markersize": 5,
    }
    return matplotlib.rc_context(settings)


def _for_page(svg: str, name: str, titles: Mapping[str, str]) -> str:
    """Matplotlib's file as an element of the page: variables for colours, names that are its own, titles of its links."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'="([^"]*\.\d{3}[^"]*)"', lambda match: f'="{_rounded(match[1])}"', svg)
    svg = svg.replace("\n", " ")
    svg = re.sub(r' id="', f' id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'<use xlink:href="#', f'<use xlink:href="#{name}-', svg)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1
    )
    for role, colour in STAND_INS.items():
        svg = svg.replace(colour, f"var(--{role})")
    # A picture of a hundred runs is no hundred stops of the tabulator key: the table of runs has them.
    return _TITLES_OF_LINKS.sub(
        lambda match: f'<a href="#{match[1]}" tabindex="-1"><title>{html.escape(titles.get(match[1], match[1]))}</title>', svg
    )


def _rounded(value: str) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", value)
