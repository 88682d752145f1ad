"""Declared regions against the committed table, and the benchmark itself on its smallest cases."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from benchmarks import information
from benchmarks.information import Row, grouped, passes, read
from ibnorm_megatron.information.registry import ESTIMATORS

from ..distributed import ROOT

TABLE = ROOT / "benchmarks" / "results" / "information.csv"

#: Entropies are definitions and not in the table.
MEASURED = [name for name in ESTIMATORS if not name.startswith("entropy")]


@pytest.fixture(scope="module")
def cases() -> list[list[Row]]:
    """Draws of the same case, estimator and setting together."""
    return list(grouped(read(TABLE)).values())


@pytest.mark.parametrize("name", MEASURED)
def test_every_case_inside_a_region_passed(name: str, cases: list[list[Row]]) -> None:
    region, inside = ESTIMATORS[name].region, []
    for draws in cases:
        first = draws[0]
        if first.estimator == name and not region.refusal(first.n, first.d, first.labels) and not _unreadable(first):
            inside.append(draws)
            assert passes(draws), f"{first.case}, n {first.n}, d {first.d}: {[row.estimate for row in draws]}"
    assert inside or not region.steps
    kinds = {draws[0].truth > 0.1 for draws in inside}
    assert kinds == {False, True} or not region.steps, "a region rests on dependent and on independent cases"


@pytest.mark.parametrize("name", MEASURED)
def test_every_step_of_a_region_was_measured(name: str, cases: list[list[Row]]) -> None:
    measured = {(draws[0].d, draws[0].n) for draws in cases if draws[0].estimator == name}
    assert set(ESTIMATORS[name].region.steps) <= measured


@pytest.mark.parametrize("name", [name for name in MEASURED if name != "renyi-labels"])
def test_a_region_ends_where_something_failed(name: str, cases: list[list[Row]]) -> None:
    failed = [draws[0] for draws in cases if draws[0].estimator == name and not passes(draws) and not _unreadable(draws[0])]
    assert failed, "nothing that failed was tried: the region's border is not known"
    region = ESTIMATORS[name].region
    assert all(region.refusal(first.n, first.d, first.labels) for first in failed)


def _unreadable(row: Row) -> bool:
    """What an estimator says by design: a linear probe reads nothing of a parity, and a bound at its ceiling is withheld."""
    return (row.estimator == "probe-linear" and row.case.startswith("parity")) or "ceiling" in row.reason


def test_the_smallest_cases(tmp_path: Path) -> None:
    information.main(["--quick", "--out", str(tmp_path / "found")])
    rows = read(tmp_path / "found.csv")
    assert {"gaussian", "gaussian-ledoit-wolf", "ksg", "renyi", "probe-linear", "probe-mlp"} <= {row.estimator for row in rows}
    for row in rows:
        assert math.isclose(row.bias, row.estimate - row.truth, abs_tol=1e-12)
        assert row.estimator.startswith("renyi") == (not math.isnan(row.null))
    by_kind = {row.case.startswith(("Gaussian, independent", "independent")) for row in rows}
    assert by_kind == {False, True}
    page = (tmp_path / "found.md").read_text()
    assert page.count("\n|") == len(grouped(rows)) + 2 and "- command: " in page


def test_the_committed_page_is_that_of_the_committed_table() -> None:
    page = TABLE.with_suffix(".md").read_text()
    assert "## Figures that were noted before" in page
    for draws in grouped(read(TABLE)).values():
        mean = sum(row.estimate for row in draws) / len(draws)
        assert math.isnan(mean) or f"| {mean:.3f} |" in page
    with TABLE.with_name("information_claims.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            assert line["found"] in page
