"""Disturbances are what they say, the same for every model, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ibnorm_megatron.analysis.documents import Documents, read_documents
from ibnorm_megatron.analysis.losses import Losses, evaluate, hooked, on_output
from ibnorm_megatron.analysis.opening import find_sources, one_process, open_model
from ibnorm_megatron.analysis.robustness import DROP, NOISE, disturbances, disturbed_losses, domain_loss, gap
from ibnorm_megatron.model.language_model import LanguageModel


@pytest.mark.slow
def test_noise_and_drops_are_of_the_size_they_say(runs: dict[str, Path]) -> None:
    sources = find_sources([runs["layernorm"], runs["sub"]])
    data = sources[0].data
    assert data is not None
    documents = read_documents(data, "validation", sources[0].config.train.sequence_length, 4000)
    marks = []
    with one_process() as groups:
        for source in sources:
            module = open_model(source, groups)
            marks.append(_check(module, documents))
    np.testing.assert_array_equal(marks[0], marks[1])  # the same words are missing, whatever the model


def _check(module: LanguageModel, documents: Documents) -> np.ndarray:
    """What was done to embeddings, seen behind the disturbance; returns which words the strongest drop left out."""
    seen: list[Tensor] = []
    plain = evaluate(module, documents)
    with hooked([on_output(module.gpt.embedding, lambda x: seen.append(x.clone()) or x)]):
        evaluate(module, documents)
    clean = torch.cat([x.flatten(0, 1) for x in seen])
    found = list(disturbed_losses(module, documents, plain))
    assert len(found) == disturbances()
    assert [one.strength for one in found] == [*NOISE, *DROP]
    rises = {(one.kind, one.strength): one.rise.value for one in found}
    for kind, strengths in (("noise", NOISE), ("drop", DROP)):
        own = [rises[kind, strength] for strength in strengths]
        assert own == sorted(own)
        assert own[-1] > 1e-3
    np.testing.assert_array_equal(evaluate(module, documents).nats, plain.nats)
    return _behind(module, documents, plain, clean)


def _behind(module: LanguageModel, documents: Documents, plain: Losses, clean: Tensor) -> np.ndarray:
    """The decoder's first input under each disturbance."""
    seen: list[Tensor] = []
    handle = module.gpt.decoder.register_forward_pre_hook(
        lambda decoder, arguments, keywords: seen.append(keywords["hidden_states"].clone()), with_kwargs=True
    )
    batches = len(list(documents.batches(32)))
    with hooked([handle]):
        list(disturbed_losses(module, documents, plain))
    by_way = [torch.cat([x.flatten(0, 1) for x in seen[i : i + batches]]) for i in range(batches, len(seen), batches)]
    assert len(by_way) == disturbances()
    size = float(clean.double().square().mean().sqrt())
    for strength, x in zip(NOISE, by_way[: len(NOISE)], strict=True):
        noise = (x - clean).double()
        assert float(noise.std()) == pytest.approx(strength * size, rel=0.01)
        assert abs(float(noise.mean())) < 0.01 * strength * size
    missing = np.zeros(len(clean), dtype=bool)
    for strength, x in zip(DROP, by_way[len(NOISE) :], strict=True):
        missing = (x == 0).all(dim=-1).numpy()
        assert missing.mean() == pytest.approx(strength, abs=4 * (strength / len(clean)) ** 0.5)
        torch.testing.assert_close(x[~missing], clean[~missing], rtol=0, atol=0)
    return missing


def test_a_texts_loss_in_bits_a_byte_and_the_gap() -> None:
    tokens = np.array([[1, 2, 3], [4, 5, 0], [1, 1, 1]])
    counts = np.array([[True, True, True], [True, True, False], [True, True, True]])
    labels = np.array([[2, 3, 9], [5, 9, 0], [1, 1, 9]])
    documents = Documents(tokens, labels, counts, np.array([0, 0, 1]))
    losses = Losses(np.array([6.0, 2.0]), documents.labels_by_document)
    sizes = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 0])  # the end of a document, 9, stands for no text
    found = domain_loss("text", documents, losses, sizes)
    assert found.loss.value == pytest.approx(8 / 8)
    assert found.bits_per_byte.value == pytest.approx(8 / np.log(2) / (2 + 3 + 5 + 1 + 1))
    assert (found.documents, found.labels) == (2, 8)

    draw = np.random.default_rng(0)
    sides = [Losses(draw.normal(loss, 0.3, 200) * 50, np.full(200, 50)) for loss in (2.0, 2.1)]
    apart = gap(*sides)
    assert apart.value == pytest.approx(sides[1].mean - sides[0].mean)
    assert (apart.high - apart.low) / 2 == pytest.approx(1.96 * 0.3 * np.sqrt(2 / 200), rel=0.15)
