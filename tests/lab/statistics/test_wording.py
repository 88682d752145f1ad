"""Numbers in words."""

from __future__ import annotations

import math

import pytest

from ibnorm_megatron.lab import wording as say
from ibnorm_megatron.lab.results import Estimate


@pytest.mark.parametrize(
    ("multiplier", "amount", "interval"),
    [
        (Estimate(1.25, 1.1, 1.4), "20.0 % less compute", "95 % interval 9.1 to 28.6"),
        (Estimate(0.8, 0.75, 0.9), "25.0 % more compute", "95 % interval 11.1 to 33.3"),
        (Estimate(1.0, 0.99, 1.02), "0.0 % more compute", "95 % interval 1.0 more to 2.0 less"),
        (Estimate(0.25, 0.2, 0.5), "300 % more compute", "95 % interval 100 to 400"),
        (Estimate(1.1, 0.0, math.inf), "9.1 % less compute", "no interval, since there are too few runs for one"),
    ],
)
def test_multipliers(multiplier: Estimate, amount: str, interval: str) -> None:
    assert (say.amount(multiplier), say.interval(multiplier)) == (amount, interval)


@pytest.mark.parametrize(
    ("between", "value", "span"),
    [
        (Estimate(-0.0123, -0.02, -0.01), "0.0123 nats lower", "0.0100 to 0.0200"),
        (Estimate(0.0123, -0.01, 0.03), "0.0123 nats higher", "0.0100 lower to 0.0300 higher"),
        (Estimate(-2e-10, -3e-10, -1e-10), "2e-10 nats lower", "1e-10 to 3e-10"),
        (Estimate(2.5e9, 1e9, 4e9), "2.5e+09 nats higher", "1e+09 to 4e+09"),
        (Estimate(0.0, -0.001, 0.001), "no lower and no higher", "0.0010 lower to 0.0010 higher"),
    ],
)
def test_differences(between: Estimate, value: str, span: str) -> None:
    assert (say.difference(between.value), say.span(between)) == (value, span)


def test_ratios_margins_and_p() -> None:
    assert say.change(Estimate(1.02, 0.99, 1.05)) == "95 % interval 1.0 less to 5.0 more"
    assert say.change(Estimate(0.9, 0.88, 0.92)) == "95 % interval 8.0 to 12.0"
    assert (say.margin(0.01), say.margin(0.0004)) == ("1 %", "0.04 %")
    assert (say.p(0.0004), say.p(0.001), say.p(1.0)) == ("below 0.001", "0.001", "1.000")
    assert (say.flops(1e14), say.flops(1.26e9)) == ("1e14", "1.3e09")
