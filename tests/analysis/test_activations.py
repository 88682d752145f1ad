"""Activations on disk are those of the model, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ibnorm_megatron.analysis.activations import choose_sites, collect
from ibnorm_megatron.analysis.documents import read_documents
from ibnorm_megatron.analysis.information import frequent
from ibnorm_megatron.analysis.opening import find_sources, one_process, open_model
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.information.regions import LINEAR_PROBE
from ibnorm_megatron.model.norm_slots import norms_of
from ibnorm_megatron.norms.site import Site
from ibnorm_megatron.train.step import inputs

pytestmark = pytest.mark.slow


def test_they_are_what_norms_give_for_every_token_that_counts(runs: dict[str, Path], tmp_path: Path) -> None:
    (source,) = find_sources([runs["sub"]])
    assert source.data is not None
    documents = read_documents(source.data, "validation", source.config.train.sequence_length, 3000)
    with one_process() as groups, torch.no_grad():
        module = open_model(source, groups)
        found = collect(module, documents, choose_sites(module), tmp_path)
        assert list(found.sites) == [*(f"layers.{n}.attn_in" for n in range(source.config.model.num_layers)), "final"]
        seen = []
        handle = norms_of(module)[Site("attn_in", 1)].register_forward_hook(lambda m, a, y: seen.append(y.clone()))
        module(**inputs(next(iter(documents.batches(len(documents.tokens))))[1]))
        handle.remove()
        with pytest.raises(UserError, match=r"--site is 'layers\.0\.q': it gives 2 rows a token"):
            collect(module, documents, choose_sites(module, ["layers.0.q"]), tmp_path)
        with pytest.raises(UserError, match=r"--site is 'layers\.9\.mlp_in': the model has no norm there; choose among"):
            choose_sites(module, ["layers.9.mlp_in"])
    n = int(documents.counts.sum())
    values = found.sites["layers.1.attn_in"]
    assert isinstance(values, np.memmap)
    assert values.shape == (n, source.config.model.hidden_size)
    whole = seen[0].transpose(0, 1).numpy()[documents.counts]
    np.testing.assert_allclose(values, whole, rtol=2e-5, atol=2e-5)
    assert len(found.labels) == len(found.documents) == n
    _check_past(found, documents)


def _check_past(found, documents) -> None:
    """Tokens before, by walking over rows."""
    for k in (0, 1, 16):
        expected, number = {}, 0
        for row, columns in enumerate(documents.counts):
            for column in np.flatnonzero(columns):
                if column >= k:
                    expected[number] = documents.tokens[row, column - k]
                number += 1
        index, tokens = found.past(k)
        assert dict(zip(index.tolist(), tokens.tolist(), strict=True)) == expected


def test_rare_tokens_are_one_label() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.choice(300, 5000, p=np.arange(300, 0, -1) / np.arange(300, 0, -1).sum())
    labels = frequent(tokens)
    kept = set(labels.tolist()) - {-1}
    enough = LINEAR_PROBE.rows_per_label
    assert len(labels) / (len(kept) + 1) >= enough > len(labels) / (len(kept) + 2)
    counts = np.bincount(tokens, minlength=300)
    assert min(counts[list(kept)]) >= max(counts[list(set(range(300)) - kept)])
    np.testing.assert_array_equal(labels[labels >= 0], tokens[labels >= 0])
    few = np.arange(1000) % 3
    np.testing.assert_array_equal(frequent(few), few)
