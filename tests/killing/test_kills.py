"""A run that is killed at any moment, and started again by the same command, ends as if nothing had happened.

A sample: ``python -m benchmarks.kills`` kills hundreds of times. Both go through every case in :data:`~.plans.CASES`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ..conftest import VOCABULARY
from .harness import Lost, Yard
from .launches import Kill
from .plans import CASES, MOMENTS, WINDOWS, Case, HalfADraft, Meddler, Vandal, random_kill
from .state import differing, named_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Yard]:
    with Yard(prepared, VOCABULARY, tmp_path_factory.mktemp("yard")) as yard:
        yield yard


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_run_killed_at_random_is_the_undisturbed_one(yard: Yard, case: Case) -> None:
    chance = random.Random(case.name)  # noqa: S311
    peace = yard.undisturbed(case)
    kills = [random_kill(chance, peace) for _ in range(3)]
    first = Kill(0, "call", call=chance.randint(5, peace.calls[0] // 2))  # one that strikes, however fast the machine is
    tale = yard.story(case, [first, *kills], chance.uniform(0.0, 0.3), HalfADraft(chance))
    assert tale.kills


def test_a_run_killed_at_one_moment_after_the_other_gets_there(yard: Yard) -> None:
    """One run, whose starts all die: between every two steps that a checkpoint, an index or a record takes to be there."""
    kills = [Kill(0, "call", call=n, pattern=moment) for moment, n in MOMENTS]
    tale = yard.story(CASES[0], kills)
    assert [kill for kill, _, _ in tale.kills] == kills, "all struck"


def test_all_ranks_die_while_a_draft_grows(yard: Yard) -> None:
    """And leave it half-written: the harness sees it from outside, and kills all at once."""
    kills = [Kill(None, "seen", pattern=WINDOWS[0]) for _ in range(2)]
    tale = yard.story(CASES[3], kills)
    assert [kill for kill, _, _ in tale.kills] == kills, "all struck"


def test_no_step_of_the_file_system_is_a_bad_moment(yard: Yard) -> None:
    """Every 24th of all calls; the start after it is killed at the same call."""
    case = CASES[0]
    (calls,) = yard.undisturbed(case).calls
    hit = set()
    for call in range(5, calls + 1, 24):
        tale = yard.story(case, [Kill(0, "call", call=call), Kill(0, "call", call=call)])
        assert tale.kills
        hit |= {where for _, where, _ in tale.kills}
    # Threads write drafts meanwhile, so which calls are of steps changes: one of them is named.
    tale = yard.story(case, [Kill(0, "call", call=2, pattern="open metrics.jsonl")])
    hit |= {where for _, where, _ in tale.kills}
    assert {"building or opening the index", "steps", "writing the draft"} <= hit


def test_a_run_that_lost_something_is_found_out(yard: Yard) -> None:
    """The harness itself: a start that goes on from an older state gives the same curve, and is no less a loss."""
    case = CASES[0]
    late = Kill(0, "call", call=1, pattern="os.rename checkpoints/.step-00000008.tmp")

    class SetBack(Meddler):
        was: str | None = None

        def touch(self, run: Path) -> None:
            self.was = named_checkpoint(run)
            if self.was == "step-00000006":
                (run / "checkpoints" / "latest").write_text("step-00000004")

        def newest(self, run: Path) -> str | None:
            return self.was

    with pytest.raises(Lost, match=r"went on at \[4\] after \[\], but the newest complete state was step-00000006"):
        yard.story(case, [late], meddler=SetBack())

    class Rewrite(Meddler):
        def touch(self, run: Path) -> None:
            if (metrics := run / "metrics.jsonl").is_file():
                metrics.write_text(metrics.read_text().replace('"lr": ', '"lr": 1', 1))

    with pytest.raises(Lost, match="came out differently:\nrecords/0/lr"):
        yard.story(case, [late], meddler=Rewrite())


def test_damaged_checkpoints_and_pointers_cost_no_more_than_the_way_from_the_older_one(yard: Yard) -> None:
    """A file is cut, gone, or one bit of it turned over, and the start after that is killed as well."""
    chance = random.Random(3)  # noqa: S311
    done = set()
    for case in (CASES[0], CASES[4]):
        kills = [Kill(0, "call", call=1, pattern=f"os.rename checkpoints/.step-{step:08d}.tmp") for step in (6, 8, 10, 12)]
        vandal = Vandal(chance, often=1.0)
        assert yard.story(case, kills, meddler=vandal).kills
        done |= set(vandal.done)
    assert len(done) >= 2


def test_states_are_compared_bit_for_bit() -> None:
    zero, nan = torch.tensor([0.0, float("nan")]), float("nan")
    assert not [*differing({"a": zero, "b": [nan, 1]}, {"a": zero.clone(), "b": [nan, 1]})]
    assert [*differing({"a": zero}, {"a": torch.tensor([-0.0, nan])})] == ["/a: tensors differ"]
    assert [*differing({"a": zero}, {"a": zero.double()})] == ["/a: tensors differ"]
    assert [*differing({"a": [1], "step_seconds": 1}, {"a": [2], "step_seconds": 2})] == ["/a/0: 1 is not 2"]
    assert [*differing({"a": 1}, {})] == ["/a is on one side only"]
