"""A study that never ran: observations from a surface, an analysis by plain formulas, a ledger with what can go wrong."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ibnorm_megatron.lab.results import Analysis, At, Estimate, Multiplier, Observation, Paired, Surface, Verdict
from ibnorm_megatron.lab.rules import Recipe, recipe_of
from ibnorm_megatron.lab.study import StudyConfig
from ibnorm_megatron.lab.trials import Entry, Stage, Status, Trial
from ibnorm_megatron.yaml12 import parse_yaml

BASELINE, CONTROL = "layernorm", "identity"
#: Compute multiplier and slowdown of every arm.
ARMS = {
    BASELINE: (1.0, 1.0),
    "rmsnorm": (1.004, 0.97),
    "ibnorm_log": (1.055, 1.022),
    "ibnorm_tanh": (0.972, 1.018),
    "ibnorm_tanh_relative": (1.012, 1.03),
    CONTROL: (0.999, 1.012),
}
SIZES = {"100k": 98_304, "300k": 311_296, "1m": 1_048_576}
HORIZONS = (5.0, 20.0)
SEEDS = (1, 2, 3)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LAMBDAS = (1.0, 2.0)
DIVERGED = ("ibnorm_tanh", "1m", 3)
STUDY = """\
name: example
base: small.yaml
arms:
  layernorm: layernorm
  rmsnorm: rmsnorm
  ibnorm_log: {norm: ibnorm_log, lambdas: [1.0, 2.0]}
  ibnorm_tanh: {norm: ibnorm_tanh, lambdas: [1.0, 2.0]}
  ibnorm_tanh_relative: {norm: {kind: ibnorm_tanh, scale: relative}, lambdas: [1.0, 2.0]}
  identity: ibnorm_identity
baseline: layernorm
control: identity
sizes:
  100k: {num_layers: 2, hidden_size: 64, num_attention_heads: 2, ffn_hidden_size: 172}
  300k: {num_layers: 3, hidden_size: 96, num_attention_heads: 3, ffn_hidden_size: 256}
  1m: {num_layers: 5, hidden_size: 128, num_attention_heads: 4, ffn_hidden_size: 344}
