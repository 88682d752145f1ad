"""The numbers behind every picture, as tables whose rows lead to the runs that they are from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from ..results import Multiplier, Observation, Paired
from . import transfer, words
from .pictures import cost, forest, stability, tuning
from .style import Look
from .view import REALISED, Run, View


@dataclass(frozen=True)
class Cell:
    """What stands in a table: a text, what a click on it leads to, and what the mouse is told.

    ``tone`` is a class of the style sheet; ``look`` puts an arm's marker in front; ``links`` are further texts, each
    with what a click on it leads to and what the mouse is told.
    """

    text: str
    href: str = ""
    title: str = ""
    tone: str = ""
    look: Look | None = None
    links: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """``columns`` begin with < where they hold words, and are numbers elsewhere; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def arm_cell(view: View, arm: str) -> Cell:
    """An arm's name, which leads to its runs."""
    runs = view.of(arm)
    return Cell(arm, f"#{anchor_of_arm(view, arm)}", f"the {words.plural(len(runs), 'run')} of {arm}", look=view.looks[arm])


def anchor_of_arm(view: View, arm: str) -> str:
    """Where an arm's runs begin in the table of runs."""
    return f"runs-{view.arms.index(arm)}"


def multipliers(view: View) -> Table | None:
    """Every arm's multiplier with all its intervals and tests."""
    found = [each for arm in forest.rows(view) if (each := view.multiplier(arm))]
    if not found:
        return None
    decade = math.log(10)
    rows = tuple(
        (
            arm_cell(view, each.arm),
            Cell(words.multiplier(each.mean), title=_by_profile(each), tone="strong"),
            Cell(words.p_value(each.p_holm), title=f"before Holm's correction {words.p_value(each.p_u0)}"),
            Cell(words.p_value(each.p_equivalent)),
            Cell(words.percent(math.expm1(each.u1.value * decade))),
            Cell(words.p_value(each.p_u1_holm), title=f"before Holm's correction {words.p_value(each.p_u1)}"),
            Cell(words.multiplier(each.slowdown)),
            Cell(words.multiplier(each.in_seconds), title=f"p (Holm) {words.p_value(each.p_seconds_holm)}"),
            Cell(words.percent(each.largest_left_out, 2)),
        )
        for each in found
    )
    change, left_out = "its change a decade of compute", "error where the largest size is left out"
    clock = ("seconds over the baseline's", "multiplier by wall-clock")
    columns = ("<arm", "compute multiplier", "p (Holm)", "p (TOST)", change, "p of the change (Holm)", *clock, left_out)
    return Table("Compute multipliers, with 95 % intervals", columns, rows)


def _by_profile(found: Multiplier) -> str:
    return f"by profile likelihood {words.multiplier(found.profile_mean)}" if found.profile_mean else ""


def paired(view: View) -> Table | None:
    """Every arm's paired differences: all together, then by cell."""
    columns = (
        "<arm",
        "<size",
        "tokens a parameter",
        "pairs",
        "difference, Student's t",
        "sign flips",
        "p",
        "p (Holm)",
        "p of TOST",
    )
    rows = []
    for arm in forest.rows(view):
        together = view.together(arm)
        for each in [*([together] if together else []), *view.cells(arm)]:
            rows.append(
                (
                    arm_cell(view, arm),
                    Cell(each.size or "all"),
                    Cell("all" if each.horizon is None else f"{each.horizon:.3g}"),
                    _pairs(each),
                    Cell(words.with_interval(each.by_t, sign=True), tone="" if each.size else "strong"),
                    Cell(words.with_interval(each.by_signs, sign=True)),
                    Cell(words.p_value(each.p)),
                    Cell(words.p_value(each.p_holm)),
                    Cell(words.p_value(each.p_equivalent), title=f"against {words.loss(each.margin)} nats"),
                )
            )
    return (
        Table("Loss minus the baseline's, nats a token, paired by size, length and seed", columns, tuple(rows))
        if rows
        else None
    )


def _pairs(row: Paired) -> Cell:
    told = f"{row.pending} may still come" if row.pending else ""
    return Cell(f"{row.pairs} of {row.pairs + row.missing + row.pending}", title=told, tone="bad" if row.missing else "")


