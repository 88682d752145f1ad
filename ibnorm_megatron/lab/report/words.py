"""Numbers as a reader wants them: as many digits as they deserve, units in words, a dash where there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..results import Estimate

DASH = "–"
MINUS = "−"
THIN = "\u202f"  # a narrow space that does not break

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def is_number(value: float | None) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def signed(text: str) -> str:
    """A number's text with a real minus sign."""
    return text.replace("-", MINUS)


def loss(value: float | None, digits: int = 4) -> str:
    """Nats a token."""
    return signed(f"{value:.{digits}f}") if value is not None and math.isfinite(value) else DASH


def difference(value: float | None, digits: int = 4) -> str:
    """Nats a token with their sign."""
    if value is None or not math.isfinite(value):
        return DASH if value is None or math.isnan(value) else ("+∞" if value > 0 else f"{MINUS}∞")
    return signed(f"{value:+.{digits}f}")


def power(value: float, digits: int = 1) -> str:
    """3.0e15 as 3.0 × 10¹⁵."""
    if not is_number(value):
        return DASH
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    raised = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    if digits == 0 and mantissa in ("1", "-1"):
        return signed(mantissa.removesuffix("1")) + raised
    return f"{signed(mantissa)}{THIN}×{THIN}{raised}"


def count(value: float | None) -> str:
    """1234567 as 1.23 M."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit, letter in _LARGE:
        if abs(value) >= unit:
            return f"{value / unit:.3g}{THIN}{letter}" if value < 1000 * unit else f"{value / unit:,.0f}{THIN}{letter}"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A learning rate or lambda: few digits, no zeros behind."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else power(value, 1).replace(f".0{THIN}", THIN)


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit, word in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if value >= 2 * unit:
            return f"{value / unit:.1f}{THIN}{word}"
    return f"{value:.3g}{THIN}s"


def memory(value: float | None) -> str:
    """Bytes."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value / 2**30:.2f}{THIN}GiB" if value >= 2**30 else f"{value / 2**20:.0f}{THIN}MiB"


def p_value(value: float) -> str:
    """A probability: three decimals at most, and never 0."""
    if not is_number(value):
        return DASH
    return f"<{THIN}0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def percent(share: float, digits: int = 1) -> str:
    """0.031 as +3.1 %."""
    return signed(f"{100 * share:+.{digits}f}") + f"{THIN}%" if is_number(share) else DASH


def multiplier(estimate: Estimate | None) -> str:
    """A ratio and its interval: 1.031 (1.012 to 1.050)."""
    if estimate is None or not is_number(estimate.value):
        return DASH
    return f"{_ratio(estimate.value)} ({_ratio(estimate.low)} to {_ratio(estimate.high)})"


def _ratio(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return DASH if math.isnan(value) else f"{value:.3f}" if 1e-3 < value < 100 else f"{value:.2g}"


def with_interval(estimate: Estimate | None, digits: int = 4, *, sign: bool = False) -> str:
    """A number and its interval."""
    if estimate is None or not is_number(estimate.value):
        return DASH
    say = difference if sign else _plain
    return f"{say(estimate.value, digits)} ({say(estimate.low, digits)} to {say(estimate.high, digits)})"


def _plain(value: float, digits: int) -> str:
    return loss(value, digits) if not math.isinf(value) else difference(value)


def margin(share: float) -> str:
    """A share that somebody has chosen: 0.01 as 1 %."""
    return f"{100 * share:.3g}{THIN}%"


def typeset(sentence: str) -> str:
    """A sentence that was made for a terminal: minus signs, powers of ten, and no line that begins with a per cent sign."""
    sentence = re.sub(r"(?<![\w.-])(\d(?:\.\d+)?)e\+?(\d\d)(?!\w|\.\d)", lambda found: _raised(found[1], found[2]), sentence)
    sentence = re.sub(r"(?<=\w)\.\.(?=\s|$)", ".", sentence)  # a reason that was a sentence, at the end of one
    sentence = re.sub(r"(?<=\d) %", f"{THIN}%", sentence)
    sentence = re.sub(r"\bp (< )?(?=0\.)", lambda found: f"p{THIN}{'<' + THIN if found[1] else ''}", sentence)
    return re.sub(r"(?<![\w.)-])-(?=\d)", MINUS, sentence)


def _raised(mantissa: str, exponent: str) -> str:
    return f"{mantissa}{THIN}×{THIN}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def listing(words: Sequence[str]) -> str:
    """a, b and c."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plural(number: int, one: str, many: str = "") -> str:
    """1 run, 2 runs."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def constant(estimate: Estimate, digits: int = 3) -> str:
    """A constant of the surface and its interval, or that it is not known: of one that may be a hundred times itself."""
    ends = estimate.value, estimate.low, estimate.high
    if not all(map(math.isfinite, ends)) or max(map(abs, ends)) > 100 * abs(estimate.value):
        return f"{count(estimate.value)} (not known)"
    return with_interval(estimate, digits)
