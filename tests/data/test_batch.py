"""A micro-batch: stacked, with documents only where the samples have them."""

from __future__ import annotations

import torch
from torch import Tensor

from ibnorm_megatron.data.batch import Batch


def _sample(start: int) -> dict[str, Tensor]:
    tokens = torch.arange(start, start + 4)
    return {"tokens": tokens, "labels": tokens + 1, "loss_mask": torch.ones(4), "position_ids": torch.arange(4)}


def test_documents_are_there_if_the_samples_have_them() -> None:
    plain = Batch.of([_sample(0), _sample(10)])
    assert plain.documents is None and plain.map(lambda tensor: tensor[:, :2]).documents is None
    assert plain.map(lambda tensor: tensor[:, :2]).tokens.tolist() == [[0, 1], [10, 11]]
    numbers = torch.tensor([0, 0, 1, 1], dtype=torch.int32)
    batch = Batch.of([_sample(0) | {"documents": numbers}, _sample(10) | {"documents": 0 * numbers}])
    assert batch.documents is not None and batch.documents.dtype == torch.int32
    assert batch.documents.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]] and batch.num_tokens == 8
    halved = batch.map(lambda tensor: tensor[:, 2:])
    assert halved.documents is not None and halved.documents.tolist() == [[1, 1], [0, 0]]
