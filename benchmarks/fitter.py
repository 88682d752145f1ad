"""Simulated studies of known truth: how often the intervals hold it, how often a gain is found, and one that is not there.

    OMP_NUM_THREADS=1 python -m benchmarks.fitter --simulations 500 --processes 2 --out benchmarks/results/fitter

A study of a scenario is drawn again and again from the surface that Besiroglu et al. (arXiv 2404.10102) fit to Hoffmann et
al.'s runs, its A and B rescaled for models of less than a million parameters. Noise on the loss has a standard deviation drawn
for each study from 0.002 to 0.005 nats and correlates by 0.5 over arms of a seed; a share of both halves is common to all
decays of a run. Seconds of a run vary by half a per cent.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from ibnorm_megatron.lab.analysis import analyze
from ibnorm_megatron.lab.results import Analysis, Estimate, Observation
from ibnorm_megatron.progress import Progress

from .conditions import conditions, markdown_table

#: E, A, B, alpha, beta of Besiroglu et al.
EPOCH = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)

#: The same exponents; 1.5 nats come from size at 300 thousand parameters and 1.2 from data at 3 million tokens.
SMALL = (1.6, 1.5 * 3e5**0.3478, 1.2 * 3e6**0.3658, 0.3478, 0.3658)

#: What intervals of 95 % may cover.
BOUNDS = (0.92, 0.98)

#: Of any arm without a gain: the error that Holm's correction bounds.
FALSE = "a difference after Holm at p < 0.05 where there is none"

#: The same of a gain that changes with compute, of a gain by the clock, and of an arm at the margin that is called equivalent.
FALSE_CHANGE = "a change with compute where there is none"
FALSE_CLOCK = "a difference by the clock where there is none"
FALSE_SAME = "an arm at the margin called equivalent"

#: Correlation of an arm's noise with another's, of one seed.
CORRELATION = 0.5

#: The margin of equivalence, and how much longer a run of the arm of that gain takes: it has none by the clock.
MARGIN, SLOWDOWN = 0.01, 1.05

#: Standard deviation of the logarithm of a run's seconds; its decays share it.
CLOCK_SPREAD = 0.005


@dataclass(frozen=True)
class Scenario:
    """What a study has, and what is true.

    Attributes:
        name: of the scenario.
        truth: E, A, B, alpha, beta.
        sizes: parameters.
        horizons: tokens a parameter.
        seeds: of every size.
        gains: u0 and u1 of every arm but the baseline, whose name is ``base``; ``control`` is the control.
        common: share of the noise's variance that all decays of a run have in common.
        falling: exponent of size by which the noise gets smaller.
    """

    name: str
    truth: tuple[float, float, float, float, float]
    sizes: tuple[float, ...]
    horizons: tuple[float, ...]
    seeds: int
    gains: dict[str, tuple[float, float]]
    common: float
    falling: float = 0.0

    def observe(self, number: int) -> list[Observation]:
        """The study with this number."""
        draw = np.random.default_rng([number, sum(map(ord, self.name))])
        spread, middle = draw.uniform(0.002, 0.005), float(np.exp(np.mean(np.log(self.sizes))))
        found = []
        for (place, size), seed in product(enumerate(self.sizes), range(self.seeds)):
            of_seed = draw.standard_normal()
            of_cell = draw.standard_normal(len(self.horizons))
            for arm in ("base", *self.gains):
                of_run, of_clock = draw.standard_normal(2)
                for column, horizon in enumerate(self.horizons):
                    steady = math.sqrt(CORRELATION) * of_seed + math.sqrt(1 - CORRELATION) * of_run
                    passing = math.sqrt(CORRELATION) * of_cell[column] + math.sqrt(1 - CORRELATION) * draw.standard_normal()
                    noise = math.sqrt(self.common) * steady + math.sqrt(1 - self.common) * passing
                    tokens = round(size * horizon)
                    found.append(
                        Observation(
                            arm=arm,
                            size=f"size {place}",
                            seed=seed,
                            parameters=int(size),
                            tokens=tokens,
                            flops=6 * size * tokens,
                            loss=self.loss(arm, size, tokens) + spread * float(noise) * (size / middle) ** -self.falling,
                            seconds=tokens * size * self.slowdown(arm) * math.exp(CLOCK_SPREAD * of_clock) / 1e9,
                            cluster=f"{arm} {place} {seed}",
                        )
                    )
        return found

    def loss(self, arm: str, size: float, tokens: float) -> float:
        """Without noise."""
        e, a, b, alpha, beta = self.truth
        u0, u1 = self.gains.get(arm, (0.0, 0.0))
        gain = math.exp((u0 + u1 * (math.log(6 * size * tokens) - self.centre)) / 2)
        return float(e + a * (size * gain) ** -alpha + b * (tokens * gain) ** -beta)

    @staticmethod
    def slowdown(arm: str) -> float:
        """An arm's seconds over the baseline's."""
        return SLOWDOWN if arm == "gain" else 1.0

    def unchanged(self, *, by_clock: bool = False) -> list[str]:
        """Arms but the control that gain nothing, by compute or by the clock."""
        flat = [arm for arm, (_, u1) in self.gains.items() if u1 == 0 and arm != "control"]
        slower = {arm: math.log(self.slowdown(arm)) if by_clock else 0.0 for arm in flat}
        return [arm for arm in flat if math.isclose(self.gains[arm][0], slower[arm], abs_tol=1e-9)]

    @property
    def centre(self) -> float:
        """ln C0."""
        return float(np.mean([math.log(6 * size * size * horizon) for size, horizon in product(self.sizes, self.horizons)]))


_MIXED = {
    "control": (0.0, 0.0),
    "gain": (math.log(1.05), 0.0),
    "none": (0.0, 0.0),
    "loss": (math.log(0.97), 0.0),
    "growing": (0.02, 0.01),
}
_NOTHING = dict.fromkeys(("control", "first", "second", "third", "fourth"), (0.0, 0.0))
_LARGER = {name: _MIXED[name] for name in ("control", "gain")} | {"margin": (math.log1p(MARGIN), 0.0)}
_SMALL_SIZES, _SIZES = (1e5, 3e5, 1e6), (5e6, 1.5e7, 4e7)

SCENARIOS = (
    Scenario("small, decays independent", SMALL, _SMALL_SIZES, (5, 20), 3, _MIXED, 0.0),
    Scenario("small, decays correlated", SMALL, _SMALL_SIZES, (5, 20), 3, _MIXED, 0.7),
    Scenario("small, nothing to find", SMALL, _SMALL_SIZES, (5, 20), 3, _NOTHING, 0.35),
    Scenario("small, noise falls with size", SMALL, _SMALL_SIZES, (5, 20), 3, _MIXED, 0.35, 0.4),
    Scenario("5 to 40 million", EPOCH, _SIZES, (5, 20, 80), 3, _LARGER, 0.35),
)


@dataclass(frozen=True)
class Outcome:
    """What one study's analysis was right about.

    Attributes:
        covered: what an interval is of, and whether it holds the truth; arms together.
        widths: of the same intervals.
        levels: the verdict's level, by arm.
        p, p_change, p_clock: of no gain, of one that does not change with compute, and of no gain by the clock, by arm; after
            Holm's correction but for the control.
    """

    covered: list[tuple[str, bool]]
    widths: list[tuple[str, float]]
    levels: dict[str, str]
    p: dict[str, float]
    p_change: dict[str, float]
    p_clock: dict[str, float]


def simulate(scenario: Scenario, resamples: int, number: int) -> Outcome:
    """Draw one study and analyze it."""
    analysis = analyze(scenario.observe(number), baseline="base", control="control", equivalence=MARGIN, resamples=resamples)
    intervals = list(_intervals(scenario, analysis))
    return Outcome(
        [(name, interval.low <= truth <= interval.high) for name, interval, truth in intervals],
        [(name, interval.high - interval.low) for name, interval, _ in intervals],
        {verdict.arm: verdict.level for verdict in analysis.verdicts},
        {one.arm: one.p_holm for one in analysis.multipliers},
        {one.arm: one.p_u1_holm for one in analysis.multipliers},
        {one.arm: one.p_seconds_holm for one in analysis.multipliers},
    )


def _intervals(scenario: Scenario, analysis: Analysis) -> Iterator[tuple[str, Estimate, float]]:
    for one in analysis.multipliers:
        u0, u1 = scenario.gains[one.arm]
        yield "u0, bootstrap", one.u0, u0
        yield "u0, profile", one.profile_u0, u0
        yield "u1, bootstrap", one.u1, u1
        yield "u1, profile", one.profile_u1, u1
        if u1 == 0 and one.profile_mean is not None:
            yield "mean multiplier, bootstrap", one.mean, math.exp(u0)
            yield "mean multiplier, profile", one.profile_mean, math.exp(u0)
            if one.in_seconds is not None:
                yield "multiplier by the clock", one.in_seconds, math.exp(u0) / scenario.slowdown(one.arm)
    for row in analysis.paired:
        cells = product(scenario.sizes, scenario.horizons) if row.size is None else [_cell(scenario, row.size, row.horizon)]
        truths = [scenario.loss(row.arm, size, size * tpp) - scenario.loss("base", size, size * tpp) for size, tpp in cells]
        truth = float(np.mean(truths))
        yield ("paired, all, t" if row.size is None else "paired, a cell, t"), row.by_t, truth
        if row.size is None:
            yield "paired, all, signs", row.by_signs, truth
    if analysis.surface:
        for name, truth in zip(("E", "A", "B", "alpha", "beta"), scenario.truth, strict=True):
            yield f"{name} of the surface", getattr(analysis.surface, name), truth


def _cell(scenario: Scenario, size: str, horizon: float | None) -> tuple[float, float]:
    assert horizon is not None
    return scenario.sizes[int(size.split()[1])], horizon


@dataclass(frozen=True)
class Summary:
    """Shares over all studies of a scenario.

    Attributes:
        scenario: the scenario's name.
        simulations: how many studies.
        coverage: of each interval.
        width: median, of each interval.
        found: shares of studies; names say of what.
    """

    scenario: str
    simulations: int
    coverage: dict[str, float]
    width: dict[str, float]
    found: dict[str, float]


def summarize(scenario: Scenario, outcomes: list[Outcome]) -> Summary:
    """Count."""
    names = list(dict.fromkeys(name for name, _ in outcomes[0].covered))
    coverage = {name: float(np.mean([hit for one in outcomes for key, hit in one.covered if key == name])) for name in names}
    width = {name: float(np.median([wide for one in outcomes for key, wide in one.widths if key == name])) for name in names}
    none, claims = scenario.unchanged(), ("better", "worse")
    flat = [arm for arm, (_, u1) in scenario.gains.items() if u1 == 0 and arm != "control"]
    found = {"control warned of, at p < 0.05": float(np.mean([one.p["control"] < 0.05 for one in outcomes]))}
    if none:
        refused = [any(one.p[arm] < 0.05 for arm in none) for one in outcomes]
        wrong = [any(one.levels[arm] in claims for arm in none) for one in outcomes]
        same = [one.levels[arm] == "equivalent" for one in outcomes for arm in none]
        found[FALSE] = float(np.mean(refused))
        found["such an arm called better or worse"] = float(np.mean(wrong))
        found["an arm without a gain called equivalent"] = float(np.mean(same))
    for name, arms, p in (
        (FALSE_CHANGE, flat, [one.p_change for one in outcomes]),
        (FALSE_CLOCK, scenario.unchanged(by_clock=True), [one.p_clock for one in outcomes]),
    ):
        if arms:
            found[name] = float(np.mean([any(each[arm] < 0.05 for arm in arms) for each in p]))
    if "margin" in scenario.gains:
        found[FALSE_SAME] = float(np.mean([one.levels["margin"] == "equivalent" for one in outcomes]))
    if "gain" in scenario.gains:
        found["the 5 % gain found"] = float(np.mean([one.levels["gain"] == "better" for one in outcomes]))
    if "loss" in scenario.gains:
        found["the 3 % loss found"] = float(np.mean([one.levels["loss"] == "worse" for one in outcomes]))
    if "growing" in scenario.gains:
        found["u1 = 0.01 found"] = float(np.mean([one.p_change["growing"] < 0.05 for one in outcomes]))
    return Summary(scenario.name, len(outcomes), coverage, width, found)


def run(scenario: Scenario, simulations: int, resamples: int, processes: int) -> Summary:
    """Simulate and count, in several processes."""
    outcomes = []
    with ProcessPoolExecutor(processes) as pool, Progress(scenario.name, simulations, unit="studies") as progress:
        for outcome in pool.map(partial(simulate, scenario, resamples), range(simulations), chunksize=4):
            outcomes.append(outcome)
            progress.advance()
    return summarize(scenario, outcomes)


def failures(summary: Summary) -> list[str]:
    """What is not as it has to be; the surface's own constants are reported and have no bounds."""
    low, high = BOUNDS
    bad = [
        f"{summary.scenario}: {name} covers {share:.1%}"
        for name, share in summary.coverage.items()
        if not name.endswith("of the surface") and not low <= share <= high
    ]
    for name in (FALSE, FALSE_CHANGE, FALSE_CLOCK, FALSE_SAME):
        if (wrong := summary.found.get(name, 0.0)) > 0.05:
            bad.append(f"{summary.scenario}: {name} in {wrong:.1%}")
    if summary.found.get("the 5 % gain found", 1.0) < 0.9:
        bad.append(f"{summary.scenario}: the gain is found in {summary.found['the 5 % gain found']:.1%}")
    return bad


