"""What a comparison is computed from, and what it finds. Plain values: no file, no picture, no fit is made here.

Losses are nats a token, compute is FLOPs, time is seconds. A compute multiplier m says that the arm reaches, with compute C,
the loss that the baseline reaches with m C: 1.05 is worth five per cent more compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: Confidence of every interval, unless it says otherwise.
LEVEL = 0.95


@dataclass(frozen=True)
class Observation:
    """One end of training: a run, or one of its decays.

    Attributes:
        arm: the norm's name in the study.
        size: the model size's name.
        seed: of initial weights and data order: the same seed is the same in all arms.
        parameters: N, without embeddings, output head and norms, so that it is the same in all arms.
        tokens: D, labels that training has seen.
        flops: C, of training.
        loss: on held-out text; NaN where the run has none.
        seconds: of training alone; NaN where nobody measured them.
        cluster: what shares its beginning: the decays of one run are not independent.
        run: its folder, or where else it can be found.
        failure: why it has no loss.
    """

    arm: str
    size: str
    seed: int
    parameters: int
    tokens: int
    flops: float
    loss: float
    seconds: float = float("nan")
    cluster: str = ""
    run: str = ""
    failure: str = ""

    @property
    def horizon(self) -> float:
        """Tokens a parameter."""
        return self.tokens / self.parameters


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval of :data:`LEVEL`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """An arm's loss minus the baseline's, over runs of the same size, horizon and seed.

    Attributes:
        size, horizon: the cell, or None for all together, where each pair counts alike.
        pairs: how many.
        by_t: mean difference with Student's interval.
        by_signs: the same with the interval of the sign-flip permutation test; infinite ends where there are too few pairs.
        p: two-sided, of the sign-flip test where so few clusters can reach 0.05 after Holm's correction, and of t elsewhere.
        p_holm: the same after Holm's correction over arms of this cell; the control is not among them, and has p itself.
        margin: nats that the study's equivalence margin is worth here; NaN without a surface.
        p_equivalent: the larger of the two one-sided tests' (TOST) against the margin.
        missing: pairs that were asked for and are not there, because a run has no loss.
        pending: pairs that may still come: one of their runs is not trained yet.
    """

    arm: str
    size: str | None
    horizon: float | None
    pairs: int
    by_t: Estimate
    by_signs: Estimate
    p: float
    p_holm: float
    margin: float
    p_equivalent: float
    missing: int = 0
    pending: int = 0


@dataclass(frozen=True)
class Surface:
    """The baseline's L = E + A N^-alpha + B D^-beta (Hoffmann et al., arXiv 2203.15556, equation 2).

    ``spread`` is the residual standard deviation of log L; ``points`` is how many observations of all arms it was fit to.
    """

    E: Estimate
    A: Estimate
    B: Estimate
    alpha: Estimate
    beta: Estimate
    spread: float
    points: int


@dataclass(frozen=True)
class At:
    """A multiplier at one compute."""

    flops: float
    multiplier: Estimate
    extrapolated: bool


@dataclass(frozen=True)
class Multiplier:
    """An arm's compute multiplier exp(u0 + u1 ln(C / C0)) on the joint surface.

    Attributes:
        u0, u1: with intervals of the cluster bootstrap.
        c0: the geometric mean of all observations' compute.
        profile_u0, profile_u1: the same with profile-likelihood intervals.
        mean: the multiplier where u1 is held at 0, which is the one at the compute where it is known best.
        p_u0, p_u1: two-sided, of no gain (``mean`` is 1), and of a gain that does not change with compute.
        p_holm, p_u1_holm: p_u0 and p_u1 after Holm's correction over arms, each test in its own family; the control is not
            among them, and has p_u0 and p_u1 themselves.
        at: over compute, in order; what lies beyond the compute at which the arm itself was paired says so.
        slowdown: the arm's seconds over the baseline's, paired by run; None where nobody measured them.
        in_seconds: ``mean`` by wall-clock: divided by the slowdown.
        p_seconds, p_seconds_holm: of no gain by the clock, and after Holm's correction as above; NaN without seconds.
        largest_left_out: mean of predicted minus observed log loss of the largest size, by a fit that had not seen it.
        p_equivalent: of a ``mean`` outside of the study's equivalence margin (TOST).
        profile_mean: ``mean`` with its profile-likelihood interval.
    """

    arm: str
    u0: Estimate
    u1: Estimate
    c0: float
    profile_u0: Estimate
    profile_u1: Estimate
    mean: Estimate
    p_u0: float
    p_u1: float
    p_holm: float
    at: tuple[At, ...]
    slowdown: Estimate | None
    in_seconds: Estimate | None
    largest_left_out: float
    p_equivalent: float = float("nan")
    profile_mean: Estimate | None = None
    p_u1_holm: float = float("nan")
    p_seconds: float = float("nan")
    p_seconds_holm: float = float("nan")


Level = Literal["better", "worse", "equivalent", "undecided", "interim", "failed"]


@dataclass(frozen=True)
class Verdict:
    """What can be said of an arm, in a sentence with an interval."""

    arm: str
    level: Level
    sentence: str


@dataclass(frozen=True)
class Analysis:
    """All that was found.

    Attributes:
        baseline, control: names of arms; the control is the baseline by another code path, and its spread the noise floor.
        equivalence: share of compute below which a difference is called none.
        paired: cells first, then all together.
        surface, multipliers: none where the design cannot tell N from D, or has too few points; ``warnings`` say why.
        warnings: what a reader must know before believing anything.
        pending: ends of training that the study still waits for; while there are any, no verdict is final.
    """

    baseline: str
    control: str | None
    equivalence: float
    observations: tuple[Observation, ...]
    paired: tuple[Paired, ...]
    surface: Surface | None
    multipliers: tuple[Multiplier, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = field(default=())
    pending: tuple[Observation, ...] = field(default=())
