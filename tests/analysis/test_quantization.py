"""Fake quantization against its definition, and its price against a model that was changed by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ibnorm_megatron.analysis.documents import Documents, read_documents
from ibnorm_megatron.analysis.losses import Losses, evaluate, ratio
from ibnorm_megatron.analysis.opening import find_sources, one_process, open_model
from ibnorm_megatron.analysis.quantization import Format, _tensors, evaluations, quantize, quantized_losses
from ibnorm_megatron.lab.results import LEVEL, Estimate
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.model.norm_slots import norms_of


def _nearest(x: Tensor, grid: Tensor) -> Tensor:
    """The number of a grid that is nearest to each."""
    return grid[(x[..., None] - grid).abs().argmin(dim=-1)]


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4), ("int3", 3)])
def test_integers_are_the_nearest_of_so_many(kind: Format, bits: int) -> None:
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    largest = x.abs().amax(dim=-1, keepdim=True)
    last = 2 ** (bits - 1) - 1
    found = quantize(x, largest, kind)
    for row in range(len(x)):
        grid = torch.arange(-last, last + 1) * (largest[row] / last)
        torch.testing.assert_close(found[row], _nearest(x[row], grid), rtol=1e-6, atol=1e-7)
        assert len(found[row].unique()) <= 2 * last + 1
    assert float((found - x).abs().max() / largest.max()) <= 0.5 / last * 1.0001


def test_fp8_is_e4m3_scaled_to_its_largest_number() -> None:
    """The grid by its definition: 3 bits of mantissa, exponents from -6 to 8, subnormal below, and no infinity."""
    normal = [m / 8 * 2.0**e for e in range(-6, 9) for m in range(8, 16) if m / 8 * 2.0**e <= 448]
    positive = torch.tensor([*(m * 2.0**-9 for m in range(8)), *normal])
    grid = torch.cat([-positive.flip(0), positive])
    x = torch.randn(4, 257, generator=torch.Generator().manual_seed(1))
    largest = x.abs().amax(dim=-1, keepdim=True)
    found = quantize(x, largest, "fp8") / largest * 448
    distance = (_nearest(x / largest * 448, grid) - x / largest * 448).abs()
    torch.testing.assert_close((found - x / largest * 448).abs(), distance, rtol=1e-4, atol=1e-4)
    assert float(found.abs().max()) == pytest.approx(448)


def test_zeros_stay_and_what_lies_beyond_is_clipped() -> None:
    x = torch.tensor([[0.0, 0.0], [5.0, -5.0]], dtype=torch.bfloat16)
    for kind in ("int8", "int3", "fp8"):
        found = quantize(x, torch.tensor([[0.0], [2.0]]), kind)
        assert found.dtype == torch.bfloat16
        assert found.tolist() == [[0.0, 0.0], [2.0, -2.0]]


def test_the_intervals_of_documents_are_those_of_a_ratio() -> None:
    """For many documents the bootstrap's half width is 1.96 standard errors of a ratio of two sums."""
    draw = np.random.default_rng(3)
    labels = draw.integers(20, 400, 800)
    nats = labels * draw.normal(0.1, 0.4, 800)
    found = ratio(nats, labels)
    rest = nats - found.value * labels
    half = 1.96 * np.sqrt(800 / 799 * (rest**2).sum()) / labels.sum()
    assert found.value == pytest.approx(nats.sum() / labels.sum())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)
    hits = sum(one.low <= 0.1 <= one.high for one in (_drawn(seed) for seed in range(300)))
    assert 0.91 <= hits / 300 <= 0.985, f"{LEVEL:.0%} intervals hold the truth in {hits} of 300"


def _drawn(seed: int) -> Estimate:
    draw = np.random.default_rng(seed)
    labels = draw.integers(20, 400, 60)
    return ratio(labels * draw.normal(0.1, 0.4, 60), labels)


@pytest.mark.slow
def test_the_price_is_that_of_a_model_changed_by_hand(runs: dict[str, Path]) -> None:
    (source,) = find_sources([runs["layernorm"]])
    assert source.data is not None
    length = source.config.train.sequence_length
    held_out, seen = (read_documents(source.data, split, length, 2500) for split in ("validation", "train"))
    with one_process() as groups:
        module = open_model(source, groups)
        plain = evaluate(module, held_out)
        found = list(quantized_losses(module, held_out, seen, plain))
        after = evaluate(module, held_out)
        by_hand = _by_hand(module, held_out, plain, "int3")
    assert len(found) == evaluations(module)
    np.testing.assert_array_equal(after.nats, plain.nats)  # no hook is left
    rows = {(one.place, one.scaling, one.format, one.layer): one for one in found}
    assert rows["norm", "token", "int3", None].rise.value == pytest.approx(by_hand, rel=1e-5)
    for place in ("norm", "linear"):
        for scaling in ("token", "channel"):
            errors = [rows[place, scaling, kind, None].error for kind in ("int8", "int4", "int3")]
            assert errors == sorted(errors)
            assert 0 < errors[0] < 0.03 < errors[2] < 0.6
    layers = [rows["norm", "token", "int3", layer].rise.value for layer in range(source.config.model.num_layers)]
    assert max(layers) < rows["norm", "token", "int3", None].rise.value


def _by_hand(module: LanguageModel, documents: Documents, plain: Losses, kind: Format) -> float:
    """The rise with every norm's forward replaced."""
    norms = norms_of(module).values()
    for norm in norms:
        whole = norm.forward
        norm.forward = lambda x, whole=whole: quantize(whole(x), whole(x).abs().amax(-1, keepdim=True), kind)
    rise = evaluate(module, documents).mean - plain.mean
    for norm in norms:
        del norm.forward
    return rise


@pytest.mark.slow
def test_every_matrix_product_is_given_what_was_rounded(runs: dict[str, Path]) -> None:
    """Four products a layer and the head: where a norm stands inside a linear layer, its output is what counts."""
    (source,) = find_sources([runs["sub"]])
    with one_process() as groups:
        module = open_model(source, groups)
        tensors = _tensors(module, "linear")
        norms = _tensors(module, "norm")
    layers = source.config.model.num_layers
    assert Counter(one.layer for one in tensors) == {None: 1, **dict.fromkeys(range(layers), 4)}
    inside = [one.name for one in tensors if "sub" in one.name]
    assert inside == [f"layers.{layer}.{site}" for layer in range(layers) for site in ("attn_sub", "mlp_sub")]
    assert len(norms) == layers * 6 + 1
