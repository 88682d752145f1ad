"""What a study will train, what that takes, and how small a gain it would find. Starts nothing of the study itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Problem
from .costs import Cost, Speeds, cost, makespan
from .design import expected, middle_rate
from .power import ENDS_CORRELATION, POWER, SEED_SD, cells_of, smallest_gain
from .rules import derivation
from .trials import Stage, Trial

if TYPE_CHECKING:
    from .study import Study

#: Passes over the same text up to which it is nearly as good as new (Muennighoff et al., arXiv 2305.16264).
_EPOCHS = 4

#: What runs between two times at which everything before has to have ended.
_PHASES: tuple[tuple[Stage, ...], ...] = (("tune",), ("further",), ("main", "check"))


@dataclass(frozen=True)
class Planned:
    """One run; ``tuned``: its learning rate is not known yet, nor is its key, and it has no folder's name."""

    name: str
    trial: Trial
    tuned: bool
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """All runs of a study with their costs.

    Attributes:
        seconds: until the last run has ended, ``at_once`` side by side, as far as that is known.
        seed_sd: standard deviation of a run's loss over seeds that ``smallest_gain`` assumes, nats.
        smallest_gain: the true gain in compute that 80 % of such studies find; 0.02 is 2 %.
        notes: what somebody should know before starting, a sentence each.
    """

    study: Study
    runs: tuple[Planned, ...]
    at_once: int
    seconds: float
    seed_sd: float
    smallest_gain: float
    notes: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Of all runs; what a branch shares with its trunk is counted once."""
        return sum(run.cost.flops for run in self.runs)

    def over_budget(self) -> Iterator[Problem]:
        """How the study takes more than its budget."""
        budget = self.study.config.budget
        mend = "raise it, or give fewer sizes, horizons, seeds, arms or learning rates"
        if budget.hours is not None and self.seconds > 3600 * budget.hours:
            why = f"the study takes about {self.seconds / 3600:.2g} hours, {self.at_once} at once"
            yield Problem("budget.hours", f"{budget.hours:g}", why, mend)
        if budget.flops is not None and self.flops > budget.flops:
            yield Problem("budget.flops", f"{budget.flops:.3g}", f"the study takes {self.flops:.3g}", mend)

    def summary(self) -> str:
        """What it is, in a line."""
        return (
            f"{self.study.config.name}: {len(self.runs)} runs, {self.flops:.3g} FLOPs, about {shown_seconds(self.seconds)} "
            f"with {self.at_once} at once; {self.effect()}"
        )

    def effect(self) -> str:
        """The smallest gain that it would find, in words."""
        if not math.isfinite(self.smallest_gain):
            return "no gain would be found with one training an arm, however large: nothing says what its loss varies by"
        return (
            f"a true gain of {100 * self.smallest_gain:.2g} % in compute would be found with {POWER:.0%} power, if the loss "
            f"of a run varies over seeds by {self.seed_sd:g} nats"
        )

    def derivations(self) -> dict[str, list[str]]:
        """The rules' numbers by size."""
        config = self.study.config
        found = {}
        for size, recipe in self.study.recipes.items():
            own = [self.study.tuned_horizon] if size == self.study.tuned_size else []
            horizons = sorted({*config.horizons, *own})
            found[size] = derivation(recipe, horizons, given=config.batch_tokens is not None)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.study.config.name,
            "runs": [
                {
                    "name": run.name,
                    "key": None if run.tuned else self.study.key(run.trial),
                    **asdict(run.trial),
                    "learning_rate": None if run.tuned else run.trial.learning_rate,
                    **asdict(run.cost),
                }
                for run in self.runs
            ],
            "flops": self.flops,
            "seconds": self.seconds,
            "at_once": self.at_once,
            "seed_sd": self.seed_sd,
            "smallest_gain": self.smallest_gain if math.isfinite(self.smallest_gain) else None,
            "power": POWER,
            "rules": self.derivations(),
            "unfair": dict(self.study.overridden),
            "notes": list(self.notes),
        }


def make_plan(study: Study, speeds: Speeds, at_once: int | None = None, seed_sd: float = SEED_SD) -> Plan:
    """The plan of a study before anything has run.

    Args:
        study: what is asked.
        speeds: by arm and size.
        at_once: runs side by side; the study's by default.
        seed_sd: of a run's loss, nats.
    """
    beside = at_once or study.config.launcher.at_once
    runs = [_planned(study, trial, speeds) for trial in expected(study)]
    phases = ([run.cost.seconds for run in runs if run.trial.stage in stages] for stages in _PHASES)
    seconds = sum(makespan(phase, beside) for phase in phases)
    gain = smallest_gain(cells_of(study), seed_sd)
    return Plan(study, tuple(runs), beside, seconds, seed_sd, gain, tuple(_notes(study)))


def _planned(study: Study, trial: Trial, speeds: Speeds) -> Planned:
    tuned = study.config.tuning is not None and trial.stage != "tune"
    strength = [] if trial.strength is None else [f"lambda{trial.strength:g}"]
    parts = [trial.stage, trial.arm, trial.size, f"{trial.horizon:g}tpp", *strength, f"seed{trial.seed}"]
    factor = trial.learning_rate / study.learning_rate(middle_rate(study), trial.size)
    if abs(factor - 1) > 1e-3:  # between those of the grid, or a check: so many times the best
        parts.append(f"x{factor:.3g}")
    return Planned("-".join(parts) if tuned else study.name(trial), trial, tuned, cost(study, trial, speeds))


def _notes(study: Study) -> Iterator[str]:
    config = study.config
    longest = max(study.recipes[size].tokens(max(config.horizons)) for size in config.sizes)
    epochs = longest / study.prepared.tokens("train")
    if epochs > _EPOCHS:
        yield (
            f"The longest run passes {epochs:.1f} times over the training text; beyond {_EPOCHS} it learns less of it, so the "
            "loss is not that of so many tokens: prepare more text."
        )
    if config.tuning:
        most = config.tuning.extensions * len(config.arms) * len(config.tuning.seeds)
        if most and len(config.tuning.learning_rates) > 1:
            yield (
                f"Where a best learning rate is at an end of the grid, up to {most} more runs are made for each end, as long "
                "as those of the grid."
            )
        if shared := sorted(set(config.tuning.seeds) & set(config.seeds)):
            yield (
                f"Seed {', '.join(map(str, shared))} is used for tuning and for the comparison: the chosen setting is the one "
                "that suited it. Other tuning.seeds cost the same."
            )
    yield (
        f"The gain that would be found assumes the Chinchilla surface, scaled to this data, arms of a seed correlated by half "
        f"and ends of one training by {ENDS_CORRELATION:g}; multiply it by how much more your losses vary."
    )


def shown_seconds(seconds: float) -> str:
    """Time as somebody would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
