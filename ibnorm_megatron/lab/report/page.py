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
from ..notes import NONE, Notes
from ..results import Analysis, Estimate
from ..tables import write_analysis
from ..trials import Entry
from . import claims, figures, provenance, records, tables, transfer, words
from .style import DARK, LIGHT
from .view import DueLike, Run, StudyLike, View

_HERE = Path(__file__).parent

#: Sentences of one kind that are shown; the others are counted.
_MOST = 8


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


def write(
    analysis: Analysis,
    study: StudyLike | None,
    entries: Sequence[Entry],
    due: DueLike | None,
    folder: Path,
    notes: Notes = NONE,
) -> Path:
    """Write ``folder/report/``: index.html, a PNG of every picture, analysis.json and observations.csv.

    Args:
        analysis: what was found.
        study: None for results that were logged elsewhere; sections that need it are left out.
        entries: the ledger's, in its order.
        due: what tuning has chosen and whether anything is left to run, where that is known.
        folder: of the study, or any other.
        notes: what else a reader has to know.

    Returns:
        The path of index.html.

    Raises:
        RunFailure: the folder cannot be written.
    """
    view = View(analysis, study, tuple(entries), due, notes)
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
        warnings=[*_warnings(view), *transfer.remark(view)],
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
        few=_few,
        style=style.replace("/* LIGHT */", _variables(LIGHT)).replace("/* DARK */", _variables(DARK)),
        version=__version__,
    )


def _variables(colours: Any) -> str:
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())


def _summary(view: View) -> str:
    """What was compared, in a sentence."""
    known = {name: recipe.parameters for name, recipe in view.study.recipes.items()} if view.study else view.sizes
    sizes = words.plural(len(known), "size") if known else "no size"
    if known:
        ends = [words.count(number) for number in (min(known.values()), max(known.values()))]
        sizes += f" from {ends[0]} to {ends[1]} parameters" if len(known) > 1 else f" of {ends[0]} parameters"
    of_all = view.study.config.seeds if view.study else {each.seed for each in view.analysis.observations}
    seeds = words.plural(len(of_all), "seed")
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


def _few(sentences: Sequence[str]) -> list[str]:
    """The first of many sentences of one kind, and how many there are."""
    rest = len(sentences) - _MOST
    return [*sentences[:_MOST], *([f"{rest:,} more of this kind."] if rest > 0 else [])]


def _warnings(view: View) -> list[str]:
    """What to know of the numbers; what is said of single runs stands in the table of those without a loss as well."""
    single = [text for text in view.analysis.warnings if " has no loss at size " in text]
    return [text for text in view.analysis.warnings if text not in single] + _few(single)


def _unfinished(view: View) -> str:
    """How much is left to run, or an empty text."""
    if not view.interim:
        return ""
    parts = [f"Not finished: {view.progress} have ended{_of_main(view)}."]
    if view.analysis.verdicts:
        parts.append("All of it may still change.")
    return " ".join(parts)


def _of_main(view: View) -> str:
    """How many ends of the main stage are there, which alone are compared."""
    if not view.study:
        return ""
    config = view.study.config
    all_of_it = len(config.arms) * len(config.sizes) * len(config.horizons) * len(config.seeds)
    ended = sum(run.stage == "main" and not run.superseded and run.status != "failed" for run in view.runs)
    return f", {ended:,} of {all_of_it:,} of those that are compared"


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
        zone = max((pair.margin for pair in pairs.values() if math.isfinite(pair.margin)), default=0.0)
        what = f"loss minus that of {view.analysis.baseline}"
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