def page(summaries: list[Summary]) -> str:
    """The tables, and under which conditions they hold."""
    method = "share of simulated studies whose 95 % interval holds the truth, arms together; in brackets the median width"
    listed = "\n".join(f"* {name}: {value}" for name, value in conditions("benchmarks.fitter", method).items() if name != "GPU")
    heads = ["interval", *(one.scenario for one in summaries)]
    lines = [
        [name, *(f"{one.coverage[name]:.1%} ({one.width[name]:.2g})" if name in one.coverage else "" for one in summaries)]
        for name in dict.fromkeys(name for one in summaries for name in one.coverage)
    ]
    found = [
        [name, *(f"{one.found[name]:.1%}" if name in one.found else "" for one in summaries)]
        for name in dict.fromkeys(name for one in summaries for name in one.found)
    ]
    bad = [sentence for one in summaries for sentence in failures(one)]
    low, high = BOUNDS
    judged = "all met" if not bad else "not met: " + "; ".join(bad)
    goals = f"Goals: intervals cover {low:.0%} to {high:.0%}, at most 5 % false claims, the gain found in 90 %: {judged}."
    count = "Studies: " + ", ".join(f"{one.simulations} of {one.scenario!r}" for one in summaries) + "."
    tables = [markdown_table(heads, lines), markdown_table(["claimed", *heads[1:]], found)]
    return "\n\n".join(["# The statistics on simulated studies", listed, f"{count} {goals}", *tables]) + "\n"


