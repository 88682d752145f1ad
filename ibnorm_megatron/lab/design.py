"""What a study trains next, as a function of what its ledger says: no clock, no file, no random number.

    tune      every arm x learning rate of the grid x tuning seed, at the tuned size and horizon. While any arm's best rate is
              at an end of the grid, the grid grows there by one rate in its ratio, in all arms alike.
    further   as many trials in every arm: its lambdas at its best rate, and rates between the grid's around its best.
    main      every arm x size x seed at the arm's choice: a trunk of the longest horizon, and a branch for each shorter one.
    check     every arm at the largest size and shortest horizon, at the transferred rate times each check factor.

The choice is the lowest mean validation loss over tuning seeds; a run that diverged lost to all others. A check runs from the
beginning to the shortest horizon: that is the cheapest, and the run at the transferred rate itself is there already, as the
main stage's branch, which is bit for bit what a run from the beginning gives. It tells whether the rate transferred with size,
at the horizon that it was tuned for, and nothing of longer ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import Problem, RunFailure
from .fairness import further_trials
from .trials import Entry, Stage, Trial

if TYPE_CHECKING:
    from .study import Study, TuningConfig


@dataclass(frozen=True)
class Tried:
    """A setting that was tried, and its validation losses in the order of tuning seeds; infinite where the run diverged."""

    stage: Stage
    learning_rate: float
    strength: float | None
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over seeds."""
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Choice:
    """An arm's setting at the tuned size, and the table that it is the best of.

    Attributes:
        strength: lambda, None for the norm's own.
        tried: every setting, the grid's first; empty where the study tunes nothing.
        at_edge: the best of the grid is at its end.
    """

    learning_rate: float
    strength: float | None
    tried: tuple[Tried, ...] = ()
    at_edge: bool = False


@dataclass(frozen=True)
class Due:
    """What is to be trained now, and what is known so far.

    Attributes:
        stage: of the first of ``trials``, or the last one where nothing is due.
        trials: in order. Those that run already are among them: only their end is known here.
        choices: by arm, once its tuning is over.
        finished: nothing is left to run, now or later.
        total_estimate: trials of the whole study, as far as it can be told now.
        lost: trials of the main and check stages that can never end with a loss for no reason of their own, and why.
        unfair: what came out unfair and was allowed: name and sentence.
    """

    stage: Stage
    trials: tuple[Trial, ...]
    choices: dict[str, Choice]
    finished: bool
    total_estimate: int
    lost: tuple[tuple[Trial, str], ...] = ()
    unfair: tuple[tuple[str, str], ...] = ()


