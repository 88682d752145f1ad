"""Attention that keeps to documents: every kernel by the formula, and a row of documents as the documents by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.model import attention
from ibnorm_megatron.model.cpu_attention import block_attention
from ibnorm_megatron.model.documents import cumulative_lengths, document_ends, document_mask, document_numbers
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group

from ..varlen import documents_of, install

LENGTHS = (1, 20, 11)  #: of the documents in a row


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1):
        yield


def test_ends_say_what_the_numbers_say() -> None:
    documents = torch.tensor([[0, 0, 1, 2, 2, 2], [0] * 6, [0, 1, 2, 3, 4, 5]], dtype=torch.int32)
    ends = document_ends(documents)
    assert ends.dtype == torch.int32
    assert ends.tolist() == [[2, 3, 6, 6, 6, 6, 6, 6], [6] * 8, [1, 2, 3, 4, 5, 6, 6, 6]]
    assert torch.equal(document_numbers(ends, 6), documents)
    assert torch.equal(document_numbers(ends.clamp(max=4), 4), documents[:, :4])
    for most, columns in ((7, 8), (8, 16), (16, 32)):  # few shapes, whatever the number of documents
        many = torch.arange(most + 1, dtype=torch.int32)[None]
        assert document_ends(many).shape == (1, columns) and torch.equal(document_numbers(document_ends(many), most + 1), many)
    for wrong in ([0, 2, 2], [1, 1, 2], [0, 1, 0]):
        with pytest.raises(AssertionError):
            document_ends(torch.tensor([wrong], dtype=torch.int32))


def test_cumulative_lengths_by_hand() -> None:
    """Rows of documents of 3 and 5 tokens and of 8; then the last 4 queries, of which none is in the first document."""
    ends = torch.tensor([[3, 8, 8], [8, 8, 8]], dtype=torch.int32)
    whole = [0, 3, 8, 8, 16, 16, 16]
    assert [t.tolist() for t in cumulative_lengths(ends, 8, 8)] == [whole, whole]
    assert [t.tolist() for t in cumulative_lengths(ends, 4, 8)] == [[0, 0, 4, 4, 8, 8, 8], whole]
    assert [t.tolist() for t in cumulative_lengths(ends.clamp(max=4), 2, 4)] == [[0, 1, 2, 2, 4, 4, 4], [0, 3, 4, 4, 8, 8, 8]]


def _by_formula(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
    """``[s, b, heads, d]`` of the last queries, in float64."""
    k, v = (t.double().repeat_interleave(q.size(2) // t.size(2), dim=2) for t in (k, v))
    early = k.size(0) - q.size(0)
    seen = (documents[:, early:, None] == documents[:, None]) & torch.ones(q.size(0), k.size(0)).bool().tril(early)
    scores = torch.einsum("sbhd,tbhd->bhst", q.double(), k) * q.size(3) ** -0.5
    return torch.einsum("bhst,tbhd->sbhd", scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1), v)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize(
    ("kernel", "queries", "keys"),
    [
        *((kernel, s, s) for kernel in ("block", "sdpa", "flash") for s in (1, 40, 129, 300)),
        *((kernel, 10, s) for kernel in ("sdpa", "flash") for s in (40, 30)),  # blocks are not asked for a part of a sequence
    ],
)
def test_every_kernel_keeps_to_documents(
    kernel: str, queries: int, keys: int, heads: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    kernels = {"block": block_attention, "sdpa": attention._scaled_dot_product_attention, "flash": attention._flash_attention}
    generator = torch.Generator().manual_seed(keys)
    q, dy = (torch.randn(queries, 5, heads, 16, generator=generator) for _ in range(2))
    k, v = (torch.randn(keys, 5, kv_heads, 16, generator=generator) for _ in range(2))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    documents = documents_of(5, 2 * keys)[:, :keys]
    ends = document_ends(documents_of(5, 2 * keys)).clamp(max=keys)  # of a longer sequence, as a context rank has it
    output, expected = kernels[kernel](q, k, v, 0.0, None, ends), _by_formula(q, k, v, documents)
    torch.testing.assert_close(output, expected.float(), rtol=1e-5, atol=2e-6)
    own, its = (torch.autograd.grad(y, leaves, dy.to(y.dtype)) for y in (output, expected))
    for gradient, wanted in zip(own, its, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=2e-5, atol=1e-5)
    assert torch.equal(document_mask(ends, queries, keys).any(-1), torch.ones(5, queries).bool())


def _config(name: str, *overrides: str) -> Config:
    return load_config(f"configs/{name}.yaml", ["model.norm=ibnorm_log", "train.sequence_length=32", *overrides])


def _model(config: Config) -> LanguageModel:
    return LanguageModel(config.model, Groups.current(config.parallel), config.train.precision, 1)


def _batch(rows: int = 2, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    """Rows of the same lengths of documents, positions counted anew in each."""
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(1024, (rows, sum(lengths)), generator=generator) for _ in range(2))
    positions = torch.cat([torch.arange(length) for length in lengths]).repeat(rows, 1)
    numbers = torch.cat([torch.full((length,), i, dtype=torch.int32) for i, length in enumerate(lengths)]).repeat(rows, 1)
    mask = (torch.rand(tokens.shape, generator=generator) < 0.8).float()
    return {"tokens": tokens, "labels": labels, "loss_mask": mask, "position_ids": positions, "documents": numbers}


def _gradients(module: nn.Module, *batches: dict[str, Tensor]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses, and the sum of their gradients."""
    module.zero_grad()
    losses = [module(**batch) for batch in batches]
    for loss in losses:
        loss.backward()
    return [float(loss.detach()) for loss in losses], {name: p.grad.clone() for name, p in module.named_parameters()}


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    for name, gradient in expected.items():
        off = float((found[name] - gradient).norm() / gradient.norm())
        assert off <= bound, (name, off)


