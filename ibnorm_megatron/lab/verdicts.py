"""What can be said of an arm: a level and a sentence with its interval. The rules are those of :func:`give_verdicts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import wording as say
from .pairing import Key, Table, slowdown
from .results import At, Estimate, Level, Multiplier, Paired, Verdict

#: Below it a difference, its change with compute, or its being within the margin is claimed.
ALPHA = 0.05


def give_verdicts(
    table: Table, multipliers: Sequence[Multiplier], pairs: Sequence[Paired], control: str | None, equivalence: float
) -> tuple[Verdict, ...]:
    """A verdict for every arm but the baseline.

    ``failed``: it has no run beside one of the baseline's, or lost half or more of those that the baseline has.
    ``interim``: a run of any arm is pending. What is seen is told and nothing is claimed: whoever looks again and again, and
    stops when it looks good, finds differences that are not there far more often than in 5 % (Armitage, McPherson and Rowe,
    J. R. Stat. Soc. A 132, 1969). All arms wait for all, since they share a surface and Holm's correction.
    ``equivalent``: both one-sided tests at 5 % put its multiplier within the margin (where there is no surface nothing is
    equivalent, since a margin in compute is worth an unknown loss), and where the multiplier changes with compute its intervals
    at both ends of the compute that was run lie within it. A difference within the margin that is surely not zero is
    still none: that is what the margin says. ``better``, ``worse``: p after Holm's correction below 5 %, and the sign. Of the
    multiplier where there is one with an interval, else of the paired differences. One that changes with compute and has
    different signs at the two ends is neither. ``undecided``: all else. The control's p are not corrected, so that it is easily
    seen to differ.

    What runs that are lost would have shown nobody knows, and those that are left flatter whoever lost them. So an arm that
    lost runs which the baseline did not is neither better nor equivalent, whatever the others show, and can be worse; where the
    baseline lost runs which the arm did not, the arm is neither worse nor equivalent, and can be better; and where the baseline
    lost half or more of them, nothing is decided.

    Losses that were rounded show nothing of differences below the step they were rounded to, and where that is more than the
    margin is worth, no equivalence.

    Levels are by compute. Where seconds are known the sentence goes on with the clock, and says so if an arm wins by one and
    loses by the other.
    """
    of_multiplier = {one.arm: one for one in multipliers if math.isfinite(one.mean.low) and math.isfinite(one.mean.high)}
    overall = {one.arm: one for one in pairs if one.size is None}
    return tuple(
        _Arm(table, arm, of_multiplier.get(arm), overall.get(arm), arm == control, equivalence).verdict
        for arm in table.arms[1:]
    )


def changes(gain: Multiplier) -> bool:
    """Whether it is claimed that a multiplier changes with compute."""
    return gain.p_u1_holm < ALPHA and math.isfinite(gain.u1.low)


@dataclass(frozen=True)
class _Arm:
    """All that a verdict needs."""

    table: Table
    arm: str
    gain: Multiplier | None
    pair: Paired | None
    is_control: bool
    equivalence: float

    @property
    def verdict(self) -> Verdict:
        arm = self.arm
        lost, missed, pairs, awaited = (
            len(keys(arm)) for keys in (self.table.lost, self.table.missed, self.table.pairs, self.table.awaited)
        )
        if lost and 2 * lost >= pairs + lost + awaited and (pairs or awaited or not missed):
            return Verdict(arm, "failed", f"{arm} failed: {self._lost()}.")
        if self.table.open:
            return Verdict(arm, "interim", self._interim(pairs, awaited))
        if not pairs and not missed:
            return Verdict(arm, "failed", f"{arm} failed: none of its runs has a loss.")
        if self.pair is None or 2 * missed >= pairs + missed:
            return Verdict(arm, "undecided", f"Nothing can be decided of {arm}: {self._missed()}.")
        level = self._level()
        sentence = self._difference(level)
        if blocked := (lost and level in ("better", "equivalent")) or (missed and level in ("worse", "equivalent")):
            level = "undecided"
        gaps = [gap for count, gap in ((lost, self._lost), (missed, self._missed)) if count]
        if gaps:
            ending = ", so this is not decided" if blocked else ""
            sentence += f"; {'but ' if blocked else ''}{' and '.join(gap() for gap in gaps)}{ending}"
        return Verdict(arm, level, ". ".join([sentence, *self._further()]) + ".")

    @property
    def _named(self) -> str:
        return "p" if self.is_control else "Holm p"

    def _level(self) -> Level:
        """By what is seen of pairs alone."""
        gain, pair, step = self.gain, self.pair, self.table.step
        assert pair
        if gain is None:
            known = pair.p_holm < ALPHA and not self._rounded_away
            return "undecided" if not known else "better" if pair.by_t.value < 0 else "worse"
        within = gain.p_equivalent < ALPHA and step <= pair.margin
        if changes(gain):
            within = within and all(map(self._is_within, _ends(gain)))
            if not within and not _is_one_way(gain):
                return "undecided"
        if within:
            return "equivalent"
        known = gain.p_holm < ALPHA and not self._rounded_away
        return "undecided" if not known else "better" if gain.mean.value > 1 else "worse"

    @property
    def _rounded_away(self) -> bool:
        """Whether the losses' rounding alone may be what is seen."""
        return self.pair is not None and abs(self.pair.by_t.value) <= self.table.step

    def _is_within(self, place: At) -> bool:
        return 1 / (1 + self.equivalence) < place.multiplier.low and place.multiplier.high < 1 + self.equivalence

    def _difference(self, level: Level) -> str:
        return self._by_compute(self.gain, level) if self.gain else self._by_loss(level)

    def _by_compute(self, gain: Multiplier, level: Level) -> str:
        arm, baseline = gain.arm, self.table.baseline
        up_to = f"on average up to {say.flops(_ends(gain)[1].flops)} FLOPs"
        if level == "equivalent":
            return (
                f"{arm} is equivalent to {baseline} within {say.margin(self.equivalence)} of compute: it needs "
                f"{say.amount(gain.mean)} ({say.interval(gain.mean)}; TOST p {say.p(gain.p_equivalent)}) {up_to}"
            )
        rest = f"({say.interval(gain.mean)}; {self._named} {say.p(gain.p_holm)}) {up_to}"
        what = f"{say.amount(gain.mean)} {rest}{_far(gain)}"
        if level != "undecided":
            return f"{arm} reaches {baseline}'s loss with {what}"
        if changes(gain) and not _is_one_way(gain):
            return f"Whether {arm} is better or worse than {baseline} depends on compute: it reaches its loss with {what}"
        return f"No difference of {arm} from {baseline} can be claimed: it reaches its loss with {what}"

    def _by_loss(self, level: Level) -> str:
        """Without a surface: in nats."""
        pair, baseline = self.pair, self.table.baseline
        assert pair
        rest = f"(95 % interval {say.span(pair.by_t)}; {self._named} {say.p(pair.p_holm)}; {say.pairs(pair.pairs)})"
        loss = f"loss is {say.difference(pair.by_t.value)} than {baseline}'s {rest}"
        if level == "undecided":
            return f"No difference of {pair.arm} from {baseline} can be claimed: its {loss}"
        return f"{pair.arm}'s {loss}"

    def _interim(self, pairs: int, awaited: int) -> str:
        """What is seen while something is pending, without any claim."""
        table, gain, pair, baseline = self.table, self.gain, self.pair, self.table.baseline
        of, runs = pairs + awaited + len(table.lost(self.arm)), sum(map(len, table.pending.values()))
        asked = sum(len(found[self.arm]) for found in (table.good, table.failed, table.pending))
        there = f"{asked - len(table.pending[self.arm])} of {asked} ends of training of {self.arm} are there yet"
        if pair is None:
            seen = f"Nothing can be seen of {self.arm} yet: none of its {of} ends of training stands beside one of {baseline}'s"
        elif gain:
            seen = f"So far {self.arm} reaches {baseline}'s loss with {say.amount(gain.mean)} ({say.interval(gain.mean)})"
        else:
            seen = (
                f"So far the loss of {self.arm} is {say.difference(pair.by_t.value)} than {baseline}'s "
                f"(95 % interval {say.span(pair.by_t)}; {say.pairs(pair.pairs)})"
            )
        gaps = [gap() for count, gap in ((table.lost(self.arm), self._lost), (table.missed(self.arm), self._missed)) if count]
        waits = f"{runs} {'is' if runs == 1 else 'are'} to come in the whole study"
        return f"{'; '.join([seen, *gaps])}. This is an interim look and not a verdict: {there}, and {waits}."

    def _further(self) -> list[str]:
        """Sentences on the clock, and on a gain that changes."""
        further = []
        if self.gain and self.gain.in_seconds and not self._rounded_away:
            further.append(self._by_clock(self.gain))
        elif slower := slowdown(self.table, self.arm):
            further.append(_takes(slower))
        if self.gain and changes(self.gain) and not self._rounded_away:
            further.append(self._by_size(self.gain))
        return further

    def _by_clock(self, gain: Multiplier) -> str:
        slower, clock = gain.slowdown, gain.in_seconds
        assert slower and clock
        more = f"{say.amount(clock, 'time')} ({say.interval(clock)}; {self._named} {say.p(gain.p_seconds_holm)})"
        takes, claimed = _takes(slower), gain.p_holm < ALPHA
        if gain.p_seconds_holm >= ALPHA:
            return f"{takes}; by the clock no difference can be claimed: {more}"
        if clock.value < 1 and claimed and gain.mean.value > 1:
            return f"{takes}, and so it loses by the clock what it wins by compute: it needs {more}"
        if clock.value > 1 and claimed and gain.mean.value < 1:
            return f"{takes}, and so it wins by the clock: it needs {more}"
        return f"{takes}; by the clock it needs {more}"

    def _by_size(self, gain: Multiplier) -> str:
        first, last = _ends(gain)
        return (
            f"This changes with compute ({self._named} {say.p(gain.p_u1_holm)}): {say.amount(first.multiplier)} at "
            f"{say.flops(first.flops)} FLOPs, {say.amount(last.multiplier)} at {say.flops(last.flops)}"
        )

    def _lost(self) -> str:
        """How many of the arm's runs are not there, and where."""
        lost, of = self.table.lost(self.arm), len(self.table.pairs(self.arm)) + len(self.table.awaited(self.arm))
        return f"{len(lost)} of its {of + len(lost)} ends of training have no loss ({_where(lost)})"

    def _missed(self) -> str:
        """How many of the baseline's runs are not there where the arm's are, and where."""
        missed, pairs = self.table.missed(self.arm), len(self.table.pairs(self.arm))
        if not pairs:
            return f"none of its runs with a loss has the size, tokens and seed of one of {self.table.baseline}'s with a loss"
        return (
            f"{self.table.baseline} has no loss at {len(missed)} of the {pairs + len(missed)} ends of training of {self.arm} "
            f"({_where(missed)})"
        )


def _ends(gain: Multiplier) -> tuple[At, At]:
    """The least and the most compute at which the arm was run beside the baseline, of those at which it is given."""
    seen = [one for one in gain.at if not one.extrapolated]
    return seen[0], seen[-1]


def _is_one_way(gain: Multiplier) -> bool:
    """Whether it is a gain, or a loss, at both ends of the compute that was run."""
    first, last = _ends(gain)
    return (first.multiplier.value > 1) == (last.multiplier.value > 1)


def _far(gain: Multiplier) -> str:
    """Where what an arm is worth is more than the whole range of compute, its size is an extrapolation."""
    first, last = _ends(gain)
    if max(gain.mean.value, 1 / gain.mean.value) > min(last.flops / first.flops, math.exp(4.9)):
        return ", which is more than the range of compute that was run, so that only its sign is known"
    return ""


def _takes(slower: Estimate) -> str:
    more = "more" if slower.value >= 1 else "less"
    return f"Training takes {say.percent(abs(slower.value - 1))} {more} time ({say.change(slower)})"


def _where(keys: Sequence[Key]) -> str:
    where = ", ".join(f"size {size} x {horizon:g} tokens a parameter, seed {seed}" for size, horizon, seed in keys[:3])
    return where + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