@dataclass
class _Ledger:
    """What the ledger says of single trials."""

    study: Study
    entries: Sequence[Entry]
    latest: dict[str, Entry] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            self.latest[entry.key] = entry
            self.failures[entry.key] = self.failures.get(entry.key, 0) + (entry.status == "failed")

    def entry(self, trial: Trial) -> Entry | None:
        return self.latest.get(self.study.key(trial))

    def loss(self, trial: Trial) -> float | None:
        """Of a trial that has a result: infinite where it diverged."""
        entry = self.entry(trial)
        if entry is None or entry.status == "failed":
            return None
        return entry.loss if entry.status == "complete" and entry.loss is not None else math.inf

    def given_up(self, trial: Trial) -> Entry | None:
        """The entry of a trial that failed as often as it may."""
        entry = self.entry(trial)
        tried = self.failures.get(entry.key, 0) if entry else 0
        attempts = self.study.config.launcher.attempts
        return entry if entry is not None and entry.status == "failed" and tried >= attempts else None

    def open(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that are to run: without a result, and not given up."""
        return [trial for trial in trials if self.loss(trial) is None and self.given_up(trial) is None]


def due(study: Study, entries: Sequence[Entry]) -> Due:
    """The trials that are to run now.

    Args:
        study: what is asked.
        entries: the ledger, the oldest first; of several with a key the last counts, and failures are counted.

    Raises:
        RunFailure: the study cannot go on: an arm's best learning rate is at the end of a grid that may not grow further, and
            ``allow`` does not name edge; or a trial without which nobody can choose failed as often as it may.
    """
    ledger = _Ledger(study, entries)
    tuning = _tuning(study, ledger)
    if tuning.trials:
        choices = dict.fromkeys(study.config.arms, Choice(middle_rate(study), None))
        rest = len(main_trials(study, choices)) + len(check_trials(study, choices))
        return Due(tuning.trials[0].stage, tuple(tuning.trials), {}, False, tuning.total + rest)
    choices = tuning.choices
    main, check = main_trials(study, choices), check_trials(study, choices)
    now, waiting, lost = _ready(study, ledger, main)
    now += ledger.open(check)
    for trial in (*main, *check):
        if entry := ledger.given_up(trial):
            lost.append((trial, f"it failed {ledger.failures[entry.key]} times, at last: {entry.reason}"))
    stage: Stage = now[0].stage if now else "check" if check and not waiting else "main"
    ways = tuple(("edge", _edge(arm, choice)) for arm, choice in choices.items() if choice.at_edge)
    finished, total = not now and not waiting, tuning.total + len(main) + len(check)
    return Due(stage, tuple(now), choices, finished, total, tuple(lost), ways)


def expected(study: Study) -> list[Trial]:
    """Every trial of a study before anything is known: the grid as given, and its middle in place of every choice."""
    middle = middle_rate(study)
    choices = dict.fromkeys(study.config.arms, Choice(middle, None))
    if study.config.tuning is None:
        return main_trials(study, choices) + check_trials(study, choices)
    rates = list(study.config.tuning.learning_rates)
    flat = [Tried("tune", rate, None, (abs(math.log(rate / middle)),)) for rate in rates]
    further = [trial for arm in study.config.arms for trial in _further(study, arm, flat)]
    return _grid_trials(study, rates) + further + main_trials(study, choices) + check_trials(study, choices)


def main_trials(study: Study, choices: dict[str, Choice]) -> list[Trial]:
    """Every arm at every size, seed and horizon. One seed after the other, so that a study that is cut short has whole ones;
    the largest size first, which keeps the last hour busy with short runs; every trunk before its branches."""
    *shorter, longest = sorted(study.config.horizons)
    trials = []
    for seed in study.config.seeds:
        for size in reversed(study.config.sizes):
            trunks = []
            for arm, choice in choices.items():
                rate = study.learning_rate(choice.learning_rate, size)
                trunks.append(Trial("main", arm, size, seed, rate, choice.strength, longest, tuple(shorter)))
            trials += trunks
            trials += [replace(trunk, horizon=h, branches=(), trunk=longest) for h in shorter for trunk in trunks]
    return trials


def check_trials(study: Study, choices: dict[str, Choice]) -> list[Trial]:
    """Every arm at the largest size, at other rates than the transferred one; none where nothing was transferred."""
    transfer, size = study.config.transfer, study.largest_size
    if size == study.tuned_size:
        return []
    trials = []
    for seed in transfer.check_seeds:
        for arm, choice in choices.items():
            for factor in transfer.check_factors:
                rate = _rounded(factor * study.learning_rate(choice.learning_rate, size))
                trials.append(Trial("check", arm, size, seed, rate, choice.strength, min(study.config.horizons)))
    return trials


@dataclass
class _Tuning:
    """What tuning still needs, or what it found; ``total`` counts all its trials."""

    trials: list[Trial]
    choices: dict[str, Choice]
    total: int


def _tuning(study: Study, ledger: _Ledger) -> _Tuning:
    tuning = study.config.tuning
    if tuning is None:
        own = {arm: study.configs[arm, study.tuned_size, None].train.lr for arm in study.config.arms}
        return _Tuning([], {arm: Choice(rate, None) for arm, rate in own.items()}, 0)
    rates, grids = _grid(study, ledger, tuning)
    grid = _grid_trials(study, rates)
    counts = further_trials(study.config)
    total = len(grid) + sum(counts.values()) * len(tuning.seeds)
    if grids is None:
        return _Tuning(_needed(study, ledger, grid), {}, total)
    edges = {arm: len(rates) > 1 and _best(tried) in (0, len(rates) - 1) for arm, tried in grids.items()}
    for arm, at_edge in edges.items():
        if at_edge and "edge" not in study.config.allow:
            raise _stuck_at_the_edge(arm, grids[arm], tuning)
    further = {arm: _further(study, arm, tried) for arm, tried in grids.items()}
    assert all(len(trials) == counts[arm] * len(tuning.seeds) for arm, trials in further.items())
    everything = [trial for trials in further.values() for trial in trials]
    if wanted := _needed(study, ledger, everything):
        return _Tuning(wanted, {}, total)
    choices = {}
    for arm, tried in grids.items():
        table = [*tried, *_tables(ledger, further[arm], len(tuning.seeds))]
        best = min(table, key=lambda each: each.loss)
        choices[arm] = Choice(best.learning_rate, best.strength, tuple(table), edges[arm])
    return _Tuning([], choices, total)


def _grid(study: Study, ledger: _Ledger, tuning: TuningConfig) -> tuple[list[float], dict[str, list[Tried]] | None]:
    """The grid as far as it has grown, and what every arm found on it; None where some of that is not known yet."""
    rates = list(tuning.learning_rates)
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1)) if len(rates) > 1 else 1.0
    for extension in range(tuning.extensions + 1):
        trials = _grid_trials(study, rates)
        if any(ledger.loss(trial) is None for trial in trials):
            return rates, None
        of_arm = {arm: [trial for trial in trials if trial.arm == arm] for arm in study.config.arms}
        grids = {arm: _tables(ledger, of_arm[arm], len(tuning.seeds)) for arm in study.config.arms}
        bests = {_best(tried) for tried in grids.values()}
        low, high = 0 in bests, len(rates) - 1 in bests
        if extension == tuning.extensions or len(rates) == 1 or not (low or high):
            break
        rates = [*([_rounded(rates[0] / ratio)] if low else []), *rates, *([_rounded(rates[-1] * ratio)] if high else [])]
    return rates, grids


def _grid_trials(study: Study, rates: Sequence[float]) -> list[Trial]:
    """Every arm at every rate and tuning seed, seeds innermost."""
    assert study.config.tuning is not None
    where, horizon = study.tuned_size, study.tuned_horizon
    return [
        Trial("tune", arm, where, seed, rate, None, horizon)
        for arm in study.config.arms
        for rate in rates
        for seed in study.config.tuning.seeds
    ]


def _further(study: Study, arm: str, grid: Sequence[Tried]) -> list[Trial]:
    """An arm's trials after the grid: its lambdas at its best rate, then rates between, seeds innermost."""
    assert study.config.tuning is not None
    best, lambdas = grid[_best(grid)], study.config.arms[arm].lambdas
    rates = _between(grid, further_trials(study.config)[arm] - len(lambdas))
    settings = [*((best.learning_rate, strength) for strength in lambdas), *((rate, None) for rate in rates)]
    return [
        Trial("further", arm, study.tuned_size, seed, rate, strength, study.tuned_horizon)
        for rate, strength in settings
        for seed in study.config.tuning.seeds
    ]


def _between(grid: Sequence[Tried], count: int) -> list[float]:
    """Rates between the best of the grid and its neighbours: equal geometric steps to both sides, nearest first, and of a
    pair the one toward the better neighbour first."""
    best = _best(grid)
    rates = [tried.learning_rate for tried in grid]
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1)) if len(rates) > 1 else 2.0
    below, above = (grid[i].loss if 0 <= i < len(grid) else math.inf for i in (best - 1, best + 1))
    signs = (1, -1) if above <= below else (-1, 1)
    each_side = math.ceil(count / 2)
    steps = [sign * step / (each_side + 1) for step in range(1, each_side + 1) for sign in signs]
    return [_rounded(rates[best] * ratio**step) for step in steps[:count]]


