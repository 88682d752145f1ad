"""Telemetry is the same in every layout, changes no run, survives a resume, and its gradients add up to the whole one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ibnorm_megatron.checkpoints.record import read_record
from ibnorm_megatron.norms import Site
from ibnorm_megatron.norms.modules import IBNorm
from ibnorm_megatron.norms.statistics import Figures, NormSums
from ibnorm_megatron.train.callbacks.norm_strength import NormStrength
from ibnorm_megatron.train.callbacks.records import TensorBoard
from ibnorm_megatron.train.callbacks.telemetry import variance_ratios
from ibnorm_megatron.train.callbacks.wandb_records import Wandb
from ibnorm_megatron.train.config import LogConfig
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import run_ranks

_ACCUMULATE = "train.micro_batch_size=2"

#: Sites of every kind: whole and sharded columns, a rank's own heads, with and without centring, lambda and gain.
_NORMS = {
    "default": {"kind": "ibnorm_log", "lambda": 0.05},
    "embedding": "layernorm",
    "mlp_in": {"kind": "ibnorm_tanh", "scale": "relative", "lambda": 1.0},
    "mlp_sub": "rmsnorm",
    "attn_out": {"kind": "ibnorm_softsign", "strength": "learnable", "lambda": 2.0},
    "final": {"kind": "rmsnorm", "unit_offset": True},
}
_MODEL = [f"model.norm={json.dumps(_NORMS)}", "model.num_layers=4"]


def _case(prepared: Path, run: Path, overrides: list[str], **more: Any) -> dict[str, Any]:
    given = [
        f"data.path={prepared}",
        f"run.dir={run}",
        f"model.vocab_size={VOCABULARY}",
        "log.console=false",
        "evaluate.batches=1",
    ]
    return {"config": "configs/tiny_llama.yaml", "overrides": [*given, *overrides], **more}


def _train(folder: Path, processes: int, cases: list[dict[str, Any]]) -> None:
    path = folder / f"cases{processes}.json"
    path.write_text(json.dumps(cases))
    run_ranks(processes, "tests.workers.resume", path, timeout=900)


#: Layouts by processes, each with the model that it trains; the run of that name is what it has to equal. Of a step's 6
#: sequences 3 are as many as are looked at, which data ranks cannot share equally.
LAYOUTS: dict[int, dict[str, tuple[str, list[str]]]] = {
    1: {
        "heads": ("heads", ["parallel.zero_stage=0"]),
        "sub": ("sub", ["parallel.zero_stage=0"]),
        "tied": ("tied", ["parallel.zero_stage=0"]),
        "heads recomputed": ("heads", ["parallel.recompute=full", _ACCUMULATE]),
    },
    2: {
        "heads tp2": ("heads", ["parallel.tensor=2"]),
        "heads tp2 sp": ("heads", ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=2"]),
        "sub tp2": ("sub", ["parallel.tensor=2"]),
        "sub tp2 sp": ("sub", ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=3"]),
        "tied pp2": ("tied", ["parallel.pipeline=2", _ACCUMULATE]),
        "heads pp2": ("heads", ["parallel.pipeline=2", "train.micro_batch_size=1"]),
        "heads cp2": ("heads", ["parallel.context=2"]),
        **{f"heads dp2 zero{stage}": ("heads", [f"parallel.zero_stage={stage}", _ACCUMULATE]) for stage in range(4)},
        "heads offloaded": ("heads", ["parallel.zero_stage=2", "parallel.offload_optimizer=true"]),
        "tied dp2": ("tied", ["parallel.zero_stage=3"]),
    },
    4: {
        "sub tp2 sp dp2": ("sub", ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=1", _ACCUMULATE]),
        "tied tp2 pp2": ("tied", ["parallel.tensor=2", "parallel.pipeline=2", _ACCUMULATE]),
    },
}  # fmt: skip
_OF_MODEL = {
    "heads": ["model.qk_norm=per_head"],
    "sub": ["model.norm_placement=sub", "model.qk_norm=full"],
    "tied": ["model.tie_embeddings=true", "model.norm_placement=peri"],
}
_COMMON = ["train.steps=2", "log.telemetry=1", "train.precision=fp32", "train.lr=1e-4", "train.global_batch_size=6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A run of two steps in each layout."""
    folder = tmp_path_factory.mktemp("telemetry")
    for processes, of_size in LAYOUTS.items():
        cases = []
        for name, (model, overrides) in of_size.items():
            cases.append(_case(prepared, folder / name, [*_COMMON, *_MODEL, *_OF_MODEL[model], *overrides]))
        _train(folder, processes, cases)
    return folder


