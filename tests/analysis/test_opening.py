"""A checkpoint of any layout is the model that wrote it, on one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ibnorm_megatron.analysis.documents import read_documents
from ibnorm_megatron.analysis.losses import evaluate
from ibnorm_megatron.analysis.opening import Source, find_sources, one_process, open_model
from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.loader import Loader
from ibnorm_megatron.data.prepared import Prepared
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.train.run_folder import RunFolder
from ibnorm_megatron.train.step import inputs

pytestmark = pytest.mark.slow


def _validation_loss(source: Source, module: LanguageModel, cache: Path) -> float:
    """As the run's own last evaluation: packed sequences, in its batches."""
    config = source.config
    assert source.data is not None
    dataset = SequenceDataset(source.data, "validation", config.train.sequence_length, 0, cache)
    size = config.train.global_batch_size
    loader = Loader(dataset, global_batch_size=size, micro_batch_size=size, data_rank=0, data_size=1)
    nats = labels = 0.0
    with torch.no_grad():
        for (batch,) in loader.one_pass(config.evaluate.batches):
            nats += float(module(**inputs(batch)))
            labels += batch.num_tokens
    return nats / labels


@pytest.mark.parametrize("name", ["layernorm", "sub", "batchnorm"])
def test_the_opened_model_has_the_loss_that_its_run_recorded(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    recorded = RunFolder(runs[name]).read_summary()
    assert recorded is not None
    (source,) = find_sources([runs[name]])
    assert (source.seed, source.record.step) == (1 if name != "batchnorm" else 2, 30)
    with one_process() as groups:
        found = _validation_loss(source, open_model(source, groups), tmp_path)
    assert found == pytest.approx(recorded["val_loss"], rel=1e-6)


def test_documents_begin_rows_and_stay_whole(runs: dict[str, Path]) -> None:
    (source,) = find_sources([runs["layernorm"]])
    assert source.data is not None
    most, length = 20_000, 64
    documents = read_documents(source.data, "validation", length, most)
    labels = documents.labels_by_document
    assert labels.sum() <= most
    assert labels.max() <= most // 16
    assert (labels > 0).all()
    texts = {}
    for folder, manifest, corpus in source.data.corpora:
        for shard in corpus.splits.get("validation", []):
            opened = open_shard(folder, shard, manifest)
            texts |= {tuple(opened[number][:9].tolist()): opened[number] for number in range(len(opened))}
    for number in range(documents.number):
        rows = np.flatnonzero(documents.document == number)
        counts = documents.counts[rows]
        tokens, following = documents.tokens[rows][counts], documents.labels[rows][counts]
        whole = texts[tuple(np.concatenate([tokens[:1], following])[:9].tolist())]
        np.testing.assert_array_equal(tokens, whole[: len(tokens)])
        np.testing.assert_array_equal(following, whole[1 : len(tokens) + 1])
    again = read_documents(source.data, "validation", length, most)
    np.testing.assert_array_equal(again.tokens, documents.tokens)


def test_losses_by_document_add_up_to_the_models_own(runs: dict[str, Path]) -> None:
    (source,) = find_sources([runs["sub"]])
    assert source.data is not None
    documents = read_documents(source.data, "validation", source.config.train.sequence_length, 6000)
    with one_process() as groups, torch.no_grad():
        module = open_model(source, groups)
        losses = evaluate(module, documents)
        whole = sum(float(module(**inputs(batch))) for _, batch in documents.batches(7))
        one = documents.document == 1
        first = next(iter(documents.batches(len(one))))[1].map(lambda tensor: tensor[torch.from_numpy(one)])
        own = float(module(**inputs(first)))
    assert losses.nats.sum() == pytest.approx(whole, rel=1e-5)
    assert losses.nats[1] == pytest.approx(own, rel=1e-5)
    assert losses.labels.sum() == documents.counts.sum()


def test_everything_wrong_with_runs_is_said_at_once(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        find_sources([tmp_path, runs["sub"], runs["sub"] / "checkpoints" / "step-00000030", tmp_path / "nowhere"])
    said = [str(problem) for problem in raised.value.problems]
    assert [text.partition(":")[0] for text in said] == [
        f"the folder is {tmp_path}",
        f"the run is {runs['sub'] / 'checkpoints' / 'step-00000030'}",
        f"the folder is {tmp_path / 'nowhere'}",
    ]
    assert "given twice" in said[1]


def test_a_run_whose_text_has_gone_says_so_when_it_is_needed(runs: dict[str, Path], prepared: Path) -> None:
    (source,) = find_sources([runs["layernorm"]])
    assert isinstance(source.data, Prepared)
    moved = prepared.with_name("moved")
    prepared.rename(moved)
    try:
        (source,) = find_sources([runs["layernorm"]])
    finally:
        moved.rename(prepared)
    assert source.data is None
    assert source.missing[0].value == str(prepared)
