"""The whole analysis: levels and sentences, missing runs, the clock, the control, designs without a surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from ibnorm_megatron.errors import UserError
from ibnorm_megatron.lab.analysis import analyze
from ibnorm_megatron.lab.results import Analysis, Observation

from .studies import ARMS, analyzed, diverge, level, study


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyzed(study())


def test_levels_and_sentences(analysis: Analysis) -> None:
    assert [one.arm for one in analysis.verdicts] == ["identity", "fast", "slow", "bad"]
    stands, sentence = level(analysis, "fast")
    assert stands == "better"
    assert sentence.startswith("fast reaches layernorm's loss with 7.")
    assert "% less compute (95 % interval" in sentence and "Holm p" in sentence and "up to 1.2e14 FLOPs" in sentence
    assert level(analysis, "identity")[0] == "equivalent"
    assert "identity is equivalent to layernorm within 2 % of compute" in level(analysis, "identity")[1]
    assert level(analysis, "bad")[0] == "worse"
    assert "more compute" in level(analysis, "bad")[1]
    assert not analysis.warnings


def test_a_norm_that_wins_by_compute_and_loses_by_the_clock_is_said_so(analysis: Analysis) -> None:
    stands, sentence = level(analysis, "slow")
    assert stands == "better"
    assert "and so it loses by the clock what it wins by compute" in sentence
    (gain,) = [one for one in analysis.multipliers if one.arm == "slow"]
    assert gain.slowdown is not None and gain.in_seconds is not None
    assert gain.slowdown.value == pytest.approx(1.10, abs=0.003)
    assert gain.in_seconds.value == pytest.approx(gain.mean.value / gain.slowdown.value)
    assert gain.in_seconds.low < gain.mean.low / gain.slowdown.value
    # At six per cent more compute and a tenth less time it wins by the clock.
    assert "and so it wins by the clock" in level(analysis, "bad")[1]


def test_multipliers_are_labelled_where_nobody_trained(analysis: Analysis) -> None:
    for gain in analysis.multipliers:
        assert [one.extrapolated for one in gain.at] == [False] * 5 + [True] * 2
        widths = [one.multiplier.high - one.multiplier.low for one in gain.at]
        assert widths[-1] > widths[-2] > widths[2]
        assert abs(gain.largest_left_out) < 0.01
        assert gain.at[0].flops == pytest.approx(min(one.flops for one in analysis.observations))


def test_the_same_call_gives_the_same_numbers(analysis: Analysis) -> None:
    again = analyzed(study())
    assert again == analysis


def test_cells_come_first_and_the_control_is_not_corrected(analysis: Analysis) -> None:
    assert [row.size is None for row in analysis.paired] == [False] * 24 + [True] * 4
    control = [row for row in analysis.paired if row.arm == "identity"]
    assert all(row.p_holm == row.p for row in control)
    fast = analysis.paired[-3]
    assert (fast.arm, fast.pairs) == ("fast", 18)
    assert fast.p_holm == pytest.approx(3 * fast.p)
    # One per cent of compute times its local worth in nats.
    assert 0.005 < fast.margin < 0.02


def test_an_arm_that_lost_a_run_is_neither_better_nor_equivalent() -> None:
    lost = diverge(study(), lambda one: one.arm in ("fast", "bad") and one.seed == 1 and one.size == "1e+06")
    analysis = analyzed(lost)
    stands, sentence = level(analysis, "fast")
    assert stands == "undecided"
    assert "but 2 of its 18 ends of training have no loss (size 1e+06 x 5 tokens a parameter, seed 1, " in sentence
    assert level(analysis, "bad")[0] == "worse"
    assert "2 of its 18 ends of training have no loss" in level(analysis, "bad")[1]
    assert any(one.startswith("fast has no loss at size 1e+06, 5 tokens") for one in analysis.warnings)
    assert any("fast lacks 2 of 18 pairs" in one for one in analysis.warnings)
    assert {row.missing for row in analysis.paired if row.arm == "fast" and row.size is None} == {2}


def test_runs_that_are_not_there_count_as_lost() -> None:
    there = [one for one in study() if not (one.arm == "fast" and one.seed == 1 and one.size == "1e+06")]
    assert level(analyzed(there), "fast")[0] == "undecided"


@pytest.mark.parametrize("lost", [lambda one: one.arm == "fast", lambda one: one.arm == "fast" and one.size != "100000"])
def test_an_arm_that_lost_half_failed(lost: Callable[[Observation], bool]) -> None:
    stands, sentence = level(analyzed(diverge(study(), lost)), "fast")
    assert stands == "failed"
    assert sentence.startswith("fast failed: 1") and "of its 18 ends of training" in sentence


def test_a_control_that_differs_is_a_warning() -> None:
    analysis = analyzed(study(ARMS | {"identity": (1.05, 1.0)}))
    assert any("The control identity differs from the baseline" in one for one in analysis.warnings)


def test_no_control_is_a_warning() -> None:
    assert any("No arm is the baseline by another code path" in one for one in analyzed(study(), control=None).warnings)


def test_a_gain_that_changes_with_compute_is_said_so() -> None:
    def growing(one: Observation) -> Observation:
        return replace(one, loss=one.loss + (0.03 if one.parameters < 2e5 else -0.03)) if one.arm == "fast" else one

    stands, sentence = level(analyzed([growing(one) for one in study()]), "fast")
    assert "This changes with compute (Holm p " in sentence, stands


def test_one_size_is_judged_by_losses_alone() -> None:
    analysis = analyzed(study(sizes=(3e5,), seeds=7))
    assert analysis.surface is None and analysis.multipliers == ()
    stands, sentence = level(analysis, "fast")
    assert stands == "better"
    assert "nats lower than layernorm's (95 % interval" in sentence and "14 pairs). Training takes 2." in sentence
    assert level(analysis, "identity")[0] == "undecided"
    assert any(one.startswith("No loss surface was fit") and "there is one size" in one for one in analysis.warnings)
    assert all(math.isnan(row.margin) and math.isnan(row.p_equivalent) for row in analysis.paired)


def test_one_seed_has_wide_intervals_and_a_warning() -> None:
    analysis = analyzed(study(seeds=1))
    assert any("fewer than three seeds" in one for one in analysis.warnings)
    assert any("no sign-flip test can reach 5 %" in one for one in analysis.warnings)
    (gain,) = [one for one in analysis.multipliers if one.arm == "fast"]
    assert gain.u0.high - gain.u0.low > 0.03
    for row in analysis.paired:
        if row.size is not None:
            assert math.isinf(row.by_t.high)


def test_one_seed_of_two_sizes_has_no_interval_at_all() -> None:
    analysis = analyzed(study(seeds=1, sizes=(1e5, 1e6)))
    assert all(math.isinf(gain.u0.high) and gain.p_u1 == 1.0 for gain in analysis.multipliers)
    assert any("taken to be equal" in one for one in analysis.warnings)


def test_an_arm_that_is_the_baseline_to_the_bit() -> None:
    twins = [replace(one, arm="identity", cluster="") for one in study() if one.arm == "layernorm"]
    analysis = analyzed([one for one in study() if one.arm != "identity"] + twins)
    assert level(analysis, "identity")[0] == "equivalent"
    (gain,) = [one for one in analysis.multipliers if one.arm == "identity"]
    assert gain.mean.value == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"baseline": "layernrom", "control": None}, "did you mean 'layernorm'"),
        ({"baseline": "layernorm", "control": "layernorm"}, "it is the baseline itself"),
    ],
)
def test_unknown_arms_are_refused(options: dict[str, str | None], why: str) -> None:
    with pytest.raises(UserError, match=why):
        analyze(study(), equivalence=0.01, **options)  # type: ignore[arg-type]


def test_two_runs_at_one_place_are_refused() -> None:
    runs = study()
    with pytest.raises(UserError, match="two runs of arm layernorm have size 100000, 5 tokens a parameter, seed 0"):
        analyzed([*runs, runs[0]])
