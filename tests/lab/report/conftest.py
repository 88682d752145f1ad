"""The example's report, written once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ibnorm_megatron.lab import report
from ibnorm_megatron.lab.results import Analysis

from . import example

#: Would be a script, if names and reasons were not escaped.
EVIL = "<script>document.title = 'taken'</script> & $x_1$"


@pytest.fixture(scope="package")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of the whole study, with a reason that tries to be a script, and a try that failed before it went well."""
    folder = tmp_path_factory.mktemp("study")
    entries = example.entries()
    last = entries[-1]
    entries.insert(-1, replace(last, status="failed", reason=EVIL, loss=None, folder=last.folder))
    (folder / last.folder).mkdir(parents=True)
    due = replace(example.due(), finished=False, total_estimate=400, unfair=(("edge", "an optimum is at the end of its grid"),))
    return report.write(example.analysis(), example.study(folder), entries, due, folder)


@pytest.fixture(scope="package")
def young_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of a study that is still tuning, by a program that does not measure sigma / lambda."""
    folder = tmp_path_factory.mktemp("young")
    tuning = [entry for entry in example.entries(realised=False) if entry.trial.stage in ("tune", "further")]
    return report.write(without_results(), example.study(folder), tuning, None, folder)


def without_results() -> Analysis:
    """Of no observation at all."""
    nothing = {"observations": (), "paired": (), "surface": None, "multipliers": (), "verdicts": (), "warnings": ()}
    return replace(example.analysis(), control=None, **nothing)


@pytest.fixture(scope="package")
def foreign_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of results that were logged elsewhere: no study, no ledger, no surface, and an arm of a strange name."""
    seen = [replace(each, run="", cluster="", seconds=float("nan")) for each in example.observations()]
    analysis = example.analysis()
    analysis = replace(analysis, observations=tuple(seen), multipliers=(), surface=None, warnings=("no surface: one horizon",))
    return report.write(analysis, None, [], None, tmp_path_factory.mktemp("foreign"))
