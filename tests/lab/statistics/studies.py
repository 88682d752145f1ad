"""A study with known truth for tests of what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ibnorm_megatron.lab.analysis import analyze
from ibnorm_megatron.lab.results import Analysis, Observation

#: Arm -> multiplier and seconds beside the baseline's.
ARMS = {"layernorm": (1.0, 1.0), "identity": (1.0, 1.0), "fast": (1.08, 1.02), "slow": (1.03, 1.10), "bad": (0.94, 0.9)}

Which = Callable[[Observation], bool]


def study(
    arms: dict[str, tuple[float, float]] = ARMS, *, seeds: int = 3, sizes: tuple[float, ...] = (1e5, 3e5, 1e6)
) -> list[Observation]:
    """Ends of training at 5 and 20 tokens a parameter; noise of 0.002 nats twice, once for all arms of a seed."""
    draw = np.random.default_rng(11)
    found = []
    for size in sizes:
        for seed in range(seeds):
            for horizon in (5, 20):
                common = draw.standard_normal()
                for arm, (gain, slower) in arms.items():
                    n, d = size * gain**0.5, size * horizon * gain**0.5
                    loss = 1.6 + 1.5 * (n / 3e5) ** -0.35 + 1.2 * (d / 3e6) ** -0.37
                    noise = 0.002 * (common + draw.standard_normal())
                    seconds = 6 * size * size * horizon * slower / 1e10 * math.exp(0.002 * draw.standard_normal())
                    flops = 6 * size * size * horizon
                    found.append(
                        Observation(
                            arm,
                            f"{size:g}",
                            seed,
                            int(size),
                            int(size * horizon),
                            flops,
                            loss + noise,
                            seconds,
                            f"{arm}{size}{seed}",
                        )
                    )
    return found


def analyzed(
    observations: list[Observation],
    control: str | None = "identity",
    pending: list[Observation] | None = None,
    **options: float,
) -> Analysis:
    """With a margin of 2 % unless it is given."""
    return analyze(
        observations,
        baseline="layernorm",
        control=control,
        equivalence=options.get("equivalence", 0.02),
        resamples=999,
        pending=pending or [],
    )


def level(analysis: Analysis, arm: str) -> tuple[str, str]:
    """An arm's level and sentence."""
    (verdict,) = [one for one in analysis.verdicts if one.arm == arm]
    return verdict.level, verdict.sentence


def diverge(observations: list[Observation], lost: Which) -> list[Observation]:
    """The study in which some runs have no loss."""
    return [replace(one, loss=math.nan, failure="the loss is not finite") if lost(one) else one for one in observations]


def parted(observations: list[Observation], waits: Which) -> tuple[list[Observation], list[Observation]]:
    """What is there, and what is pending."""
    pending = [replace(one, loss=math.nan, failure="it is not trained yet") for one in observations if waits(one)]
    return [one for one in observations if not waits(one)], pending
