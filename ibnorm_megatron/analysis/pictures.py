"""Pictures of what was found: the price of few bits, where in depth it is paid, and curves of disturbance."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..files import replacing
from ..lab.report.style import LIGHT, looks
from .arms import Figure

_DPI = 160
_SETTINGS: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["soft"],
    "axes.grid": True,
    "grid.color": LIGHT["grid"],
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # names of norms may hold dollar signs
}


#: Ends of names of what the information plane shows.
_FOLLOWING, _CURRENT = ": I(T; next token) by probe-linear", ": I(T; x_t) by probe-linear"


def draw_all(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Every picture for which there is something to draw, as PNG; returns their paths."""
    drawings: dict[str, Callable[[Sequence[Figure]], Canvas | None]] = {
        "quantization": _quantization,
        "layers": _layers,
        "robustness": _robustness,
        "information": _information,
    }
    found = []
    for name, draw in drawings.items():
        with matplotlib.rc_context(_SETTINGS):
            canvas = draw(figures)
            if canvas is None:
                continue
            file = io.BytesIO()
            canvas.savefig(file, format="png", dpi=_DPI)
        path = folder / f"{name}.png"
        with replacing(path) as target:
            target.write(file.getvalue())
        found.append(path)
    return found


def _plain_numbers(axis: Axis) -> None:
    """Numbers as they are written; of a logarithmic axis powers of ten only."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _arms(figures: Sequence[Figure]) -> list[str]:
    return list(dict.fromkeys(one.arm for one in figures))


def _of(figures: Sequence[Figure], report: str) -> dict[tuple[str, str], Figure]:
    return {(one.name, one.arm): one for one in figures if one.report == report}


def _quantization(figures: Sequence[Figure]) -> Canvas | None:
    """A panel a place and scaling; formats along x, arms side by side, with intervals."""
    found = _of(figures, "quantization")
    names = list(dict.fromkeys(name for (name, _), one in found.items() if one.layer is None))
    panels = list(dict.fromkeys(name.rpartition(", ")[0] for name in names))
    if not panels:
        return None
    arms = _arms(figures)
    look = looks(arms, arms[0])
    canvas = Canvas(figsize=(7.9, 2.6 * ((len(panels) + 1) // 2) + 0.6), layout="constrained")
    axes = canvas.subplots((len(panels) + 1) // 2, min(2, len(panels)), squeeze=False)
    for panel, axis in zip(panels, axes.flat, strict=False):
        formats = [name.rpartition(", ")[2] for name in names if name.startswith(f"{panel}, ")]
        for number, arm in enumerate(arms):
            shown = [found[f"{panel}, {one}", arm].value for one in formats]
            x = np.arange(len(formats)) + (number - (len(arms) - 1) / 2) * 0.8 / len(arms)
            y = np.array([one.value for one in shown])
            low, high = (np.array([getattr(one, end) for one in shown]) for end in ("low", "high"))
            spread = np.where(np.isfinite([low, high]), [y - low, high - y], 0.0)
            axis.errorbar(
                x, y, yerr=spread, fmt=look[arm].marker, color=LIGHT[look[arm].role], label=arm, markersize=4, linewidth=1
            )
        axis.set_xticks(range(len(formats)), formats)
        axis.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
        axis.margins(y=0.08)
        _plain_numbers(axis.yaxis)
        axis.axhline(0, color=LIGHT["soft"], linewidth=0.7)
        place, scaling = panel.split(", ")
        axis.set_title(
            {"norm": "outputs of norms", "linear": "inputs of matrix products"}[place] + f", scaled by {scaling}", loc="left"
        )
    axes[0, 0].set_ylabel("rise of the loss, nats a label")
    canvas.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return canvas


def _layers(figures: Sequence[Figure]) -> Canvas | None:
    """Arms by layers, by the format of fewest bits, as a heat map with numbers."""
    found = _of(figures, "quantization")
    names = [name for name in dict.fromkeys(name for name, _ in found) if name.startswith("norm, token, int3, layer ")]
    if not names:
        return None
    arms = _arms(figures)
    values = np.array([[found[name, arm].value.value for name in names] for arm in arms])
    canvas = Canvas(figsize=(7.9, 0.36 * len(arms) + 1.3), layout="constrained")
    axis = canvas.subplots()
    image = axis.imshow(values, aspect="auto", cmap="Blues", vmin=0)
    axis.set_xticks(range(len(names)), [name.rpartition(" ")[2] for name in names])
    axis.set_yticks(range(len(arms)), arms)
    axis.grid(visible=False)
    axis.set_xlabel("layer whose norms alone give int3, scaled by token")
    if len(names) <= 16:
        middle = float(values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            axis.text(
                column,
                row,
                f"{value:.4f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if value > middle else LIGHT["ink"],
            )
    canvas.colorbar(image, ax=axis, label="rise, nats a label")
    return canvas


def _robustness(figures: Sequence[Figure]) -> Canvas | None:
    """Rise against strength, a panel a kind."""
    found = _of(figures, "robustness")
    kinds = list(dict.fromkeys(name.split()[0] for name, _ in found))
    if not kinds:
        return None
    arms = _arms(figures)
    look = looks(arms, arms[0])
    canvas = Canvas(figsize=(7.9, 3.4), layout="constrained")
    axes = canvas.subplots(1, len(kinds), squeeze=False)[0]
    axis_names = {
        "noise": "noise on embeddings, in units of their root mean square",
        "drop": "share of embeddings that are zero",
    }
    for kind, axis in zip(kinds, axes, strict=True):
        strengths = [float(name.split()[1]) for name in dict.fromkeys(name for name, _ in found) if name.startswith(f"{kind} ")]
        for arm in arms:
            shown = [found[f"{kind} {strength:g}", arm].value for strength in strengths]
            colour = LIGHT[look[arm].role]
            axis.plot(strengths, [one.value for one in shown], color=colour, marker=look[arm].marker, label=arm, markersize=4)
            if all(np.isfinite([one.low, one.high]).all() for one in shown):
                axis.fill_between(
                    strengths, [one.low for one in shown], [one.high for one in shown], color=colour, alpha=0.12, linewidth=0
                )
        axis.set_xscale("log")
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis)
        axis.set_xticks(strengths, [f"{one:g}" for one in strengths])
        axis.minorticks_off()
        axis.set_xlabel(axis_names[kind])
    axes[0].set_ylabel("rise of the loss, nats a label")
    canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return canvas


def _information(figures: Sequence[Figure]) -> Canvas | None:
    """The information plane, a line through the sites in order of depth; and the bottleneck over beta at the last site."""
    found, curves = _of(figures, "information"), _of(figures, "bottleneck")
    names = dict.fromkeys(name for name, _ in found)
    sites = [name.partition(":")[0] for name in names if name.endswith(_FOLLOWING)]
    if not sites:
        return None
    arms = _arms(figures)
    look = looks(arms, arms[0])
    canvas = Canvas(figsize=(7.9, 3.6), layout="constrained")
    plane, curve = canvas.subplots(1, 2)
    betas = [name.rpartition(" ")[2] for name in dict.fromkeys(name for name, _ in curves) if name.startswith(f"{sites[-1]}, ")]
    for arm in arms:
        colour, marker = LIGHT[look[arm].role], look[arm].marker
        points = [[found[f"{site}{end}", arm].value.value for site in sites] for end in (_CURRENT, _FOLLOWING)]
        plane.plot(*points, color=colour, marker=marker, markersize=4, label=arm, linewidth=1)
        values = [curves[f"{sites[-1]}, beta {beta}", arm].value for beta in betas]
        x = [float(beta) for beta in betas]
        curve.plot(x, [one.value for one in values], color=colour, marker=marker, markersize=4, linewidth=1)
        curve.fill_between(x, [one.low for one in values], [one.high for one in values], color=colour, alpha=0.12, linewidth=0)
    for site, *place in zip(sites, *points, strict=True):
        plane.annotate(
            site.removesuffix(".attn_in"), place, fontsize=6.5, color=LIGHT["soft"], textcoords="offset points", xytext=(4, 3)
        )
    plane.set_xlabel("I(T; x_t), nats, by a linear probe")
    plane.set_ylabel("I(T; next token), nats, by a linear probe")
    curve.set_xlabel(f"beta, at {sites[-1]}")
    curve.set_ylabel("I(T; next token) - beta I(T; x_t), nats")
    canvas.legend(*plane.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return canvas