def write_rows(summaries: list[Summary], path: Path) -> None:
    """One line a number."""
    lines = ["scenario,simulations,kind,name,value"]
    for one in summaries:
        for kind, values in (("coverage", one.coverage), ("width", one.width), ("found", one.found)):
            lines += [f'"{one.scenario}",{one.simulations},{kind},"{name}",{value:.6g}' for name, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def read_rows(path: Path) -> list[Summary]:
    """What :func:`write_rows` wrote; nothing where there is no such file."""
    found: dict[str, Summary] = {}
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                name = row["scenario"]
                summary = found.setdefault(name, Summary(name, int(row["simulations"]), {}, {}, {}))
                values: dict[str, float] = getattr(summary, row["kind"])
                values[row["name"]] = float(row["value"])
    return list(found.values())


def main() -> None:
    """Parse, run, write and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=999)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="a part of a scenario's name; the others' rows in OUT.csv stay")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fitter"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = arguments.out.with_suffix(".csv")
    done = {one.scenario: one for one in read_rows(rows)} if arguments.only else {}
    for scenario in SCENARIOS:
        if not arguments.only or arguments.only in scenario.name:
            done[scenario.name] = run(scenario, arguments.simulations, arguments.resamples, arguments.processes)
            write_rows(list(done.values()), rows)
    summaries = list(done.values())
    text = page(summaries)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)
    if any(map(failures, summaries)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
