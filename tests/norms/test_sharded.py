"""IBNorm over a hidden dimension that is sharded over processes."""

from __future__ import annotations

import pytest

from ..distributed import run_ranks, torchrun


@pytest.mark.parametrize("processes", [2, 3])
def test_equals_the_whole_row_with_two_collectives_forward_and_one_backward(processes: int) -> None:
    run_ranks(processes, "tests.workers.sharded_norm")


def test_fused_stages_equal_the_whole_row_with_as_many_collectives() -> None:
    torchrun(2, "-m", "tests.workers.sharded_norm", "fused")
