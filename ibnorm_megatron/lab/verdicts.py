"""What can be said of an arm: a level and a sentence with its interval. The rules are those of :func:`give_verdicts`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .pairing import Table, slowdown
from .results import Estimate, Level, Multiplier, Paired, Verdict

#: Below it a difference, its change with compute, or its being within the margin is claimed.
ALPHA = 0.05


def give_verdicts(
    table: Table, multipliers: Sequence[Multiplier], pairs: Sequence[Paired], control: str | None, equivalence: float
) -> tuple[Verdict, ...]:
    """A verdict for every arm but the baseline.

    ``failed``: it has no pair with the baseline, or half or more of the baseline's runs have no counterpart of its own.
    ``equivalent``: both one-sided tests at 5 % put its multiplier within the margin (where there is no surface nothing is
    equivalent, since a margin in compute is worth an unknown loss). A difference within the margin that is surely not zero is
    still none: that is what the margin says. ``better``, ``worse``: p after Holm's correction below 5 %, and the sign. Of the
    multiplier where there is a surface, else of the paired differences. The control's p is not corrected, so that it is easily
    seen to differ. ``undecided``: all else. An arm that lost runs which the baseline did not is neither better nor equivalent,
    whatever the others show; it can be worse.

    Levels are by compute. Where seconds are known the sentence goes on with the clock, and says so if an arm wins by one and
    loses by the other.
    """
    of_multiplier = {one.arm: one for one in multipliers}
    overall = {one.arm: one for one in pairs if one.size is None}
    return tuple(
        _verdict(table, arm, of_multiplier.get(arm), overall.get(arm), "p" if arm == control else "Holm p", equivalence)
        for arm in table.arms[1:]
    )


def _verdict(table: Table, arm: str, gain: Multiplier | None, pair: Paired | None, named: str, equivalence: float) -> Verdict:
    lost, of = len(table.lost(arm)), len(table.good[table.arms[0]])
    if pair is None or 2 * lost >= of:
        return Verdict(arm, "failed", f"{arm} failed: {_lost(table, arm)}.")
    better, p, p_equivalent = (
        (gain.mean.value > 1, gain.p_holm, gain.p_equivalent) if gain else (pair.by_t.value < 0, pair.p_holm, math.nan)
    )
    level: Level = "undecided"
    if p_equivalent < ALPHA:
        level = "equivalent"
    elif p < ALPHA:
        level = "better" if better else "worse"
    blocked = lost > 0 and level in ("better", "equivalent")
    sentence = _by_compute(table, gain, level, named, equivalence) if gain else _by_loss(table, pair, level, named)
    if blocked:
        sentence += f"; but {_lost(table, arm)}, so this is not decided"
        level = "undecided"
    elif lost:
        sentence += f"; {_lost(table, arm)}"
    further = [_by_clock(gain)] if gain and gain.in_seconds else []
    if not gain and (slower := slowdown(table, arm)):
        further.append(_takes(slower))
    if gain and gain.p_u1 < ALPHA and math.isfinite(gain.u1.low):
        further.append(_by_size(gain))
    return Verdict(arm, level, ". ".join([sentence, *further]) + ".")


def _by_compute(table: Table, gain: Multiplier, level: Level, named: str, equivalence: float) -> str:
    arm, baseline = gain.arm, table.arms[0]
    up_to = f"up to {_flops(max(one.flops for one in gain.at if not one.extrapolated))} FLOPs"
    if level == "equivalent":
        return (
            f"{arm} is equivalent to {baseline} within {_percent(equivalence)} of compute: it needs {_amount(gain.mean)} "
            f"({_range(gain.mean)}; TOST p {_p(gain.p_equivalent)}) {up_to}"
        )
    what = f"{_amount(gain.mean)} ({_range(gain.mean)}; {named} {_p(gain.p_holm)}) {up_to}"
    if level == "undecided":
        return f"No difference of {arm} from {baseline} can be claimed: it reaches its loss with {what}"
    return f"{arm} reaches {baseline}'s loss with {what}"


def _by_loss(table: Table, pair: Paired, level: Level, named: str) -> str:
    """Without a surface: in nats."""
    low, high, way = pair.by_t.low, pair.by_t.high, "lower" if pair.by_t.value < 0 else "higher"
    if math.isinf(low):
        span = "unbounded, since there is one seed of one size"
    elif low * high > 0:
        span = "{:.4f} to {:.4f}".format(*sorted((abs(low), abs(high))))
    else:
        span = f"{-low:.4f} lower to {high:.4f} higher"
    rest = f"(95 % interval {span}; {named} {_p(pair.p_holm)}; {pair.pairs} pairs)"
    loss = f"loss is {abs(pair.by_t.value):.4f} nats {way} than {table.arms[0]}'s {rest}"
    if level == "undecided":
        return f"No difference of {pair.arm} from {table.arms[0]} can be claimed: its {loss}"
    return f"{pair.arm}'s {loss}"


def _takes(slower: Estimate) -> str:
    return f"A step takes {_percent(abs(slower.value - 1))} {'more' if slower.value >= 1 else 'less'} time"


def _by_clock(gain: Multiplier) -> str:
    slower, clock = gain.slowdown, gain.in_seconds
    assert slower and clock
    takes, needs = _takes(slower), f"it needs {_amount(clock, 'time')} ({_range(clock)})"
    if clock.high < 1 and gain.p_holm < ALPHA and gain.mean.value > 1:
        return f"{takes}, and so it loses by the clock what it wins by compute: {needs}"
    if clock.low > 1 and gain.p_holm < ALPHA and gain.mean.value < 1:
        return f"{takes}, and so it wins by the clock: {needs}"
    if clock.low > 1 or clock.high < 1:
        return f"{takes}; by the clock {needs}"
    return f"{takes}; by the clock no difference can be claimed: {_amount(clock, 'time')} ({_range(clock)})"


def _by_size(gain: Multiplier) -> str:
    seen = [one for one in gain.at if not one.extrapolated]
    first, last = seen[0], seen[-1]
    return (
        f"This changes with compute (p {_p(gain.p_u1)}): {_amount(first.multiplier)} at {_flops(first.flops)} FLOPs, "
        f"{_amount(last.multiplier)} at {_flops(last.flops)}"
    )


def _lost(table: Table, arm: str) -> str:
    """How many of its runs are not there, and where."""
    lost, of = table.lost(arm), len(table.good[table.arms[0]])
    where = ", ".join(f"size {size} x {horizon:g} tokens a parameter, seed {seed}" for size, horizon, seed in lost[:3])
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return f"{len(lost)} of its {of} ends of training have no loss ({where}{more})"


def _amount(multiplier: Estimate, of: str = "compute") -> str:
    value = multiplier.value
    return f"{_percent(abs(_saved(value)))} {'less' if value > 1 else 'more'} {of}"


def _range(multiplier: Estimate) -> str:
    """The 95 % interval, in the direction of the value where it does not hold 0."""
    low, high = sorted(_saved(end) for end in (multiplier.low, multiplier.high))
    if low > 0 or high < 0:
        near, far = sorted((abs(low), abs(high)))
        return f"95 % interval {_number(near)} to {_number(far)}"
    return f"95 % interval {_number(-low)} more to {_number(high)} less"


def _saved(multiplier: float) -> float:
    """The share of compute that is not needed, negative where more is: what is needed is 1 / m of the baseline's."""
    return 1 - 1 / multiplier if multiplier > 0 else -math.inf


def _number(share: float) -> str:
    percent = 100 * share
    return "unbounded" if math.isinf(percent) else f"{percent:.1f}" if percent < 100 else f"{percent:.0f}"


def _percent(share: float) -> str:
    return f"{_number(share)} %"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"


def _flops(flops: float) -> str:
    return f"{flops:.1e}".replace("e+", "e").replace(".0e", "e")
