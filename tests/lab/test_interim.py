"""What can be compared of a study under way."""

from __future__ import annotations

import math

from ibnorm_megatron.lab.interim import in_step
from ibnorm_megatron.lab.results import Observation

ARMS = ("base", "control", "new", "late")


def _end(arm: str, seed: int, tokens: int = 100, loss: float = 3.0) -> Observation:
    return Observation(arm, "s", seed, 10, tokens, 1.0, loss, 1.0, f"{arm} {seed}", f"runs/{arm}-{seed}-{tokens}", "")


def test_ends_that_others_have_not_reached_wait() -> None:
    ends = [_end(arm, seed) for arm in ARMS for seed in (1, 2)] + [_end("base", 3), _end("new", 3)]
    found = in_step(ends, ARMS, "base", "control")
    assert {(each.arm, each.seed) for each in found.observations} == {(arm, seed) for arm in ARMS for seed in (1, 2)}
    assert (found.waiting, found.behind) == (2, ())


def test_an_arm_that_has_only_begun_does_not_keep_others_waiting() -> None:
    ends = [_end(arm, seed) for arm in ARMS[:3] for seed in (1, 2, 3)] + [_end("late", 1)]
    found = in_step(ends, ARMS, "base", "control")
    assert {each.arm for each in found.observations} == {"base", "control", "new"} and len(found.observations) == 9
    assert (found.waiting, found.behind) == (1, ("late",))


def test_a_run_that_diverged_has_ended() -> None:
    ends = [_end(arm, 1, loss=math.nan if arm == "new" else 3.0) for arm in ARMS]
    assert len(in_step(ends, ARMS, "base", "control").observations) == 4


def test_nothing_is_compared_without_baseline_or_control() -> None:
    for missing in ("base", "control"):
        ends = [_end(arm, 1) for arm in ARMS if arm != missing]
        assert in_step(ends, ARMS, "base", "control").observations == ()
    without = [_end(arm, 1) for arm in ARMS if arm != "control"]
    assert len(in_step(without, [arm for arm in ARMS if arm != "control"], "base", None).observations) == 3