def _tables(ledger: _Ledger, trials: Sequence[Trial], seeds: int) -> list[Tried]:
    """Finished trials, whose seeds stand side by side, as settings."""
    found = []
    for first in range(0, len(trials), seeds):
        group = trials[first : first + seeds]
        losses = tuple(loss for trial in group if (loss := ledger.loss(trial)) is not None)
        assert len(losses) == seeds
        found.append(Tried(group[0].stage, group[0].learning_rate, group[0].strength, losses))
    return found


def _best(grid: Sequence[Tried]) -> int:
    """Place of the lowest loss, the lower rate of equals: where every rate diverged, the grid has to grow downward."""
    return min(range(len(grid)), key=lambda place: grid[place].loss)


def _needed(study: Study, ledger: _Ledger, trials: Sequence[Trial]) -> list[Trial]:
    """Those of tuning's trials that are to run.

    Raises:
        RunFailure: nothing can run, and one that failed for good is missing.
    """
    wanted = ledger.open(trials)
    if not wanted:
        for trial in trials:
            if entry := ledger.given_up(trial):
                why = f"it failed {ledger.failures[entry.key]} times, at last: {entry.reason}"
                mend = "mend that and raise launcher.attempts; no arm is chosen for without all trials of all arms"
                raise RunFailure(Problem("the trial", study.name(trial), why, mend))
    return wanted