@pytest.mark.parametrize("kernel", ["block", "sdpa"])
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_a_row_of_documents_is_the_documents_by_themselves(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions count from the row's first token, which changes no difference between two; learned ones begin anew."""
    if kernel == "sdpa":
        monkeypatch.setattr(attention, "can_take", lambda query, key, dropout: False)
    module, row = _model(_config(name)), _batch()
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))]
    alone = [
        {key: tensor[:, start : start + length] for key, tensor in row.items() if key != "documents"}
        for start, length in zip(starts, LENGTHS, strict=True)
    ]
    logits = module.gpt(row["tokens"], row["position_ids"], document_ends(row["documents"])).detach()
    theirs = torch.cat([module.gpt(one["tokens"], one["position_ids"], None).detach() for one in alone], dim=1)
    torch.testing.assert_close(logits, theirs, rtol=1e-5, atol=1e-5)
    (loss,), gradients = _gradients(module, row)
    losses, summed = _gradients(module, *alone)
    assert loss == pytest.approx(sum(losses), rel=1e-6)
    _assert_same(gradients, summed, 1e-5)
    unmasked = float(module(**{key: tensor for key, tensor in row.items() if key != "documents"}).detach())
    assert abs(unmasked - loss) > 1e-4 * loss, "this test would not see a mask that is missing"


@pytest.mark.parametrize("overrides", [(), ("model.dropout=0.2",), ("model.qk_norm=true", "parallel.recompute=full")])
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_nothing_passes_from_one_document_to_the_next(name: str, overrides: tuple[str, ...]) -> None:
    module, row = _model(_config(name, "model.tie_embeddings=false", *overrides)), _batch(1)
    of_last = sum(LENGTHS[:2])
    row["loss_mask"] = torch.ones_like(row["loss_mask"])
    row["loss_mask"][:, :of_last] = 0.0
    row["tokens"] = torch.arange(32)[None]
    changed = row | {"tokens": row["tokens"].clone()}
    changed["tokens"][:, :of_last] += 500
    losses = []
    for batch in (row, changed):
        torch.manual_seed(0)
        attention.get_cuda_rng_tracker().states_["model-parallel-rng"] = torch.get_rng_state()
        (loss,), gradients = _gradients(module, batch)
        losses.append(loss)
        seen = gradients["gpt.embedding.word_embeddings.weight"].abs().sum(1)
        assert bool((seen[of_last:32] > 0).all()) and not seen[:of_last].any() and not seen[32:].any()
    assert losses[0] == losses[1]


def test_none_is_one_document() -> None:
    module, row = _model(_config("tiny_llama")), _batch()
    plain = {key: tensor for key, tensor in row.items() if key != "documents"}
    losses = [
        float(module(**batch).detach()) for batch in (plain, plain | {"documents": torch.zeros(2, 32, dtype=torch.int32)})
    ]
    assert losses[0] == losses[1]


def test_documents_of_a_part_of_the_sequence_are_refused() -> None:
    row = _batch()
    with pytest.raises(AssertionError, match=r"\(2, 16\)"):
        _model(_config("tiny_llama"))(**row | {"documents": row["documents"][:, :16]})


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_documents_are_found_again_where_a_layer_is_computed_again(recompute: str) -> None:
    """Two micro-batches before the first backward pass, as in a pipeline."""
    found = []
    for how in ("none", recompute):
        module, batches = _model(_config("tiny_llama", f"parallel.recompute={how}")), (_batch(), _batch(2, (9, 3, 20)))
        found.append(_gradients(module, *batches))
    assert found[0][0] == found[1][0]
    _assert_same(found[1][1], found[0][1], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["block", "sdpa"])
@pytest.mark.parametrize("compiled", ["layers", "norms"])
def test_compiled_layers_are_the_same_and_are_not_compiled_for_every_batch(
    compiled: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "sdpa":
        monkeypatch.setattr(attention, "can_take", lambda query, key, dropout: False)
    torch.compiler.reset()
    eager, module = (_model(_config("tiny_llama", f"model.compile={how}")) for how in ("none", compiled))
    batches = [_batch(2, lengths) for lengths in (LENGTHS, (32,), (4,) * 8, (1, 1, 30))]
    before = counters["stats"]["unique_graphs"]
    own = _gradients(module, batches[0])
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    assert compiled == "norms" or graphs == before + 2, "one for all layers and one for the loss"
    for batch in batches:
        own, its = _gradients(module, batch), _gradients(eager, batch)
        assert own[0] == pytest.approx(its[0], rel=1e-6)
        _assert_same(own[1], its[1], 1e-5)
    assert counters["stats"]["unique_graphs"] == graphs, "other documents are no other code"
    assert sum(counters["graph_break"].values()) == breaks
