"""Data that many tests train on: real text, prepared once a session by the real command's code."""

from __future__ import annotations

import os
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.data.manifest import Manifest
from ibnorm_megatron.quiet import quiet

quiet()
os.environ["WANDB_MODE"] = "disabled"  # of log.wandb=auto, the default; tests of it say otherwise

VOCABULARY = 512


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first, so that the last of them does not keep one worker busy when all others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def prepare_folder(sources: Sequence[str], out: Path, vocab_size: int, **recipe: Any) -> Manifest:
    """What ``ibnorm prepare SOURCE ... --out DIR --vocab-size N`` does, in this process."""
    from data_prep.prepare import Options, prepare
    from data_prep.recipe import make_recipe

    values = {"sources": [{"path": source} for source in sources], "tokenizer": {"vocab_size": vocab_size}, **recipe}
    manifest = prepare(Options(make_recipe(values), out, workers=1))
    assert manifest is not None
    return manifest


@pytest.fixture(scope="session")
def text_sources() -> list[str]:
    """About 1.5 MB of real source code: three packages of the standard library."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    return [str(stdlib / package) for package in ("asyncio", "email", "importlib", "json", "logging", "multiprocessing")]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, text_sources: list[str]) -> Path:
    """A prepared data folder with a vocabulary of :data:`VOCABULARY`."""
    folder = tmp_path_factory.mktemp("data") / "stdlib"
    prepare_folder(text_sources, folder, VOCABULARY, validation_fraction=0.1)
    return folder