def _assert_close(a: dict[str, float | None], b: dict[str, float | None], where: str) -> None:
    """Equal but for rounding; what one lacks the other lacks."""
    assert [name for name, value in a.items() if value is None] == [name for name, value in b.items() if value is None], where
    known = {name: value for name, value in b.items() if value is not None}
    assert {name: value for name, value in a.items() if value is not None} == pytest.approx(known, rel=1e-5, abs=1e-8), where


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for of_size in LAYOUTS.values() for name in of_size])
def test_every_layout_measures_the_same(trained: Path, name: str) -> None:
    reference = next(model for of_size in LAYOUTS.values() for own, (model, _) in of_size.items() if own == name)
    one, found = (RunFolder(trained / run).read_telemetry() for run in (reference, name))
    assert [record["step"] for record in found] == [1, 2]
    worst = 0.0
    for a, b in zip(one, found, strict=True):
        assert list(a["sites"]) == list(b["sites"])
        for site, figures in a["sites"].items():
            _assert_close(figures, b["sites"][site], site)
            worst = max(worst, *(abs(v - b["sites"][site][k]) / abs(v) for k, v in figures.items() if v))
        _assert_close(a["grad_norm"], b["grad_norm"], name)
    print(f"{name}: {worst:.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for of_size in LAYOUTS.values() for name in of_size])
def test_parts_add_up_to_the_whole_gradient(trained: Path, name: str) -> None:
    folder = RunFolder(trained / name)
    norms = [record["grad_norm"] for record in folder.read_metrics() if "loss" in record]
    for record, norm in zip(folder.read_telemetry(), norms, strict=True):
        parts = record["grad_norm"]
        assert (parts["head"] is None) == name.startswith("tied")
        assert all(part > 1e-4 * norm for part in parts.values() if part is not None)
        assert math.sqrt(sum(part**2 for part in parts.values() if part is not None)) == pytest.approx(norm, rel=1e-5)


@pytest.mark.slow
def test_what_there_is_of_every_site(trained: Path) -> None:
    sites = RunFolder(trained / "heads").read_telemetry()[0]["sites"]
    layer = ["attn_in", "q", "k", "attn_out", "mlp_in", "mlp_sub"]
    assert list(sites) == ["embedding", *(f"layers.{n}.{site}" for n in range(4) for site in layer), "final"]
    assert sites["embedding"]["lambda"] is sites["final"]["lambda"] is sites["layers.0.mlp_sub"]["contraction"] is None
    assert sites["final"]["gamma_mean"] == pytest.approx(1, abs=0.01)  # its weight is 0 at the start
    assert sites["layers.1.mlp_in"]["sigma_over_lambda"] == pytest.approx(1, rel=0.05)  # in units of sigma, but for eps
    assert 1e-6 < abs(sites["layers.1.attn_out"]["lambda"] / 2 - 1) < 1e-3  # learned
    for name, figures in sites.items():
        compresses = figures["contraction"] is not None
        assert compresses == (name not in ("embedding", "final") and not name.endswith("mlp_sub"))
        if compresses:
            assert 0 < figures["contraction"] < 1 and 0 < figures["slope"] < 1
    assert 0.1 < sites["layers.0.q"]["beyond_lambda"] < 0.9
    stds = [sites[name]["std"] for name in ("layers.2.attn_in", "layers.3.attn_in", "final")]
    assert sites["layers.3.attn_in"]["variance_ratio"] == pytest.approx((stds[1] / stds[0]) ** 2)
    assert sites["final"]["variance_ratio"] == pytest.approx((stds[2] / stds[1]) ** 2)
    assert sites["layers.0.attn_in"]["variance_ratio"] is sites["embedding"]["variance_ratio"] is None


def _records(folder: RunFolder) -> list[dict[str, Any]]:
    """Those of steps and evaluations. Events are of the machine as well: a rank that is slow."""
    return [record for record in folder.read_metrics() if "event" not in record]


_DROPOUT = "model.dropout=0.1"

#: Where a look could leave a trace: random numbers, compiled code, gathered statistics, weights in parts, loss scales.
UNCHANGED = {
    1: {
        "compiled": ["model.compile=layers", "train.precision=bf16", _ACCUMULATE],
        "compiled norms": ["model.compile=norms", _DROPOUT],
        "statistics": ["model.norm=batchnorm", _DROPOUT, "train.precision=bf16"],
        "recomputed": ["parallel.recompute=full", _DROPOUT, _ACCUMULATE],
    },
    2: {
        "noise": ["parallel.tensor=2", "model.norm=normalnorm", "model.qk_norm=full", _DROPOUT],
        "sequence": ["parallel.tensor=2", "parallel.sequence=true", "train.precision=bf16", _ACCUMULATE, _DROPOUT],
        "zero3": ["parallel.zero_stage=3", "train.precision=bf16", _ACCUMULATE, _DROPOUT],
        "zero2 fp16": ["train.precision=fp16", "parallel.zero_stage=2", "parallel.deepspeed={fp16: {initial_scale_power: 20}}"],
        "zero1 bf16": ["train.precision=bf16", "parallel.zero_stage=1", _ACCUMULATE],
        "stages": ["parallel.pipeline=2", "model.tie_embeddings=true", _ACCUMULATE, _DROPOUT],
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("processes", UNCHANGED)
def test_a_run_is_the_same_with_it_bit_for_bit_and_goes_on(tmp_path: Path, prepared: Path, processes: int) -> None:
    common = ["train.steps=6", "checkpoint.interval=3", "model.norm=ibnorm_log"]
    cases = []
    for name, overrides in UNCHANGED[processes].items():
        for way, interval in (("off", 0), ("on", 2)):
            given = [*common, f"log.telemetry={interval}", *overrides]
            cases.append(_case(prepared, tmp_path / f"{name} {way}", given, random=7))
        again = {"from": str(tmp_path / f"{name} on"), "step": 3}
        cases.append(_case(prepared, tmp_path / f"{name} again", [*common, "log.telemetry=2", *overrides], **again))
    _train(tmp_path, processes, cases)
    for name in UNCHANGED[processes]:
        off, on, again = (RunFolder(tmp_path / f"{name} {way}") for way in ("off", "on", "again"))
        curves = [
            [(r["step"], r.get("loss"), r.get("grad_norm"), r.get("val_loss")) for r in _records(folder)]
            for folder in (off, on, again)
        ]
        assert curves[0] == curves[1] == curves[2], name
        assert len(curves[0]) == 7
        ends = [read_record(folder.checkpoints / "step-00000006") for folder in (off, on, again)]
        hashes = [{file: record.hash for file, record in end.files.items()} for end in ends]
        assert hashes[0] == hashes[1] == hashes[2], name
        assert off.read_telemetry() == []
        assert not (off.path / "telemetry.jsonl").exists()
        looks = on.read_telemetry()
        assert [record["step"] for record in looks] == [2, 4, 6]
        assert again.read_telemetry() == looks, name  # those of steps 4 and 6 came once more, and those before are gone
        for record in looks:
            parts = [part for part in record["grad_norm"].values() if part is not None]
            whole = next(r["grad_norm"] for r in _records(on) if r["step"] == record["step"] and "loss" in r)
            if whole is not None:  # fp16 may have found an overflow
                assert math.sqrt(sum(part**2 for part in parts)) == pytest.approx(whole, rel=2e-5), name


def _figures(std: float, **more: Any) -> Figures:
    sums = NormSums.zeros(16)
    sums.add(IBNorm(16, lam=2.0), std * nn.functional.layer_norm(torch.randn(8, 16), (16,), eps=0.0))
    return sums.figures()


def test_variances_are_held_against_the_layer_before() -> None:
    sites = {
        Site("embedding"): 9.0, Site("attn_in", 0): 1.0, Site("mlp_in", 0): 3.0, Site("attn_in", 1): 2.0,
        Site("mlp_in", 1): 1.5, Site("mlp_sub", 1): 5.0, Site("final"): 4.0,
    }  # fmt: skip
    ratios = variance_ratios({site: _figures(std) for site, std in sites.items()})
    wanted = {Site("attn_in", 1): 4.0, Site("mlp_in", 1): 0.25, Site("final"): 4.0}
    assert {site: ratio for site, ratio in ratios.items() if ratio is not None} == pytest.approx(wanted, rel=1e-5)


def test_the_summary_has_the_geometric_mean_of_sigma_over_lambda() -> None:
    view = SimpleNamespace(figures=lambda trainer: {Site("attn_in", 0): _figures(2.0), Site("final"): _figures(0.5)})
    trainer: Any = SimpleNamespace(state=SimpleNamespace(step=3), summary={}, config=_config(3))
    NormStrength(view).on_end(trainer)  # type: ignore[arg-type]
    assert trainer.summary["sigma_over_lambda"] == pytest.approx(math.sqrt(1.0 * 0.25), rel=1e-5)


def _config(steps: int) -> Any:
    from ibnorm_megatron.norms import parse_norm

    model = SimpleNamespace(norm_sites=lambda: {Site("final"): parse_norm("ibnorm_log")})
    return SimpleNamespace(model=model, train=SimpleNamespace(steps=steps))


RECORD = {
    "step": 4,
    "grad_norm": {"mlp": 0.5, "head": None},
    "sites": {"layers.0.attn_in": {"std": 2.0, "lambda": None}, "final": {"std": 1.5, "outliers": 3}},
}
FLAT = {"telemetry/grad_norm/mlp": 0.5, "telemetry/layers.0.attn_in/std": 2.0, "telemetry/final/std": 1.5}
FLAT |= {"telemetry/final/outliers": 3}


def test_tensorboard_and_wandb_get_single_numbers() -> None:
    board, written = TensorBoard(), {}
    board._writer = SimpleNamespace(add_scalar=lambda name, value, step: written.update({(name, step): value}))
    board.on_telemetry(None, RECORD)  # type: ignore[arg-type]
    assert written == {(name, 4): value for name, value in FLAT.items()}
    wandb, logged = Wandb(LogConfig(wandb="offline")), []
    wandb._sender = SimpleNamespace(tell=lambda job: job(SimpleNamespace(log=logged.append)))  # type: ignore[assignment]
    wandb.on_telemetry(None, RECORD)  # type: ignore[arg-type]
    assert logged == [{"step": 4, **FLAT}]


def test_a_run_folder_keeps_lines_up_to_the_step_that_it_goes_on_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.claim("a: 1\n"):
        folder.begin({"git": "abc"}, 0)
        for step in (2, 4, 6):
            folder.append_telemetry({"step": step, "sites": {"final": {"kurtosis": math.nan if step == 4 else 3.0}}})
        folder.begin({"git": "abc"}, 4)
    sites = [record["sites"]["final"]["kurtosis"] for record in folder.read_telemetry()]
    assert sites == [3.0, None]
    assert '"step": 6' in (folder.path / "telemetry.superseded-1.jsonl").read_text()