horizons: [5, 20]
seeds: [1, 2, 3]
tuning: {learning_rates: [0.001, 0.002, 0.004, 0.008, 0.016], further_trials: 2}
allow: [unchecked_transfer]
"""


@dataclass(frozen=True)
class ExampleStudy:
    """What the report asks of a study."""

    config: StudyConfig
    path: Path
    folder: Path
    recipes: dict[str, Recipe]
    overridden: tuple[tuple[str, str], ...] = (("unchecked_transfer", "the learning rate is not checked at the largest size"),)
    overrides: tuple[str, ...] = ("seeds=[1, 2, 3]",)


@dataclass(frozen=True)
class ExampleChoice:
    """What tuning chose."""

    learning_rate: float
    strength: float | None


@dataclass(frozen=True)
class ExampleDue:
    """How far the study is."""

    finished: bool = True
    stage: str | None = None
    total_estimate: int = 0
    choices: dict[str, ExampleChoice] = field(default_factory=dict)
    lost: tuple[tuple[Trial, str], ...] = ()
    unfair: tuple[tuple[str, str], ...] = ()


def true_loss(parameters: float, tokens: float, multiplier: float = 1.0) -> float:
    """The surface, at the scale of a small byte-level model."""
    n, d = parameters * multiplier**0.5, tokens * multiplier**0.5
    return 1.1 + 60 * n**-0.34 + 190 * d**-0.36


def observations() -> list[Observation]:
    """All ends of training of the main stage."""
    random = np.random.default_rng(5)
    found = []
    for (size, n), horizon, seed in itertools.product(SIZES.items(), HORIZONS, SEEDS):
        tokens = int(n * horizon)
        shared = random.normal(0, 0.003)
        for arm, (multiplier, slowdown) in ARMS.items():
            loss = true_loss(n, tokens, multiplier) + shared + random.normal(0, 0.0012)
            seconds = 6e-9 * n * tokens * slowdown * (1 + random.normal(0, 0.01)) / 40 + 3
            failed = (arm, size, seed) == DIVERGED
            found.append(
                Observation(
                    arm,
                    size,
                    seed,
                    n,
                    tokens,
                    6.0 * n * tokens,
                    math.nan if failed else loss,
                    seconds,
                    f"{arm}/{size}/{seed}",
                    f"runs/main-{arm}-{size}-{horizon:g}-{seed}",
                    "the loss was not finite at step 412" if failed else "",
                )
            )
    return found


def analysis() -> Analysis:
    """By plain formulas: what matters here is its form."""
    seen = observations()
    flops = [each.flops for each in seen]
    c0 = math.exp(sum(map(math.log, flops)) / len(flops))
    paired: list[Paired] = []
    for arm in ARMS:
        if arm != BASELINE:
            cells = [_paired(seen, arm, size, horizon) for size in SIZES for horizon in HORIZONS]
            paired += [*cells, _paired(seen, arm, None, None)]
    multipliers = tuple(_multiplier(arm, c0, min(flops), max(flops)) for arm in ARMS if arm != BASELINE)
    return Analysis(
        BASELINE,
        CONTROL,
        0.01,
        tuple(seen),
        tuple(paired),
        Surface(
            Estimate(1.1, 1.02, 1.19),
            Estimate(60, 41, 88),
            Estimate(190, 120, 260),
            Estimate(0.34, 0.29, 0.38),
            Estimate(0.36, 0.31, 0.4),
            0.0009,
            len(seen) - 2,
        ),
        multipliers,
        VERDICTS,
        ("ibnorm_tanh diverged in 1 of 3 seeds at 1m: its other seeds are compared, and look better than the arm is.",),
    )


VERDICTS = (
    Verdict(
        "rmsnorm",
        "equivalent",
        "rmsnorm is equivalent to layernorm within 1 % of compute: it needs 0.4 % less (95 % interval -0.3 to 1.1; "
        "TOST p 0.03), and 3 % less time a step.",
    ),
    Verdict(
        "ibnorm_log",
        "better",
        "ibnorm_log reaches layernorm's loss with 5.2 % less compute (95 % interval 4.4 to 6.0; Holm p < 0.001) up to "
        "1.3e+14 FLOPs; by wall-clock it saves 3.1 %.",
    ),
    Verdict(
        "ibnorm_tanh",
        "worse",
        "ibnorm_tanh needs 2.9 % more compute (95 % interval 2.1 to 3.7; Holm p < 0.001) than layernorm, and diverged in "
        "1 of 3 seeds at 1m.",
    ),
    Verdict(
        "ibnorm_tanh_relative",
        "undecided",
        "no difference of ibnorm_tanh_relative from layernorm can be claimed: 1.2 % less compute (95 % interval -0.2 to 2.6; "
        "Holm p 0.11).",
    ),
    Verdict(
        CONTROL,
        "equivalent",
        "identity is equivalent to layernorm within 1 % of compute: -0.1 % (95 % interval -0.6 to 0.5), as it has to be.",
    ),
)


def _paired(seen: list[Observation], arm: str, size: str | None, horizon: float | None) -> Paired:
    cell = [each for each in seen if size is None or (each.size == size and round(each.horizon) == horizon)]
    base = {(each.size, each.tokens, each.seed): each.loss for each in cell if each.arm == BASELINE}
    differences = [each.loss - base[each.size, each.tokens, each.seed] for each in cell if each.arm == arm]
    differences = [each for each in differences if math.isfinite(each)]
    mean, error = float(np.mean(differences)), float(stats.sem(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    p = float(2 * stats.t.sf(abs(mean / error), len(differences) - 1))
    by_signs = Estimate(mean, mean - 1.1 * half, mean + 1.1 * half) if size is None else Estimate(mean, -math.inf, math.inf)
    return Paired(
        arm, size, horizon, len(differences), Estimate(mean, mean - half, mean + half), by_signs, p, min(1, 4 * p), 0.0031, 0.2
    )


def _multiplier(arm: str, c0: float, low: float, high: float) -> Multiplier:
    m, slowdown = ARMS[arm]
    u0, u1 = math.log(m), 0.004 * (m - 1) / 0.05
    wide = 0.004 if arm != "ibnorm_tanh_relative" else 0.007

    def at(flops: float) -> At:
        u = u0 + u1 * math.log(flops / c0)
        half = 2 * wide * (1 + 0.35 * abs(math.log(flops / c0)))
        return At(flops, Estimate(math.exp(u), math.exp(u - half), math.exp(u + half)), not low <= flops <= 1.0001 * high)

    compute = [*np.geomspace(low, high, 12), *np.geomspace(1.5 * high, 30 * high, 7)]
    mean = Estimate(m, m - 2 * wide, m + 2 * wide)
    p = float(2 * stats.norm.sf(abs(u0) / wide))
    return Multiplier(
        arm,
        Estimate(u0, u0 - 2 * wide, u0 + 2 * wide),
        Estimate(u1, u1 - 0.006, u1 + 0.006),
        c0,
        Estimate(u0, u0 - 1.8 * wide, u0 + 1.8 * wide),
        Estimate(u1, u1 - 0.005, u1 + 0.005),
        mean,
        p,
        0.4,
        min(1.0, 5 * p),
        tuple(at(float(flops)) for flops in compute),
        Estimate(slowdown, slowdown - 0.006, slowdown + 0.006),
        Estimate(m / slowdown, m / slowdown - 0.012, m / slowdown + 0.012),
        0.0012,
        0.03 if arm in ("rmsnorm", CONTROL) else 0.6,
        Estimate(m, m - 1.8 * wide, m + 1.8 * wide),
    )


def entries(*, realised: bool = True) -> list[Entry]:
    """The ledger: tuning, lambdas or rates between, the main stage, and the check; one arm diverges at the highest rate."""
    random = np.random.default_rng(11)
    made: list[Entry] = []
    smallest = next(iter(SIZES))

    def add(trial: Trial, loss: float | None, reason: str = "", status: Status = "complete", seconds: float = 20.0) -> None:
        n = SIZES[trial.size]
        tokens = int(n * trial.horizon)
        slow = ARMS[trial.arm][1]
        found = {
            "tokens_per_second": 4e9 / n / slow * (1 + random.normal(0, 0.01)),
            "peak_memory_bytes": (700 + n / 4000) * 2**20 * (1.01 if slow > 1 else 1),
            "norm_share": 0.031 * slow,
            "spikes": int(random.poisson(0.1 + 3 * (trial.learning_rate > 0.01))),
            "skipped_steps": 0,
            "grad_norm_median": float(0.4 * random.lognormal(0, 0.1)),
            "grad_norm_max": float(1.5 * random.lognormal(0, 0.5)),
        }
        if realised and trial.strength is not None:
            found["sigma_over_lambda"] = 0.9 / trial.strength * float(random.lognormal(0, 0.05))
        key = f"{len(made):016x}"
        name = f"{trial.stage}-{trial.arm}-{trial.size}-{trial.horizon:g}-{trial.seed}"
        folder = f"runs/{name}" if trial.stage == "main" else f"runs/{name}-{key[-4:]}"
        flops = 6.0 * n * tokens
        day = "2026-01-05T10"
        made.append(
            Entry(
                trial,
                key,
                folder,
                status,
                reason,
                n,
                tokens,
                flops,
                loss,
                seconds,
                found,
                _matching(len(made)),
                f"{day}:00:00+00:00",
                f"{day}:09:00+00:00",
            )
        )

    for arm, (multiplier, _) in ARMS.items():
        best = 0.004 if arm != "ibnorm_log" else 0.0052
        floor = true_loss(SIZES[smallest], 5 * SIZES[smallest], multiplier)
        stages: list[tuple[Stage, float, float | None]] = [("tune", rate, None) for rate in RATES]
        if arm.startswith("ibnorm"):
            stages += [("further", 0.004, strength) for strength in LAMBDAS]
        else:
            stages += [("further", rate, None) for rate in (0.0028, 0.0057)]
        for stage, rate, strength in stages:
            trial = Trial(stage, arm, smallest, 1, rate, strength, 5.0)
            if arm == "ibnorm_tanh" and rate > 0.01:
                add(trial, None, "the loss was not finite at step 96 <nan>", "diverged")
            else:
                bend = 0.05 * math.log(rate / best) ** 2 + (0.01 * (strength - 1.4) ** 2 if strength else 0.004)
                add(trial, floor + bend + random.normal(0, 0.002))
    for each in observations():
        strength = 1.0 if each.arm.startswith("ibnorm") else None
        trial = Trial("main", each.arm, each.size, each.seed, 0.004, strength, round(each.horizon))
        if each.failure:
            add(trial, None, each.failure, "diverged", each.seconds)
        else:
            add(trial, each.loss, seconds=each.seconds)
    for arm, factor in itertools.product(ARMS, (0.5, 2.0)):
        trial = Trial("check", arm, "1m", 1, 0.004 * factor, None, 5.0)
        add(trial, true_loss(SIZES["1m"], 5 * SIZES["1m"], ARMS[arm][0]) + 0.02 + random.normal(0, 0.002))
    return made


def due() -> ExampleDue:
    """All is done."""
    choices = {arm: ExampleChoice(0.004, 1.0 if arm.startswith("ibnorm") else None) for arm in ARMS}
    return ExampleDue(total_estimate=len(entries()), choices=choices)


def study(folder: Path) -> ExampleStudy:
    """The study's file and what was read from it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "example.yaml"
    path.write_text(STUDY)
    recipes = {size: recipe_of(parameters, HORIZONS, 256) for size, parameters in SIZES.items()}
    return ExampleStudy(StudyConfig.model_validate(parse_yaml(STUDY)), path, folder, recipes)


def _matching(number: int) -> dict[str, Any]:
    """What a run recorded of itself; of two commits, for a study that went on after a mend."""
    commit = ("c7c7af444b" if number < 40 else "9d2e11aa07") * 4
    return {
        "steps": 240,
        "batch_tokens": 4096,
        "data": "351989b08be4a7fe",
        "tokenizer": "3ee74e0bd739fd07",
        "code": {"version": "0.1.0", "commits": [commit + (" with changes" if number == 3 else "")]},
        "machine": {
            "hardware": {"gpu": None, "machine": "x86_64", "cpus": 2, "threads": 1, "system": "linux"},
            "libraries": {"torch": "2.13.0+cpu", "megatron-core": "0.16.1"},
            "python": "3.11.7",
        },
    }