def losses(view: View) -> Table | None:
    """Loss of every arm at every size and length: mean over seeds; every seed leads to its run."""
    ends = sorted({(each.parameters, each.size, each.tokens) for each in view.analysis.observations})
    if not ends:
        return None
    rows = []
    for _, size, tokens in ends:
        for arm in view.arms:
            found = [each for each in view.analysis.observations if (each.arm, each.size, each.tokens) == (arm, size, tokens)]
            good = [each.loss for each in found if math.isfinite(each.loss)]
            if not found:
                continue
            mean = sum(good) / len(good) if good else math.nan
            spread = max(good) - min(good) if good else math.nan
            by_seed = sorted(found, key=lambda each: each.seed)
            rows.append(
                (
                    arm_cell(view, arm),
                    Cell(size),
                    Cell(words.count(tokens)),
                    Cell(words.power(found[0].flops)),
                    Cell(words.loss(mean)),
                    Cell(words.loss(spread)),
                    Cell(
                        "",
                        links=tuple((_end(each), f"#{view.anchor_of(each)}", f"seed {each.seed}") for each in by_seed),
                    ),
                    Cell(f"{len(good)} of {len(found)}", tone="" if len(good) == len(found) else "bad"),
                )
            )
    columns = ("<arm", "<size", "tokens", "FLOPs", "mean loss", "largest minus smallest", "<seed by seed", "complete")
    return Table("Validation loss at the end of training, nats a token", columns, tuple(rows))


def _end(observation: Observation) -> str:
    return words.loss(observation.loss) if math.isfinite(observation.loss) else "none"


def chosen(view: View) -> Table | None:
    """What tuning chose, and how many trials it took."""
    if not any(tuning.trials(view, arm) for arm in view.arms):
        return None
    rows = []
    for arm in view.arms:
        choice, cells = view.choice(arm), tuning.cells(view, arm)
        finite = {rate: loss for rate, runs in cells.items() if math.isfinite(loss := tuning.mean_loss(runs))}
        best = min(finite, key=lambda rate: finite[rate]) if finite else None
        href = f"#{cells[best][0].anchor}" if best is not None else ""
        rows.append(
            (
                arm_cell(view, arm),
                Cell(words.rate(choice.learning_rate if choice else None), tone="strong"),
                Cell("own" if choice and choice.strength is None else words.rate(choice.strength if choice else None)),
                Cell(words.rate(best), href),
                Cell(words.loss(finite[best]) if best is not None else words.DASH, href),
                Cell(f"{len(view.of(arm, 'tune'))}"),
                Cell(f"{len(view.of(arm, 'further'))}"),
                Cell(f"{tuning.trials(view, arm)}", tone="strong"),
            )
        )
    columns = ("<arm", "chosen rate", "chosen lambda", "best at own lambda", "its loss", "on the grid", "further", "trials")
    return Table("What tuning chose, and after how many trials", columns, tuple(rows))


def checked(view: View) -> Table | None:
    """The learning rate's transfer: the largest size at other rates."""
    rows = [
        (
            arm_cell(view, arm),
            Cell(each.run.size),
            Cell(words.rate(each.run.trial.learning_rate if each.run.trial else None)),
            Cell(words.rate(each.factor)),
            _loss_cell(each.run),
            Cell(words.difference(each.difference), tone="bad" if each.difference < 0 else ""),
        )
        for arm in view.arms
        for each in transfer.checked(view, arm)
    ]
    columns = ("<arm", "<size", "learning rate", "times the transferred", "loss", "above the transferred rate's")
    return (
        Table("Whether the learning rate transferred to the largest size: red where another was better", columns, tuple(rows))
        if rows
        else None
    )


def strengths(view: View) -> Table | None:
    """Trials of lambda."""
    rows = [
        (
            arm_cell(view, arm),
            Cell(f"{words.rate(strength)}{' (its own)' if run.trial and run.trial.strength is None else ''}"),
            Cell(words.rate(run.found(REALISED))),
            Cell(words.rate(run.trial.learning_rate if run.trial else None)),
            _loss_cell(run),
        )
        for arm in view.arms
        for strength, runs in tuning.strengths_and_own(view, arm).items()
        for run in runs
    ]
    columns = ("<arm", "lambda", "realised sigma / lambda", "learning rate", "loss")
    return Table("Trials of lambda", columns, tuple(rows)) if rows else None


