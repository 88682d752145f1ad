"""Prompt and dataset entropy against spectra that are known, and against the definition computed the long way."""

from __future__ import annotations

import math

import pytest
import torch

from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.observations import Observations
from ibnorm_megatron.information.prompts import PromptEntropy, linear_entropy


def _rows(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n * d))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_orthogonal_tokens_of_known_lengths(alpha: float) -> None:
    squares = torch.tensor([4.0, 2.0, 1.0, 1.0]).double()
    turned = torch.linalg.qr(_rows(7, 7).double())[0][:4]
    shares = squares / 8
    expected = -float((shares * shares.log()).sum()) if alpha == 1 else -math.log(float(shares.square().sum()))
    assert math.isclose(linear_entropy(squares.sqrt()[:, None] * turned, alpha), expected, rel_tol=1e-10)


def test_the_prompts_mean_is_over_documents_as_defined() -> None:
    documents = torch.tensor([4, 4, 4, 9, 9, 9, 9, 9, 4, 2])  # document 2 has one token, which has no entropy
    rows = _rows(10, 3)
    expected, shares = [], []
    for document in (4, 9):
        tokens = rows[documents == document].double()
        tokens = tokens - tokens.mean(0)
        tokens = tokens / tokens.norm(dim=1, keepdim=True)
        p = torch.linalg.svdvals(tokens).square()
        p = p[p > 1e-12] / p.sum()
        expected.append(-float((p * p.log()).sum()))
        shares.append(expected[-1] / math.log(3))
    (found,) = measure(PromptEntropy(), Observations(rows, documents=documents))
    assert math.isclose(found.value, sum(expected) / 2, rel_tol=1e-6)
    assert math.isclose(found.details["share"], sum(shares) / 2, rel_tol=1e-6)
    assert found.n == 2 and math.isnan(found.low) and "too few" in found.reason


def test_the_datasets_entropy_is_that_of_means() -> None:
    rows, documents = _rows(60, 4), torch.arange(60) // 5
    (found,) = measure(PromptEntropy(dataset=True, scaled=False), Observations(rows, documents=documents))
    means = rows.double().view(12, 5, 4).mean(1)
    p = torch.linalg.svdvals(means).square()
    p = p / p.sum()
    assert math.isclose(found.value, -float((p * p.log()).sum()), rel_tol=1e-6)
    assert found.n == 12 and "one matrix" in found.reason


def test_scaling_undoes_lengths_and_the_entropy_is_at_most_the_logarithm_of_the_width() -> None:
    rows, documents = _rows(2000, 6), torch.arange(2000) // 50
    (found,) = measure(PromptEntropy(), Observations(rows, documents=documents))
    lengths = 1 + torch.arange(2000)[:, None] % 7
    centred = rows - rows.view(40, 50, 6).mean(1).repeat_interleave(50, 0)
    (again,) = measure(PromptEntropy(), Observations(3 * centred, documents=documents))
    assert math.isclose(again.value, found.value, rel_tol=1e-5)
    (raw,) = measure(PromptEntropy(scaled=False), Observations(centred * lengths, documents=documents))
    assert not math.isclose(raw.value, found.value, rel_tol=1e-4)
    assert 0.9 * math.log(6) < found.value < math.log(6) and found.low < found.value < found.high


def test_documents_of_equal_tokens_have_no_entropy() -> None:
    (found,) = measure(PromptEntropy(), Observations(torch.ones(9, 3), documents=torch.arange(9) // 3))
    assert math.isnan(found.value) and "no document" in found.reason