def _ready(study: Study, ledger: _Ledger, main: Sequence[Trial]) -> tuple[list[Trial], list[Trial], list[tuple[Trial, str]]]:
    """Trials of the main stage that can run now, those that wait for their trunk, and those whose trunk never gets there."""
    now, waiting, lost = [], [], []
    for trial in ledger.open(main):
        trunk = study.trunk(trial)
        entry = ledger.entry(trunk) if trunk else None
        if trunk is None or (entry and entry.status == "complete"):
            now.append(trial)
        elif entry is None or (entry.status == "failed" and not ledger.given_up(trunk)):
            waiting.append(trial)
        elif entry.tokens > (needs := _branching_tokens(study, trial)):  # the step after the state was made, so it was saved
            now.append(trial)
        else:
            why = f"the run that it goes on from {entry.status} after {entry.tokens:,} of the {needs:,} tokens that it needs"
            lost.append((trial, f"{why}: {entry.reason}"))
    return now, waiting, lost


def _branching_tokens(study: Study, trial: Trial) -> int:
    recipe = study.recipes[trial.size]
    return recipe.decay_begins(trial.horizon) * recipe.batch_tokens


def middle_rate(study: Study) -> float:
    """The learning rate that stands for one that nobody has chosen yet: the middle of the grid, or the base config's own."""
    if study.config.tuning is None:
        return next(iter(study.configs.values())).train.lr
    rates = study.config.tuning.learning_rates
    return rates[len(rates) // 2]


def _edge(arm: str, choice: Choice) -> str:
    grid = [tried for tried in choice.tried if tried.stage == "tune"]
    best = grid[_best(grid)].learning_rate
    ends = f"{grid[0].learning_rate:g} to {grid[-1].learning_rate:g}"
    return f"the best learning rate of {arm}, {best:g}, is at the end of its grid from {ends}, so a better one may lie beyond"


def _stuck_at_the_edge(arm: str, grid: Sequence[Tried], tuning: TuningConfig) -> RunFailure:
    losses = ", ".join(f"{tried.learning_rate:g}: {tried.loss:.4f}" for tried in grid)
    best = grid[_best(grid)]
    what = f"{best.learning_rate:g}" if math.isfinite(best.loss) else "none"
    why = f"it is at the end of the grid ({losses}), which has grown {tuning.extensions} times already"
    if not math.isfinite(best.loss):
        why = f"its runs diverged at all of them, {grid[0].learning_rate:g} to {grid[-1].learning_rate:g}"
    mend = "give further tuning.learning_rates or raise tuning.extensions; or name it in allow: [edge], and the report says so"
    return RunFailure(Problem(f"the best learning rate of {arm}", what, why, mend))


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")