def costs(view: View) -> Table | None:
    """Median throughput and memory of every arm at every size."""
    if cost.lacks(view):
        return None
    rows = []
    for size in view.sizes:
        for arm in view.arms:
            speed, share = (cost.middle(view, arm, size, name) for name in (cost.SPEED, "norm_share"))
            if view.of(arm, "main"):
                rows.append(
                    (
                        arm_cell(view, arm),
                        Cell(size),
                        Cell(words.count(speed)),
                        Cell(words.memory(cost.middle(view, arm, size, cost.MEMORY))),
                        Cell(words.percent(share).removeprefix("+")),
                    )
                )
    return Table(
        "Medians over runs", ("<arm", "<size", "tokens a second", "peak memory a rank", "norms' share of a step"), tuple(rows)
    )


def stabilities(view: View) -> Table | None:
    """What went wrong in an arm's runs of all stages, or nearly did."""
    if not view.entries:
        return None
    rows = []
    for arm in view.arms:
        runs = view.of(arm)
        ended = {status: sum(run.status == status for run in runs) for status in ("complete", "diverged", "failed")}
        figures = {name: _known(runs, name) for name in ("spikes", "skipped_steps", stability.MEDIAN, stability.MAXIMUM)}
        rows.append(
            (
                arm_cell(view, arm),
                Cell(f"{ended['complete']}"),
                *(Cell(f"{ended[status]}", tone="bad" if ended[status] else "") for status in ("diverged", "failed")),
                Cell(f"{sum(figures['spikes']):.0f}" if figures["spikes"] else words.DASH),
                Cell(f"{sum(figures['skipped_steps']):.0f}" if figures["skipped_steps"] else words.DASH),
                Cell(words.rate(median(figures[stability.MEDIAN])) if figures[stability.MEDIAN] else words.DASH),
                Cell(words.rate(max(figures[stability.MAXIMUM])) if figures[stability.MAXIMUM] else words.DASH),
            )
        )
    columns = (
        "<arm",
        "complete",
        "diverged",
        "failed",
        "spikes",
        "skipped steps",
        "median gradient norm",
        "largest gradient norm",
    )
    return Table("Runs of all stages", columns, tuple(rows))


def _known(runs: Sequence[Run], name: str) -> list[float]:
    return [value for run in runs if math.isfinite(value := run.found(name))]


def failures(view: View) -> Table | None:
    """Every run that diverged or failed, and why."""
    rows = tuple(
        (
            replace(arm_cell(view, run.arm), href=f"#{run.anchor}", title=run.title),
            Cell(run.size),
            Cell(f"{run.seed}"),
            Cell(words.rate(run.trial.learning_rate if run.trial else None)),
            Cell(run.status, tone="bad"),
            Cell(run.reason or "no reason is recorded", tone="wrap"),
        )
        for run in view.runs
        if run.status != "complete"
    )
    columns = ("<arm", "<size", "seed", "learning rate", "<end", "<reason")
    return Table("Runs without a loss", columns, rows) if rows else None


def _loss_cell(run: Run) -> Cell:
    if run.status == "complete":
        return Cell(words.loss(run.loss), f"#{run.anchor}", run.title)
    return Cell(run.status, f"#{run.anchor}", run.reason, "bad")


def runs_of(view: View, arm: str) -> Iterator[Run]:
    """An arm's rows in the table of runs: by stage, size, length, seed and rate."""
    order = {"tune": 0, "further": 1, "main": 2, "check": 3}
    sizes = list(view.sizes)
    yield from sorted(
        (run for run in view.runs if run.arm == arm),
        key=lambda run: (
            order[run.stage],
            sizes.index(run.size),
            run.tokens,
            run.seed,
            run.trial.learning_rate if run.trial else 0.0,
            not run.superseded,
        ),
    )
