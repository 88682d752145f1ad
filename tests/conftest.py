"""Data that many tests train on: real text, prepared once a session by the real command's code."""

from __future__ import annotations

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from ibnorm_megatron.quiet import quiet

quiet()

VOCABULARY = 512


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first, so that the last of them does not keep one worker busy when all others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def text_sources() -> list[str]:
    """About 1.5 MB of real source code: three packages of the standard library."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    return [str(stdlib / package) for package in ("asyncio", "email", "importlib", "json", "logging", "multiprocessing")]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, text_sources: list[str]) -> Path:
    """A prepared data folder with a vocabulary of :data:`VOCABULARY`."""
    from data_prep.prepare import Options, prepare

    folder = tmp_path_factory.mktemp("data") / "stdlib"
    prepare(Options(tuple(text_sources), folder, VOCABULARY, validation_fraction=0.1))
    return folder
