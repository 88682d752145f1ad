"""Looks at the committed study while it was under way: LayerNorm by another code path never differs from LayerNorm."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ibnorm_megatron.lab.analysis import analyze
from ibnorm_megatron.lab.pairing import Table
from ibnorm_megatron.lab.results import Observation

LEDGER = Path(__file__).parents[3] / "benchmarks" / "studies" / "norms" / "ledger.jsonl"


def _ends() -> list[Observation]:
    entries = [json.loads(line) for line in LEDGER.read_text().splitlines()[1:]]
    found = []
    for entry in entries:
        if (trial := entry.get("trial", {})).get("stage") == "main":
            place = (trial["arm"], trial["size"], trial["seed"], entry["parameters"], entry["tokens"], entry["flops"])
            found.append(Observation(*place, entry["loss"]))
    assert len(found) == 108
    return found


def _waits(one: Observation) -> Observation:
    return Observation(one.arm, one.size, one.seed, one.parameters, one.tokens, one.flops, math.nan)


@pytest.mark.parametrize("ended", [74, 78, 90, 108])
def test_losses_that_are_equal_to_a_few_ten_thousandths_give_a_multiplier_of_one(ended: int) -> None:
    """With delta far below the noise the multiplier was 0.940 (0.928 to 0.952) at 74 ends, of losses within 2e-4."""
    ends = _ends()
    pending = [_waits(one) for one in ends[ended:]]
    found = analyze(ends[:ended], baseline="layernorm", control="identity", equivalence=0.01, resamples=199, pending=pending)
    (identity,) = [one for one in found.multipliers if one.arm == "identity"]
    assert identity.mean.value == pytest.approx(1, abs=1e-3)
    assert identity.mean.low < 1 < identity.mean.high
    assert identity.mean.high - identity.mean.low < 0.03


def test_a_look_compares_what_all_arms_have() -> None:
    ends = _ends()
    there, pending = ends[:74], [_waits(one) for one in ends[74:]]
    table = Table.of(there, "layernorm", pending)
    assert len(table.good["layernorm"]) == 13
    settled = table.settled()
    places = {arm: set(own) for arm, own in settled.good.items()}
    assert len({frozenset(own) for own in places.values()}) == 1
    assert len(places["identity"]) == 12
    only = [one for one in there if one.arm != "tanh"]
    waiting = [*pending, *(_waits(one) for one in there if one.arm == "tanh")]
    assert len(Table.of(only, "layernorm", waiting).settled().good["identity"]) == 12  # nobody waits for an arm without any end
