"""Data that many tests train on: real text, prepared once a session by the real command's code."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from ibnorm_megatron.quiet import quiet

quiet()

VOCABULARY = 512


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
