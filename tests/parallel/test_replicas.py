"""Copies of a weight that differ by one bit are found, named, and end the run on every rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibnorm_megatron.parallel.replicas import bit_hash

from ..distributed import run_ranks
from .comparing import case

NORM, MATRIX, EMBEDDING = (
    "decoder.layers.1.pre_mlp_layernorm.weight",
    "decoder.layers.1.mlp.linear_fc2.weight",
    "embedding.word_embeddings.weight",
)
TP, PP = "parallel.tensor=2", "parallel.pipeline=2"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, list[tuple[str, int]]]:
    """What each rank said of each damaged run, and the step at which it ended."""
    folder = tmp_path_factory.mktemp("audit")
    runs = {
        "tensor": (NORM, TP),
        "tensor-zero3": (NORM, TP, "parallel.zero_stage=3"),
        "sharded": (MATRIX, TP),
        "data": (MATRIX, "parallel.zero_stage=2"),
        "context": (NORM, "parallel.context=2"),
        "tied": (EMBEDDING, PP, "model.tie_embeddings=true"),
        "never": (NORM, TP, "train.replica_audit=0"),
    }
    cases = {
        name: [weight, *case("tiny_llama", prepared, folder, name, "train.replica_audit=2", *overrides, steps=4)]
        for name, (weight, *overrides) in runs.items()
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    run_ranks(2, "tests.workers.audit", folder / "cases.json", folder / "said.json")
    found: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return found


@pytest.mark.parametrize(
    ("run", "weight", "over"),
    [
        ("tensor", NORM, "tensor"),
        ("tensor-zero3", NORM, "tensor"),
        ("data", MATRIX, "replica"),
        ("context", NORM, "replica"),
        ("tied", EMBEDDING, "embedding"),
    ],
)
def test_one_bit_on_one_rank_ends_the_run(said: dict[str, list[tuple[str, int]]], run: str, weight: str, over: str) -> None:
    for outcome, step in said[run]:
        assert step == 2
        assert f"the model after step is 2: {weight} differs between {over} ranks (on rank 1 from the first of them)" in outcome


@pytest.mark.parametrize("run", ["sharded", "never"])
def test_what_has_no_copies_or_is_not_looked_at_goes_on(said: dict[str, list[tuple[str, int]]], run: str) -> None:
    assert said[run] == [["nothing", 4]] * 2


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.data())
def test_a_changed_bit_changes_the_hash(values: list[float], data: st.DataObject) -> None:
    tensor = torch.tensor(values)
    before = bit_hash(tensor)
    place = data.draw(st.integers(0, len(values) - 1))
    tensor.view(torch.int32)[place] ^= 1 << data.draw(st.integers(0, 30))
    assert bit_hash(tensor) != before


def test_the_hash_knows_places_and_pieces() -> None:
    long = torch.arange((1 << 20) + 7, dtype=torch.int32).view(torch.float32)
    assert bit_hash(long) == bit_hash(long.clone())
    assert bit_hash(long) != bit_hash(long.flip(0)), "the order of elements counts"
    assert bit_hash(torch.tensor([0.0])) != bit_hash(torch.tensor([-0.0]))
    assert bit_hash(long.bfloat16()) != bit_hash(long)
