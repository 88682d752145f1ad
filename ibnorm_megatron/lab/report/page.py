"""The page: everything of a report put together, and written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ... import __version__
from ...errors import Problem, RunFailure
from ...files import replacing, write_text
from ..results import Analysis, Estimate
from ..tables import write_analysis
from ..trials import Entry
from . import claims, figures, provenance, records, tables, words
from .style import DARK, LIGHT
from .view import DueLike, Run, StudyLike, View

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bar:
    """An interval on the scale that all arms share, in per cent of its width. ``text`` says it in numbers."""

    text: str
    left: float
    right: float
    point: float


@dataclass(frozen=True)
class Scale:
    """The scale of :class:`Bar`: where no difference is, and the zone below the margin of equivalence."""

    zero: float
    zone: tuple[float, float] | None
    bars: dict[str, Bar]
    what: str


def write(analysis: Analysis, study: StudyLike | None, entries: Sequence[Entry], due: DueLike | None, folder: Path) -> Path:
    """Write ``folder/report/``: index.html, a PNG of every picture, analysis.json and observations.csv.

    Args:
        analysis: what was found.
        study: None for results that were logged elsewhere; sections that need it are left out.
        entries: the ledger's, in its order.
        due: what tuning has chosen and whether anything is left to run, where that is known.
        folder: of the study, or any other.

    Returns:
        The path of index.html.

    Raises:
        RunFailure: the folder cannot be written.
    """
    view = View(analysis, study, tuple(entries), due)
    place = folder / "report"
    try:
        place.mkdir(parents=True, exist_ok=True)
        shown = figures.draw_all(view)
        page = _render(view, shown, place)
        for each in shown.values():
            if each.picture:
                with replacing(place / f"{each.name}.png") as file:
                    file.write(each.picture.png)
            else:
                (place / f"{each.name}.png").unlink(missing_ok=True)  # of an earlier report
        write_analysis(analysis, place / "analysis.json")
        records.write_observations(place / "observations.csv", analysis.observations)
        write_text(place / "index.html", page)
    except OSError as error:
        why = f"it cannot be written ({error.strerror})"
        raise RunFailure(Problem("the report", str(place), why, "give another folder: --out DIR")) from None
    return place / "index.html"


def _render(view: View, shown: dict[str, figures.Shown], place: Path) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    return environment.get_template("template.html").render(
        view=view,
        analysis=view.analysis,
        name=view.study.config.name if view.study else "Results from elsewhere",
        summary=_summary(view),
        counts=_counts(view),
        red=_red(view),
        unfinished=_unfinished(view),
        scale=_scale(view),
        figures=shown,
        tables={
            name: make(view)
            for name, make in (
                ("multipliers", tables.multipliers),
                ("paired", tables.paired),
                ("losses", tables.losses),
                ("chosen", tables.chosen),
                ("checked", tables.checked),
                ("strengths", tables.strengths),
                ("costs", tables.costs),
                ("stabilities", tables.stabilities),
                ("failures", tables.failures),
                ("shapes", provenance.shapes),
            )
        },
        claims=claims,
        facts=provenance.facts(view),
        rules=provenance.rules(view),
        study_text=provenance.study_text(view),
        groups=[(arm, tables.anchor_of_arm(view, arm), list(tables.runs_of(view, arm))) for arm in view.arms],
        link=lambda run: _link(view, run, place),
        words=words,
        style=style.replace("/* LIGHT */", _variables(LIGHT)).replace("/* DARK */", _variables(DARK)),
        version=__version__,
    )


def _variables(colours: Any) -> str:
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())


def _summary(view: View) -> str:
    """What was compared, in a sentence."""
    observations = view.analysis.observations
    sizes = f"{words.plural(len(view.sizes), 'size')}" if view.sizes else "no size"
    if view.sizes:
        ends = [words.count(number) for number in (min(view.sizes.values()), max(view.sizes.values()))]
        sizes += f" from {ends[0]} to {ends[1]} parameters" if len(view.sizes) > 1 else f" of {ends[0]} parameters"
    seeds = words.plural(len({each.seed for each in observations}), "seed")
    norms, runs = words.plural(len(view.compared), "norm"), words.plural(len(view.runs), "run")
    return f"{norms} against {view.analysis.baseline}, {sizes}, {seeds}, {runs}."


def _counts(view: View) -> list[tuple[str, int]]:
    """Verdicts by level, the control's left out: it is no candidate."""
    levels = [verdict.level for verdict in view.analysis.verdicts if verdict.arm != view.analysis.control]
    return [(level, levels.count(level)) for level in claims.VOCABULARY if level in levels]


def _red(view: View) -> list[tuple[str, str]]:
    """What is unfair, by name and sentence."""
    ways = [*(view.study.overridden if view.study else ()), *(view.due.unfair if view.due else ())]
    return list(dict.fromkeys((name, sentence) for name, sentence in ways))


def _unfinished(view: View) -> str:
    """What is left to run, or an empty text."""
    if view.due is None or view.due.finished:
        return ""
    done = sum(not run.superseded for run in view.runs)
    return (
        f"Not finished: {done:,} of about {words.plural(view.due.total_estimate, 'run')} have ended. Verdicts may still change."
    )


def _scale(view: View) -> Scale:
    """Bars of compute multipliers, or of loss where no surface is: better to the right in both."""
    margin = view.analysis.equivalence
    if view.analysis.multipliers:
        found = {each.arm: Estimate(*(end - 1 for end in _ends(each.mean))) for each in view.analysis.multipliers}
        said = {each.arm: words.multiplier(each.mean) for each in view.analysis.multipliers}
        zone, what = margin, "compute multiplier"
    else:
        pairs = {arm: pair for arm in view.compared if (pair := view.together(arm))}
        found = {arm: Estimate(-pair.by_t.value, -pair.by_t.high, -pair.by_t.low) for arm, pair in pairs.items()}
        said = {arm: f"{words.with_interval(pair.by_t, sign=True)} nats" for arm, pair in pairs.items()}
        zone, what = max((pair.margin for pair in pairs.values() if math.isfinite(pair.margin)), default=0.0), "loss lowered"
    finite = [end for each in found.values() for end in _ends(each) if math.isfinite(end)]
    reach = 1.08 * max([abs(end) for end in finite] + [1.5 * zone, 1e-9])

    def at(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / reach)), 2)

    bars = {
        arm: Bar(said[arm], at(each.low), at(each.high), at(each.value))
        for arm, each in found.items()
        if not any(math.isnan(end) for end in _ends(each))
    }
    return Scale(at(0.0), (at(-zone), at(zone)) if zone else None, bars, what)


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _link(view: View, run: Run, place: Path) -> str:
    """The way from the report to a run's folder, where there is one."""
    if not view.study or not run.folder:
        return ""
    folder = view.study.folder / run.folder
    return f"{os.path.relpath(folder, place)}/" if folder.is_dir() else ""
