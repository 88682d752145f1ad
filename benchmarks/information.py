"""What each estimator of information says of data whose information is known, and where it may be believed.

    OMP_NUM_THREADS=1 python -m benchmarks.information --out benchmarks/results/information

An estimator passes a case where its mean over draws is within 0.05 nats or a tenth of the truth, whichever is more
(Renyi's, which is no estimate of it: where dependence is found and independence is not, at every bandwidth and order).
`ibnorm_megatron/information/regions.py` holds what follows: rows and width from which every case passes. A test holds the
regions to the table that this writes.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ibnorm_megatron.information.estimator import Estimator, measure
from ibnorm_megatron.information.gaussian import Gaussian
from ibnorm_megatron.information.infonce import InfoNce
from ibnorm_megatron.information.ksg import Ksg
from ibnorm_megatron.information.measure import Measure
from ibnorm_megatron.information.probe import Probe
from ibnorm_megatron.information.renyi import Renyi
from ibnorm_megatron.progress import Progress

from .conditions import conditions, markdown_table
from .information_cases import Case, classes, gaussian, parity
from .information_claims import Claim, claims

#: Of the mean over draws: nats, or this share of the truth.
NATS, SHARE = 0.05, 0.1


@dataclass(frozen=True)
class Row:
    """One estimate of one draw."""

    case: str
    n: int
    d: int
    labels: int
    draw: int
    estimator: str
    setting: str
    truth: float
    estimate: float
    low: float
    high: float
    bias: float
    null: float
    excess: float
    p: float
    seconds: float
    reason: str


@dataclass(frozen=True)
class Job:
    """Draws of one case and the estimators that see them."""

    make: str
    arguments: tuple[float, ...]
    fall: float
    draws: int
    estimators: tuple[Estimator, ...]

    def case(self, draw: int) -> Case:
        """The draw with this number."""
        make = {"gaussian": gaussian, "classes": classes, "parity": parity}[self.make]
        shape = {} if self.make == "parity" else {"fall": self.fall}
        noise = {"noise": sigma} if (sigma := _noise(self.estimators)) else {}
        return make(*self.arguments, **shape, **noise, seed=draw)  # type: ignore[operator]


def jobs(quick: bool) -> list[Job]:
    """Everything that is tried; ``quick`` takes the small ones, once."""
    covariances: tuple[Estimator, ...] = (Gaussian(), Gaussian(shrink=True))
    found = []
    for n, d, draws in (
        (1000, 4, 5),
        (4000, 4, 5),
        (1000, 32, 5),
        (4000, 32, 3),
        (400, 128, 2),
        (4000, 128, 2),
        (16000, 256, 2),
    ):
        for fall in (0.0, 1.0):
            found += [Job("gaussian", (n, d, *kind), fall, draws, covariances) for kind in _kinds(d)]
    for n, d, draws in ((4000, 2, 3), (16000, 8, 1), (4000, 32, 1), (16000, 32, 1)):
        found += [Job("gaussian", (n, d, *kind), 1.0, draws, (InfoNce(),)) for kind in _kinds(d)]
    for n, d, draws in ((1000, 2, 5), (4000, 2, 3), (1000, 4, 3), (4000, 4, 3), (4000, 8, 1), (4000, 16, 1)):
        found += [Job("gaussian", (n, d, *kind), 0.0, draws, (Ksg(),)) for kind in _kinds(d)]
    for n, d, draws in ((400, 4, 2), (400, 32, 2), (800, 32, 1), (800, 256, 1)):
        found += [Job("gaussian", (n, d, *kind), 0.0, draws, (Renyi(),)) for kind in _kinds(d)]
    probes = (Probe(), Probe(hidden=128))
    for n, d, bits, draws in ((1000, 4, 2, 3), (1000, 32, 2, 3), (4000, 32, 3, 3), (4000, 256, 3, 1), (16000, 256, 3, 1)):
        found += [Job("classes", (n, d, bits, information), 1.0, draws, probes) for information in (0.0, 1.0)]
    found += [Job("classes", (n, d, 6, 3.0), 1.0, 1, probes) for n, d in ((16000, 32), (16000, 256))]
    found.append(Job("classes", (16000, 256, 8, 3.0), 1.0, 1, probes))
    found.append(Job("parity", (4000, 4, 1.5), 0.0, 2, probes))
    for n, d in ((400, 4), (800, 32)):
        for information in (0.0, 1.0):
            found.append(Job("classes", (n, d, 3, information), 0.0, 1, (Renyi(against="labels"),)))
    if quick:
        found = [Job(one.make, one.arguments, one.fall, 1, one.estimators) for one in found if one.arguments[0] <= 1000]
        found = [one for one in found if one.arguments[1] <= 4]
    return found


def run(found: Sequence[Job], progress: Progress) -> Iterator[Row]:
    """Every row, in the order of the jobs."""
    for job in found:
        for draw in range(job.draws):
            case = job.case(draw)
            for estimator in job.estimators:
                begun = time.process_time()
                measures = measure(estimator, case.data, draw, anywhere=True)
                seconds = (time.process_time() - begun) / len(measures)
                yield from (_row(case, draw, one, seconds) for one in measures)
            progress.advance(note=case.name)


def passes(rows: Sequence[Row]) -> bool:
    """Whether an estimator may be believed in a case, by the draws of it."""
    if rows[0].estimator.startswith("renyi"):
        found = [row.p <= 0.05 for row in rows]
        return all(found) if rows[0].truth > 1e-9 else not all(found)
    bias = float(np.mean([row.bias for row in rows]))
    return not math.isnan(bias) and abs(bias) <= max(NATS, SHARE * rows[0].truth)


def grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Draws of the same case, estimator and setting together."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.estimator, row.setting, row.case, str(row.n), str(row.d), str(row.labels))
        found.setdefault(key, []).append(row)
    return found


def read(path: Path) -> list[Row]:
    """The rows of a table that was written before."""
    kinds = {one.name: {"str": str, "int": int, "float": float}[str(one.type)] for one in fields(Row)}
    with path.open(newline="") as file:
        return [Row(**{name: kinds[name](value) for name, value in line.items()}) for line in csv.DictReader(file)]  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write OUT.csv, OUT_claims.csv and OUT.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="files without their endings")
    parser.add_argument("--quick", action="store_true", help="the smallest cases, one draw of each, and no claims")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = jobs(options.quick)
    with Progress("information", sum(job.draws for job in found)) as progress:
        rows = list(run(found, progress))
    _write(options.out.with_suffix(".csv"), rows)
    said = [] if options.quick else claims()
    _write(options.out.with_name(options.out.name + "_claims.csv"), said)
    method = f"CPU seconds of all estimates: {sum(row.seconds for row in rows):.0f}"
    options.out.with_suffix(".md").write_text(report(rows, said, conditions("benchmarks.information", method)))


def report(rows: Sequence[Row], said: Sequence[Claim], under: dict[str, str]) -> str:
    """The page."""
    lines = []
    for (estimator, setting, case, n, d, labels), draws in sorted(grouped(rows).items(), key=_order):
        mean = float(np.mean([row.estimate for row in draws]))
        interval = f"{np.mean([row.low for row in draws]):.3f} to {np.mean([row.high for row in draws]):.3f}"
        null = "" if math.isnan(draws[0].null) else f"{np.mean([row.null for row in draws]):.3f}"
        p = "" if math.isnan(draws[0].p) else f"{max(row.p for row in draws):.2f}"
        why = draws[0].reason if math.isnan(mean) else "passes" if passes(draws) else "fails"
        cells = [estimator, setting, case, n, d, labels if labels != "0" else "", str(len(draws)), f"{draws[0].truth:.3f}"]
        cells += ["" if math.isnan(mean) else f"{mean:.3f}", "" if "nan" in interval else interval]
        cells += ["" if math.isnan(mean) else f"{mean - draws[0].truth:+.3f}", null, p, why]
        lines.append(cells)
    heads = [
        "estimator",
        "setting",
        "case",
        "n",
        "d",
        "labels",
        "draws",
        "truth",
        "estimate",
        "interval",
        "bias",
        "null",
        "p",
        "",
    ]
    text = ["# Estimators of information against known truth", ""]
    text += [f"- {name}: {value}" for name, value in under.items()]
    text += ["", f"Passing: within {NATS} nats or {SHARE:.0%} of the truth; Renyi's: dependence found, independence not.", ""]
    text += ["Estimates and intervals are means over draws; null is the mean under permutation, p the largest.", ""]
    text += [markdown_table(heads, lines), ""]
    if said:
        text += ["## Figures that were noted before", ""]
        cells = [[one.what, one.noted, one.found] for one in said]
        text += [markdown_table(["what", "noted", "here"], cells), ""]
    return "\n".join(text)


def _kinds(d: int) -> list[tuple[float, int]]:
    """Information and rank: independent, of rank 2, and of full rank where that is more."""
    return [(0.0, 1), (2.0, 2), *([(2.0, d)] if d > 2 else [])]


def _noise(estimators: tuple[Estimator, ...]) -> float:
    return next((one.noise.sigma for one in estimators if isinstance(one, Gaussian | InfoNce)), 0.0)


def _row(case: Case, draw: int, one: Measure, seconds: float) -> Row:
    named = [f"{name} {one.details[name]:g}" for name in ("alpha", "multiple") if name in one.details]
    null = one.null.mean if one.null else math.nan
    bias, p = one.value - case.truth, one.details.get("p", math.nan)
    head = (case.name, case.n, case.d, case.labels, draw, one.estimator, ", ".join(named), case.truth)
    return Row(*head, one.value, one.low, one.high, bias, null, one.excess, p, round(seconds, 3), one.reason)


def _order(item: tuple[tuple[str, ...], list[Row]]) -> tuple[object, ...]:
    (estimator, setting, case, *_), (first, *_) = item
    return estimator, first.labels, first.d, first.n, case, setting


def _write(path: Path, rows: Sequence[Row] | Sequence[Claim]) -> None:
    if rows:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [one.name for one in fields(rows[0])], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
