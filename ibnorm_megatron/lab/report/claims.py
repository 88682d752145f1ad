"""What the study supports, at which level, and what it says nothing about. The words are fixed: see :data:`VOCABULARY`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..results import Level, Observation
from ..verdicts import changes
from . import words
from .view import View

#: What the words mean, in the order of the card.
VOCABULARY: Mapping[Level, str] = MappingProxyType(
    {
        "better": "it reaches the baseline's loss with less compute: p below 5 % after Holm's correction over arms, and none "
        "of its runs lost. Where no surface can be fitted: its loss is lower, paired by seed",
        "worse": "the same the other way, and none of the baseline's runs lost that it has",
        "equivalent": "two one-sided tests at 5 % put it within the margin of equivalence, and no run of either is lost; a "
        "difference within the margin counts as none",
        "undecided": "all else: no difference is shown, and no equality either",
        "interim": "runs are still to come: what is seen so far, of which nothing is claimed",
        "failed": "no pair with the baseline, or half of its runs and more without a loss",
    }
)
GLYPHS: Mapping[Level, str] = MappingProxyType(
    {"better": "+", "worse": words.MINUS, "equivalent": "=", "undecided": "?", "interim": "\u2026", "failed": "!"}
)


@dataclass(frozen=True)
class Claim:
    """An arm's line on the card."""

    arm: str
    level: Level
    supported: bool
    evidence: tuple[str, ...]


def claims(view: View) -> list[Claim]:
    """One claim an arm, the supported ones first."""
    made = [
        Claim(verdict.arm, verdict.level, verdict.level in ("better", "worse", "equivalent"), _evidence(view, verdict.arm))
        for verdict in view.analysis.verdicts
    ]
    return sorted(made, key=lambda claim: list(VOCABULARY).index(claim.level))


def _evidence(view: View, arm: str) -> tuple[str, ...]:
    found, pair = view.multiplier(arm), view.together(arm)
    lines = []
    said = "p" if arm == view.analysis.control else "Holm p"
    if found:
        p = f"{said} {words.p_value(found.p_holm)}{_tost(found.p_equivalent)}"
        lines.append(f"compute multiplier {words.multiplier(found.mean)}, {p}")
        change = f"{said} {words.p_value(found.p_u1_holm)}"
        lines.append(f"{'its change with compute is shown' if changes(found) else 'no change with compute is shown'}, {change}")
        if found.in_seconds:
            lines.append(f"by wall-clock {words.multiplier(found.in_seconds)}, {said} {words.p_value(found.p_seconds_holm)}")
    if pair:
        value, pairs = words.with_interval(pair.by_t, sign=True), words.plural(pair.pairs, "pair")
        lines.append(f"paired loss {value} nats, {pairs}, {said} {words.p_value(pair.p_holm)}{_tost(pair.p_equivalent)}")
    waiting, asked = (sum(each.arm == arm for each in some) for some in (view.analysis.pending, _asked(view)))
    if waiting:
        lines.append(f"{asked - waiting} of {words.plural(asked, 'end')} of training are there yet")
    lost = [run for run in view.of(arm, "main") if run.status != "complete"]
    if lost:
        ends = words.listing(sorted({run.status for run in lost}))
        lines.append(f"{words.plural(len(lost), 'run')} of {len(view.of(arm, 'main'))} {ends}")
    return tuple(lines)


def _asked(view: View) -> tuple[Observation, ...]:
    """All ends of training, those that are still to come too."""
    return (*view.analysis.observations, *view.analysis.pending)


def _tost(p: float) -> str:
    return f", TOST p {words.p_value(p)}" if math.isfinite(p) else ""


def silent(view: View) -> list[str]:
    """What the study cannot say, from what it has tried."""
    seen = [each for each in view.analysis.observations if math.isfinite(each.loss)]
    found = []
    if seen:
        parameters, flops = max(each.parameters for each in seen), max(each.flops for each in seen)
        sizes = words.plural(len({each.size for each in seen}), "size")
        found.append(
            f"Beyond {words.count(parameters)} parameters and {words.power(flops)} FLOPs: {sizes} were trained, and "
            "everything further is an extrapolation of the fitted surface."
        )
        low, high = min(each.horizon for each in seen), max(each.horizon for each in seen)
        lengths = f"{low:.3g}" if math.isclose(low, high, rel_tol=0.05) else f"{low:.3g} to {high:.3g}"
        found.append(f"At other lengths of training than {lengths} tokens a parameter.")
        seeds = len({each.seed for each in seen})
        found.append(f"Of rare events, such as a divergence in one run of a hundred: a cell has {words.plural(seeds, 'seed')}.")
    data = sorted({str(entry.matching["data"]) for entry in view.entries if entry.matching.get("data")})
    seen_data = f" than {words.listing(data)}" if data else ""
    found.append(f"On other data{seen_data}, other tokenizers, other architectures, or of tasks behind the loss.")
    rates = sorted({run.trial.learning_rate for run in view.runs if run.trial and run.stage in ("tune", "further")})
    found.append(
        f"With other tuning: learning rates were {words.rate(rates[0])} to {words.rate(rates[-1])}, and every other "
        "hyper-parameter was the same in all arms."
        if rates
        else "With other tuning: what was tuned, and how, is not recorded here."
    )
    if any(each.slowdown for each in view.analysis.multipliers) or view.entries:
        found.append("What a step costs on other hardware, at other shapes, or with other kernels.")
    return found
