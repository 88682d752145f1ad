"""Figures over a run as heatmaps, steps by sites, and the gradient's parts as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from .series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What is drawn if nobody says, as far as the run has it.
SHOWN = ("std", "variance_ratio", "sigma_over_lambda", "contraction", "kurtosis", "crest", "outlier_energy")

_TITLES = {
    "std": "std of the rows that go in",
    "sigma": "sigma",
    "lambda": "lambda",
    "sigma_over_lambda": "sigma / lambda",
    "beyond_lambda": "share of elements beyond lambda",
    "contraction": "contraction, Var(g) / Var(c)",
    "slope": "mean slope of the compression",
    "variance_ratio": "variance ratio, Var(T_l) / Var(T_(l-1))",
    "kurtosis": "kurtosis of a row",
    "crest": "crest factor of a row",
    "crest_max": "crest factor of the largest row",
    "outliers": "outlier channels",
    "outlier_energy": "outlier channels' share of the energy",
    "largest_channel": "largest channel",
    "gamma_mean": "mean gamma",
    "gamma_std": "std of gamma",
    "gamma_min": "smallest gamma",
    "gamma_max": "largest gamma",
    "gamma_small": "share of gammas below 0.1",
}

#: Figures between 0 and 1, whose colours are those of the whole range.
_SHARES = ("beyond_lambda", "contraction", "slope", "outlier_energy", "gamma_small")

#: A ratio of variances from which on its colour says no more.
_FAR = 4.0

_MOST_LABELS = 28


def draw(series: Series, figures: Sequence[str]) -> Figure:
    """A panel for each of the figures that the run has, and one for the gradient's parts."""
    shown = [name for name in figures if series.has(name)]
    order = _by_place(series.sites)
    panels = len(shown) + 1
    rows = math.ceil(panels / 2)
    height = 1.3 + 0.16 * min(len(order), _MOST_LABELS)
    figure = Figure(figsize=(12, rows * max(2.4, height)), layout="constrained")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for one, name in zip(axes, shown, strict=False):
        _heatmap(figure, one, series, name, order)
    _gradients(axes[len(shown)], series)
    for empty in axes[panels:]:
        empty.set_axis_off()
    figure.suptitle(_plain(series.name))
    return figure


def _by_place(sites: Sequence[str]) -> list[int]:
    """The numbers of sites, those of one place together and in depth order: what differs from layer to layer stands side by
    side. Places come in the order data meets them, and the final norm last."""
    places = list(dict.fromkeys(_place(site) for site in sites))
    if "final" in places:
        places = [place for place in places if place != "final"] + ["final"]
    return sorted(range(len(sites)), key=lambda number: (places.index(_place(sites[number])), number))


def _place(site: str) -> str:
    return site.rpartition(".")[2]


def _heatmap(figure: Figure, axes: Axes, series: Series, name: str, order: Sequence[int]) -> None:
    values = series.figures[name][order]
    sites = [series.sites[number] for number in order]
    ratio = name == "variance_ratio"  # about 1, in two colours
    scale, colours = (LogNorm(1 / _FAR, _FAR), "RdBu_r") if ratio else (_scale(name, values), "viridis")
    edges = _edges(series.steps), np.arange(len(sites) + 1)
    mesh = axes.pcolormesh(*edges, values, cmap=colours, norm=scale)
    figure.colorbar(mesh, ax=axes, pad=0.01, extend="both" if ratio else "neither")
    axes.set_facecolor("0.85")  # where there is no such figure
    every = math.ceil(len(sites) / _MOST_LABELS)
    axes.set_yticks(np.arange(0, len(sites), every) + 0.5, [_plain(site) for site in sites[::every]], fontsize="x-small")
    axes.invert_yaxis()
    for number in range(1, len(sites)):
        if _place(sites[number]) != _place(sites[number - 1]):
            axes.axhline(number, color="white", linewidth=1.5)
    axes.set(title=_TITLES.get(name, _plain(name)), xlabel="step")


def _scale(name: str, values: np.ndarray) -> Normalize:
    """Colours by size: a share's over the whole range, of positive numbers by their logarithm if they differ by much."""
    found = values[np.isfinite(values)]
    low, high = float(found.min()), float(found.max())
    if name in _SHARES:
        return Normalize(0, 1)
    return LogNorm(low, high) if low > 0 and high > 3 * low else Normalize(low, high)


def _edges(steps: np.ndarray) -> np.ndarray:
    """Where the column of each step ends: half way to the next; the first and the last are as wide as their neighbours."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[1.5 * steps[0] - 0.5 * steps[1]], middles, [1.5 * steps[-1] - 0.5 * steps[-2]]])


def _gradients(axes: Axes, series: Series) -> None:
    for part, values in series.grad_norm.items():
        if np.isfinite(values).any():
            axes.plot(series.steps, values, ".-", linewidth=1, label=_plain(part))
    axes.set(title="gradient's norm by part, before clipping", xlabel="step", yscale="log")
    axes.legend(fontsize="x-small")


def _plain(text: str) -> str:
    """Not as matplotlib's mathematics, which a dollar sign begins."""
    return text.replace("$", r"\$")
