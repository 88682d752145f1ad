"""Names of layouts, shrinking, bounds, and what the command refuses; nothing here starts a rank."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ibnorm_megatron.cli import main
from ibnorm_megatron.config import Config, load_config, parse_config
from ibnorm_megatron.norms.site import Site
from ibnorm_megatron.reports import check_json_path
from ibnorm_megatron.verify import DEFAULT_LAYOUTS, Options
from ibnorm_megatron.verify.bounds import Bounds, derive, update_sensitivity, weight_rounding
from ibnorm_megatron.verify.data import MadeSequences
from ibnorm_megatron.verify.layouts import Case, parse_layout
from ibnorm_megatron.verify.messages import Finding
from ibnorm_megatron.verify.report import Report, Row, write_report
from ibnorm_megatron.verify.run import _plan
from ibnorm_megatron.verify.shrink import base_values


def _config(name: str = "tiny_llama", *overrides: str) -> Config:
    return load_config(f"configs/{name}.yaml", overrides)


def _case(name: str, config: Config | None = None) -> Case:
    case, problems = parse_layout(name, config or _config())
    assert not problems
    return case


def test_a_name_says_what_to_run_on_how_many_processes() -> None:
    case = _case("tp2-sp-dp3-zero2-acc4-bf16-offload")
    assert case.processes == 6 and case.data == 3 and case.accumulate == 4
    assert set(case.for_batch(24)) == {
        "parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=2", "parallel.offload_optimizer=true",
        "train.precision=bf16", "train.micro_batch_size=2",
    }  # fmt: skip
    assert case.variant == ()
    assert _case("pp2").accumulate == 4, "1F1B has to have more micro-batches than stages"
    assert _case("pp4-tied-qkfull").variant == ("model.tie_embeddings=true", "model.qk_norm=full")
    assert _case("cp2-docs").documents and not case.documents and _case("cp2-docs").overrides == _case("cp2").overrides
    dropping = _case("tp2-dropout")
    assert dropping.dropout and "model.dropout=0.1" in dropping.overrides
    assert "model.dropout=0.3" in _case("dropout", _config("tiny_llama", "model.dropout=0.3")).overrides


def test_own_is_the_layout_of_the_config() -> None:
    config = _config("tiny_llama", "parallel.tensor=2", "parallel.sequence=true", "train.precision=bf16")
    case = _case("own-dp2", config)
    assert case.processes == 4
    assert {"parallel.tensor=2", "parallel.sequence=true", "train.precision=bf16"} <= set(case.overrides)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tp2-spp", "did you mean 'sp'?"),
        ("tp0", "no token"),
        ("", "no token"),
        ("tp2-tp4", "both set parallel.tensor"),
        ("bf16-fp16", "bf16 and fp16 both set train.precision"),
        ("sp", "no tokens to shard"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name: str, said: str) -> None:
    _, problems = parse_layout(name, _config())
    assert any(said in str(problem) for problem in problems), problems


def test_the_default_layouts_cover_what_there_is() -> None:
    cases = [_case(name) for name in DEFAULT_LAYOUTS]
    assert len(set(DEFAULT_LAYOUTS)) == len(DEFAULT_LAYOUTS) >= 16
    assert {case.processes for case in cases} == {2, 4}
    tokens = {token for name in DEFAULT_LAYOUTS for token in name.split("-")}
    assert tokens >= {
        "sp",
        "ulysses",
        "offload",
        "recompute",
        "selective",
        "bf16",
        "fp16",
        "tied",
        "untied",
        "qkhead",
        "qkfull",
    }
    assert tokens >= {"docs", "tp2", "pp2", "cp2", "dp2", "dropout", "zero0", "zero1", "zero2", "zero3"}


def test_made_documents_are_uneven_and_change_nothing_else() -> None:
    plain, made = (MadeSequences(32, 331, 1, documents=documents) for documents in (False, True))
    longest = []
    for index in range(16):
        sample, without = made.sample(index), plain.sample(index)
        numbers, positions = sample.pop("documents"), sample.pop("position_ids")
        assert all(torch.equal(tensor, without[name]) for name, tensor in sample.items())
        lengths = numbers.bincount()
        assert numbers.dtype == torch.int32 and torch.equal(numbers, numbers.unique_consecutive(return_inverse=True)[1].int())
        assert torch.equal(positions, torch.cat([torch.arange(length) for length in lengths]))
        longest.append(int(lengths.max()))
    assert {1, 32} < set(longest) and len(set(longest)) > 4


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "llama_70b", "gpt2_1.5b"])
def test_the_small_model_is_of_the_same_kind_and_every_default_layout_can_have_it(name: str, tmp_path: Path) -> None:
    config = _config(name)
    cases = [_case(layout, config) for layout in DEFAULT_LAYOUTS]
    base, notes = base_values(config, cases, 3, full=False)
    path = tmp_path / "base.json"
    path.write_text(json.dumps(base))
    for case in cases:
        settings = [*case.for_batch(base["train"]["global_batch_size"]), *case.variant]
        assert parse_config(path, settings, world_size=case.processes)[1] == []
    small, large = load_config(path).model, config.model
    for field in ("position_embedding", "activation", "linear_bias", "tie_embeddings", "norm", "norm_placement", "qk_norm"):
        assert getattr(small, field) == getattr(large, field), field
    grouped = large.num_key_value_heads < large.num_attention_heads
    assert (small.num_key_value_heads < small.num_attention_heads) == grouped
    assert sum(small.num_params().values()) < 300_000
    assert math.isclose(small.init_std * small.hidden_size**0.5, large.init_std * large.hidden_size**0.5)
    assert all(small.padded_vocab_size(tensor) > small.vocab_size for tensor in (1, 2, 4))
    assert any("vocab_size" in note for note in notes)


def test_layers_that_differ_in_their_norms_are_all_kept() -> None:
    norm = "{default: layernorm, layers.5: ibnorm_log, layers.9-10.mlp_in: none, final: rmsnorm, attn_sub: dyt}"
    config = _config("gpt2_124m", f"model.norm={norm}")
    base, notes = base_values(config, [_case("pp2")], 3, full=False)
    small = Config.model_validate(base).model
    was, kept = config.model.norm_sites(), [0, 5, 9, 11]
    sites = small.norm_sites()
    assert small.num_layers == 4 and any("0, 5, 9, 11" in note for note in notes)
    assert sites[Site("final")] == was[Site("final")]
    for new, old in enumerate(kept):
        for name in ("attn_in", "attn_sub", "mlp_in"):
            assert sites.get(Site(name, new)) == was.get(Site(name, old)), (name, old)
    assert list(small.problems()) == []


def test_a_batch_and_layers_that_every_layout_can_share() -> None:
    base, notes = base_values(_config(), [_case("dp3-acc2"), _case("pp4"), _case("tp2-sp-cp2")], 3, full=False)
    assert base["train"]["global_batch_size"] % 6 == 0 and base["model"]["num_layers"] == 4
    assert base["train"]["sequence_length"] % 8 == 0
    assert "num_layers 2 -> 4" in notes


def test_default_layouts_that_the_model_cannot_have_are_left_out_with_the_reason(tmp_path: Path) -> None:
    config = _config("tiny_llama", "model.num_key_value_heads=1", "model.num_layers=3")
    plan = _plan(config, Options(full=True), tmp_path)
    assert {case.name for case in plan.cases} | plan.left_out.keys() == set(DEFAULT_LAYOUTS)
    assert "model.num_key_value_heads is 1" in plan.left_out["tp2-sp"] and "model.num_layers" in plan.left_out["pp2"]
    assert {"dp2-zero3-acc2", "cp2"} <= {case.name for case in plan.cases}


def _bounds(name: str, precision: str = "fp32") -> Bounds:
    model = _config().model
    return derive(model, _case(name), precision, sequence_length=32, sequences=8, labels=100.0)  # type: ignore[arg-type]


def test_bounds_follow_from_roundings() -> None:
    fp32, bf16, fp16 = _bounds("tp2"), _bounds("tp2", "bf16"), _bounds("tp2", "fp16")
    # Thousands of terms on the path: hundreds of roundings in the root, and 3 sigma of 2^-24 / sqrt(3) each.
    assert 1e-6 < fp32.gradient < 2e-5
    assert fp32.loss < fp32.gradient <= fp32.norm
    assert 8 / 1.01 < bf16.gradient / fp16.gradient < 8 * 1.01, "three bits fewer"
    assert bf16.gradient < 0.2, "half a gradient would pass otherwise"
    assert _bounds("tp8").gradient > fp32.gradient > _bounds("dp2").gradient
    assert Bounds.at(fp32.gradient, 3) == 3 * fp32.gradient


def test_what_a_step_of_adamw_responds_to() -> None:
    assert update_sensitivity(0.9, 0.95, 1) == pytest.approx(1.25)
    assert 1.25 < update_sensitivity(0.9, 0.95, 5) < update_sensitivity(0.9, 0.999, 100) < 4
    assert weight_rounding(4) == pytest.approx(2 * weight_rounding(1))


def test_a_finding_is_measured_by_its_bound() -> None:
    assert Finding("", "", "", 2e-6, 1e-6).excess == pytest.approx(2)
    assert Finding("", "", "", 0.0, 0.0).kept and Finding("", "", "", 0.0, 0.0).excess == 0
    assert not Finding("", "", "", float("inf"), 1.0).kept
    assert not Finding("", "", "", float("nan"), 1.0).kept


def test_the_first_kind_of_comparison_that_failed_is_named() -> None:
    findings = [
        Finding("gradient of step 1", "a", "A", 1e-7, 1e-6),
        Finding("gradient of step 1", "b", "B", 1e-3, 1e-6),
        Finding("gradient of step 1", "c", "C", 1e-2, 1e-6),
        Finding("gradient of step 2", "a", "A", 1.0, 1e-6),
    ]
    row = Row("tp2", 2, findings=findings)
    assert not row.kept and row.worst == findings[2] and row.broken == findings[1:3]
    assert Row("tp2", 2, findings=findings[:1]).worst == findings[0]


def _report(path: str = "x.yaml") -> Report:
    return Report(path, [], {}, [], 3, [Row("tp2", 2, error="rank 1: [red] ValueError")], {"cp2": "no"}, 1.0)


def test_a_report_replaces_its_like_and_nothing_else(tmp_path: Path) -> None:
    path, other = tmp_path / "report.json", tmp_path / "thesis.json"
    write_report(path, _report())
    check_json_path(path, "verify")
    write_report(path, _report("y.yaml"))
    report = json.loads(path.read_text())
    assert report["config_file"] == "y.yaml" and report["kept"] is False and report["layouts"][0]["error"]
    other.write_text("[1]")
    for wrong in (other, tmp_path, tmp_path / "no" / "report.json"):
        assert main(["verify", "configs/tiny_llama.yaml", "--json", str(wrong)]) == 2
    assert other.read_text() == "[1]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layouts", "tp2-zz,qq,pp2"], ["'zz'", "'qq'"]),
        (["--layouts", "pp2-zero3,zero0-bf16,tp2"], ["pp2-zero3", "for ever", "zero0-bf16", "wrong first"]),
        (["--layouts", "dp64"], ["64 processes"]),
        (["--layouts", "tp3-pp3", "--full"], ["num_layers", "num_attention_heads"]),
        (["--steps", "0"], ["--steps"]),
        (["--timeout", "0"], ["--timeout"]),
        (["model.hidden_size=7"], ["hidden_size"]),
    ],
)
def test_what_cannot_work_is_refused_all_at_once(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "configs/tiny_llama.yaml", *arguments]) == 2
    errors = capsys.readouterr().err
    assert all(part in errors for part in said), errors
    assert "Traceback" not in errors
