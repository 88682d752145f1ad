"""The command on a small model: what is measured against the formulas, and what is counted against what was arranged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibnorm_megatron.cli import main
from ibnorm_megatron.config import load_config
from ibnorm_megatron.norms.config import parse_norm
from ibnorm_megatron.norms.site import Site
from ibnorm_megatron.overhead.counting import count, moved_bytes
from ibnorm_megatron.overhead.formula import formula
from ibnorm_megatron.overhead.run import split_norms

from ..conftest import VOCABULARY

ROWS, WIDTH = 24, 64

#: By how many bytes a row what is kept on a CPU may differ from the kernels' statistics. PyTorch's LayerNorm has the mean in
#: one number, the kernels for float32 in two; eager IBNorm keeps the mean of g, and kernels know that the identity's is zero.
OFF = {"layernorm": -4, "ibnorm_identity": 4}


class Sites(nn.Module):
    """Norms, with what is around them in a model: something that keeps their output, and perhaps their input."""

    def __init__(self, norm: str, *, keeps_input: bool) -> None:
        super().__init__()
        values = json.loads(norm) if norm.startswith("{") else norm
        self.norms = nn.ModuleList(parse_norm(values).build(WIDTH, site=Site("attn_in", layer)) for layer in range(2))
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 8)
        self.keeps_input = keeps_input

    def forward(self, x: Tensor) -> Tensor:
        """x ``[n, d]`` to a loss."""
        for norm in self.norms:
            x = x @ self.matrix
            y = norm(x) @ self.matrix
            x = y * x if self.keeps_input else x + y
        return x.square().sum()


def _step(model: Sites) -> Any:
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        for half in x.split(ROWS // 2):  # two micro-batches
            model(half).backward()

    return step


@pytest.mark.parametrize(
    "norm",
    [
        "layernorm",
        "rmsnorm",
        "ibnorm_identity",
        "ibnorm_log",
        "ibnorm_tanh",
        '{"kind": "ibnorm_log", "scale": "relative"}',
        '{"kind": "ibnorm_tanh", "scale": "relative"}',
        '{"kind": "ibnorm_softsign", "center": false, "bias": false}',
    ],
)
def test_what_norms_keep_is_what_the_formula_says(norm: str) -> None:
    config = parse_norm(json.loads(norm) if norm.startswith("{") else norm)
    said = config.saved_bytes(WIDTH, 4)
    assert said is not None
    model = Sites(norm, keeps_input=False)
    counted = count(model, _step(model))
    assert counted.saved_bytes == 2 * ROWS * (said + OFF.get(norm, 0))
    assert counted.own_bytes == counted.saved_bytes
    shared = count(both := Sites(norm, keeps_input=True), _step(both))
    assert shared.saved_bytes == counted.saved_bytes
    assert shared.own_bytes == counted.saved_bytes - 2 * ROWS * WIDTH * 4, "x is kept by the product as well"


def test_operations_within_norms_are_counted_and_no_others() -> None:
    """LayerNorm is one operation each way: its bytes are those of its inputs and outputs."""
    model = Sites("layernorm", keeps_input=False)
    counted = count(model, _step(model))
    x, statistics, vector = ROWS * WIDTH * 4, 2 * ROWS * 4, WIDTH * 4
    assert counted.operations == (4, 4)  # two norms, two micro-batches
    assert counted.bytes.forward == 2 * (2 * x + statistics) + 4 * 2 * vector
    assert counted.bytes.backward == 2 * (3 * x + statistics) + 4 * 4 * vector  # gamma, beta, dgamma, dbeta
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()), "nothing is left behind"


def test_every_node_of_a_norm_s_backward_pass_is_its_own() -> None:
    """DyT is differentiated by autograd: its operations are those of a backward pass of it alone."""
    model = Sites("dyt", keeps_input=False)
    names: list[str] = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if moved_bytes(func, args, kwargs or {}, result):
                names.append(func.overloadpacket.__name__)
            return result

    counted = count(model, _step(model))
    norm, x = model.norms[0], torch.randn(ROWS // 2, WIDTH, requires_grad=True)
    with Names():
        y = norm(x)
    forward = len(names)
    parameters, dy = [x, *norm.parameters()], torch.ones_like(y)
    with Names():
        torch.autograd.grad(y, parameters, dy)
    assert counted.operations == (4 * forward, 4 * (len(names) - forward))
    assert forward == 4 and names[forward:].count("sum") == 3, names


def test_bytes_of_an_operation() -> None:
    a, row = torch.ones(6, 4), torch.ones(1, 4)

    def bytes_of(name: str, *arguments: Any, **keywords: Any) -> int:
        func = getattr(torch.ops.aten, name.split(".")[0])
        func = getattr(func, name.split(".")[1])
        return moved_bytes(func, arguments, keywords, func(*arguments, **keywords))

    assert bytes_of("add.Tensor", a, row) == 96 + 16 + 96
    assert bytes_of("add.Tensor", a, row.expand(6, 4)) == 96 + 16 + 96, "what repeats is read once"
    assert bytes_of("mul_.Tensor", a, row) == 96 + 16 + 96
    assert bytes_of("mul.out", a, row, out=torch.empty(6, 4)) == 96 + 16 + 96, "an output is written and not read"
    assert bytes_of("copy_.default", torch.empty(6, 4), a) == 96 + 96
    assert bytes_of("sum.dim_IntList", a, [-1], True) == 96 + 24
    for name, *arguments in (("view.default", a, [24]), ("split.Tensor", a, 2, 0), ("t.default", a), ("empty_like.default", a)):
        assert bytes_of(name, *arguments) == 0, name  # type: ignore[arg-type]


def test_the_formula_of_a_model_is_of_all_its_sites() -> None:
    norm = "{default: rmsnorm, layers.1.mlp_in: ibnorm_log, embedding: layernorm}"
    config = load_config("configs/tiny_llama.yaml", [f"model.norm={norm}", "model.qk_norm=per_head", "train.precision=fp32"])
    model, found = config.model, formula(config)
    d, head = model.hidden_size, model.head_dim
    rms, log, layer = (parse_norm(kind) for kind in ("rmsnorm", "ibnorm_log", "layernorm"))
    heads = model.num_layers * (model.num_attention_heads + model.num_key_value_heads)
    whole = 2 * model.num_layers + 1 - 1  # before each sub-layer and at the end, but for one
    for what, size in (("flops", ()), ("bytes_moved", (4,))):
        of = [getattr(one, what)(d, *size) for one in (rms, log, layer)]
        of_head = getattr(rms, what)(head, *size)
        for name in ("forward", "backward"):
            rows = [getattr(cost, name) for cost in of]
            assert getattr(getattr(found, what), name) == whole * rows[0] + rows[1] + rows[2] + heads * getattr(of_head, name)
    saved = [one.saved_bytes(d, 4) for one in (rms, log, layer)]
    assert found.saved_bytes == whole * saved[0] + saved[1] + saved[2] + heads * rms.saved_bytes(head, 4)
    assert found.share == found.flops.total / model.flops_per_token(config.train.sequence_length)
    half = formula(load_config("configs/tiny_llama.yaml", ["model.norm=rmsnorm", "train.precision=bf16"]))
    assert half.saved_bytes == (2 * model.num_layers + 1) * (2 * d + 4)
    unknown = formula(load_config("configs/tiny_llama.yaml", ["model.norm=normalnorm"]))
    assert (unknown.flops, unknown.share, unknown.bytes_moved, unknown.saved_bytes) == (None,) * 4


def test_norms_and_overrides_may_stand_mixed() -> None:
    given = ["rmsnorm", "train.steps=3", "{kind: ibnorm_tanh, lambda: 2}", "model.norm={kind: rmsnorm}", "a-b"]
    assert split_norms(given) == ([given[0], given[2], given[4]], [given[1], given[3]])


@pytest.mark.slow
def test_the_command(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "overhead.json"
    shape = [f"model.vocab_size={VOCABULARY}", "model.qk_norm=per_head", "train.global_batch_size=4", "train.steps=3"]
    norms = ["--norms", "layernorm", "rmsnorm", "{kind: ibnorm_log, scale: relative}", "dyt"]
    arguments = ["overhead", "configs/tiny_llama.yaml", f"data.path={prepared}", *shape, *norms, "train.micro_batch_size=2"]
    assert main([*arguments, "--steps", "2", "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["format"] == "ibnorm overhead"
    assert [entry["norm"] for entry in report["norms"]] == ["rmsnorm, qk per_head", *(
        f"{label}, qk per_head" for label in ("layernorm", "ibnorm_log(scale=relative)", "dyt")
    )]  # fmt: skip
    off = {"layernorm": -4}
    config = load_config("configs/tiny_llama.yaml", [*shape, "train.micro_batch_size=2"])
    model, tokens = config.model, config.train.tokens_per_step()
    rows = 2 * model.num_layers + 1 + model.num_layers * (model.num_attention_heads + model.num_key_value_heads)
    for entry in report["norms"]:
        name, by_formula, measured = entry["norm"].split(",")[0], entry["formula"], entry["measured"]
        assert f"{sum(by_formula['flops_a_token'].values()):,}" in shown
        if name != "dyt":
            assert measured["saved_bytes_a_token"] == by_formula["saved_bytes_a_token"] + rows * off.get(name, 0), name
            assert measured["saved_bytes_alone_a_token"] == measured["saved_bytes_a_token"], name
        else:  # autograd keeps the results of its steps
            assert measured["saved_bytes_a_token"] > by_formula["saved_bytes_a_token"]
        for name_of_pass in ("forward", "backward"):
            # However few operations PyTorch takes, they read and write what has to be, but statistics.
            assert measured["bytes_moved_a_token"][name_of_pass] > 0.95 * by_formula["bytes_moved_a_token"][name_of_pass]
            assert 0 < measured["share_of_step"][name_of_pass] < 0.9
            assert measured["operations_a_step"][name_of_pass] > 0
        assert len(measured["step_seconds"]) == 2 and min(measured["step_seconds"]) > 0
    of_layernorm = report["norms"][1]["measured"]
    # A norm is an operation each way for each of two micro-batches; heads of q and k are rows of one.
    assert of_layernorm["operations_a_step"]["forward"] == 2 * (4 * model.num_layers + 1)
    assert report["norms"][0]["measured"]["to_first"] == {"median": 1.0, "quartiles": [1.0, 1.0]}
    assert report["tokens_a_step"] == tokens and not (tmp_path / "runs").exists()
    refused = tmp_path / "thesis.json"
    refused.write_text("[]")
    assert main([*arguments, "--json", str(refused)]) == 2 and refused.read_text() == "[]"
