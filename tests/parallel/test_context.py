"""The exchanges of context parallelism, and attention that keeps to documents across them."""

from __future__ import annotations

import pytest

from ..distributed import run_ranks


@pytest.mark.parametrize("ranks", [2, 3])
def test_exchanges_keep_order_and_gradients(ranks: int) -> None:
    run_ranks(ranks, "tests.workers.context")


@pytest.mark.parametrize("ranks", [2, 3])
def test_documents_are_those_of_the_whole_sequence(ranks: int) -> None:
    run_ranks(ranks, "tests.workers.documents")
