"""The real command: nothing is broken in a right house, and every fault is seen, far outside its bound, where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.verify import DEFAULT_LAYOUTS, Options, Report, Row, verify

FAR = 10.0  #: bounds that a fault has to be outside of


def _told(report: Report) -> str:
    """For the log of a test that fails."""
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(report.table())
    return captured.get() + "\n".join(row.details for row in report.rows)


@pytest.mark.slow
def test_the_default_layouts_of_a_llama(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    code = main(["verify", "configs/tiny_llama.yaml", "model.norm=ibnorm_log", "--json", str(path)])
    table, told = capsys.readouterr()
    assert code == 0, table + told
    report = json.loads(path.read_text())
    assert [row["name"] for row in report["layouts"]] == list(DEFAULT_LAYOUTS)
    assert {row["processes"] for row in report["layouts"]} == {2, 4} and len(DEFAULT_LAYOUTS) >= 16
    for row in report["layouts"]:
        assert row["name"] in table and row["kept"] and row["losses"][-1] > 0 and len(row["grad_norms"]) == report["steps"]
        parameters = row["parameters"]
        assert {"embedding.word_embeddings.weight", "decoder.layers.1.mlp.linear_fc2.weight"} <= parameters.keys()
        for name, of_one in parameters.items():
            whats = [entry["what"] for entry in of_one["compared"]]
            assert "copies of a weight" in whats and of_one["site"], name
            if "dropout" not in row["name"]:
                assert {f"gradient of step {step}" for step in (1, 2, 3)} | {"update after 3 steps"} <= set(whats), name
            assert all(entry["difference"] <= entry["bound"] for entry in of_one["compared"]), name
    assert report["config"]["model"]["norm"]["kind"] == "ibnorm" or "ibnorm" in str(report["config"]["model"]["norm"])
    assert any(line.startswith("vocab_size 1,024 -> ") for line in report["changed"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "overrides", "layouts"),
    [
        pytest.param(
            "tiny_gpt2",
            ["model.norm=ibnorm_tanh"],
            "tp2-sp,pp2,pp2-zero2-bf16-untied,tp2-sp-pp2-acc3,dp2-zero3-acc2,cp2-dp2-dropout,dp2-zero1-fp16-acc2,pp2-zero2-fp16,acc4,own-dp2",
            id="gpt2-tied",
        ),
        pytest.param(
            "tiny_llama",
            [
                "model.norm={default: ibnorm_log, embedding: layernorm, layers.1.attn_sub: {kind: ibnorm_tanh, lambda: 2}}",
                "model.norm_placement=sub",
                "model.qk_norm=full",
            ],
            "tp2-zero0,tp2-sp,tp2-sp-qkhead,tp2-sp-dp2-zero2-acc2,pp2-dp2,tp2-cp2-ulysses,dp2-zero2-offload-recompute",
            id="sub-qk-full",
        ),
        pytest.param(
            "tiny_llama",
            ["model.norm={kind: ibnorm_log, strength: learnable}", "model.norm_placement=peri", "model.qk_norm=per_head"],
            "tp2-sp,pp2,cp2,dp2-zero3-bf16-acc2",
            id="learned-lambda-peri-qk-per-head",
        ),
        pytest.param(
            "tiny_gpt2",
            ["model.norm=ibnorm_log", "model.mup_base_width=16"],
            "tp2-sp,pp2-zero2-bf16-untied,dp2-zero3-bf16-acc2,dp2-zero1-fp16-acc2,tp2-sp-dp2-zero2-acc2",
            id="mup",
        ),
        pytest.param("tiny_llama", ["model.norm=normalnorm"], "tp2-sp-recompute,dp2", id="norm-that-draws"),
        pytest.param("tiny_llama", ["model.norm=batchnorm"], "tp2-sp,dp2-acc2", id="norm-with-statistics"),
    ],
)
def test_nothing_is_broken(config: str, overrides: list[str], layouts: str) -> None:
    report = verify(f"configs/{config}.yaml", overrides, Options(tuple(layouts.split(","))))
    assert report.exit_code == 0, _told(report)
    assert not any(row.error for row in report.rows)


@pytest.mark.slow
def test_a_model_as_large_as_it_is() -> None:
    options = Options(("tp2-sp", "dp2-zero2-acc2"), steps=2, full=True)
    report = verify("configs/tiny_llama.yaml", ["model.vocab_size=300"], options)
    assert report.exit_code == 0, _told(report)
    assert report.config["model"]["hidden_size"] == 64 and report.config["model"]["vocab_size"] == 300
    assert report.config["train"]["sequence_length"] == 64
    assert report.notes == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "layouts"),
    [
        ("tiny_llama", "tp2-docs,cp2-docs,cp2-ulysses-docs,pp2-docs-zero2-recompute,dp2-zero3-docs-acc2,tp2-sp-docs-bf16-acc2"),
        ("tiny_llama", "tp2-sp-docs-dropout-selective,cp2-docs-dropout-recompute,tp2-sp-cp2-docs,pp2-cp2-docs-zero1"),
        ("tiny_gpt2", "tp2-sp-docs,cp2-ulysses-docs-selective,pp2-docs,docs-acc4,tp2-cp2-docs-recompute"),
    ],
)
def test_documents_are_kept_to_in_every_layout(config: str, layouts: str) -> None:
    report = verify(f"configs/{config}.yaml", ["model.norm=ibnorm_log"], Options(tuple(layouts.split(","))))
    assert report.exit_code == 0, _told(report)


def _broken_by(fault: str, *layouts: str, config: str = "tiny_llama", **options: Any) -> dict[str, Row]:
    options = {"steps": 2, **options}
    report = verify(f"configs/{config}.yaml", [], Options(layouts, initializer=f"tests.verify.faults:{fault}", **options))
    assert report.exit_code == 1, _told(report)
    print(_told(report))
    return {row.name: row for row in report.rows}


def _named(row: Row) -> list[str]:
    """Sites of what is broken first; all of it far outside."""
    assert row.broken and row.worst is not None
    assert row.worst.excess >= FAR
    return [finding.site for finding in row.broken]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["dropped_sum", "doubled_sum"])
def test_a_sum_of_partial_gradients_is_made_once(fault: str) -> None:
    rows = _broken_by(fault, "tp2-sp", "tp2-zero0", "tp2-sp-bf16", config="tiny_gpt2")
    assert rows["tp2-zero0"].kept, "without sequence parallelism there is nothing to sum"
    row = rows["tp2-sp"]
    assert row.worst is not None and row.worst.what == "gradient of step 1"
    for layer in (0, 1):
        assert {f"layers.{layer}.attn_in norm weight", f"layers.{layer} linear_fc2 bias"} <= set(_named(row))
    assert all("norm" in site or "linear_proj bias" in site or "linear_fc2 bias" in site for site in _named(row))
    assert not rows["tp2-sp-bf16"].kept, "its bounds are wider, but not as wide as a missing sum"


@pytest.mark.slow
def test_a_replicated_weight_that_is_marked_as_sharded_is_named() -> None:
    for row in _broken_by("marked_sharded", "tp2-sp", "tp2-zero0").values():
        assert _named(row) == ["layers.1.mlp_in norm weight"]


@pytest.mark.slow
def test_halves_of_fc1_in_each_others_place_are_named() -> None:
    (row,) = _broken_by("swapped_halves", "tp2-sp").values()
    assert _named(row) == ["layers.0 linear_fc1 weight"]


@pytest.mark.slow
def test_halves_of_fc1_used_for_each_other_are_seen() -> None:
    (row,) = _broken_by("swapped_in_use", "tp2-zero0").values()
    assert "layers.0 linear_fc1 weight" in _named(row)
    assert row.worst is not None and row.worst.site.startswith("layers.0"), "it is off most where it is wrong"


@pytest.mark.slow
def test_fc1_sharded_in_one_piece_is_named() -> None:
    (row,) = _broken_by("fc1_in_one_piece", "tp2-sp").values()
    assert _named(row) == ["layers.0 linear_fc1 weight", "layers.1 linear_fc1 weight"]
    assert any(finding.excess >= FAR for finding in row.findings if finding.what == "gradient of step 1"), (
        "by what it gives too"
    )


@pytest.mark.slow
def test_dropout_that_differs_between_tensor_ranks_is_seen() -> None:
    rows = _broken_by("desynchronised_dropout", "tp2-dropout", "tp2-sp-dropout", config="tiny_gpt2")
    row = rows["tp2-dropout"]
    assert row.worst is not None and row.worst.what == "copies of a weight"
    assert {"position_embeddings weight", "final norm weight"} <= set(_named(row))
    assert not any("linear_fc1" in site for site in _named(row)), "nobody else holds these"
    assert rows["tp2-sp-dropout"].kept, "with their own tokens, ranks drop by numbers of their own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "layouts"),
    [("skipped_micro_batch", ("dp2-acc4", "pp2")), ("local_mean", ("dp2", "dp2-zero3-acc2", "cp2"))],
)
def test_labels_that_weigh_too_much_or_nothing_are_seen_in_everything(fault: str, layouts: tuple[str, ...]) -> None:
    for row in _broken_by(fault, *layouts).values():
        assert row.worst is not None and row.worst.what == "gradient of step 1"
        gradients = {finding.site for finding in row.findings if finding.what == "gradient of step 1"}
        assert set(_named(row)) == gradients, "all are wrong"
        broken = {finding.what for finding in row.findings if not finding.kept and finding.excess >= FAR}
        assert "norm of the gradient of step 1" in broken
        assert ("loss of step 1" in broken) == (fault == "skipped_micro_batch")


@pytest.mark.slow
def test_documents_forgotten_on_one_rank_are_seen() -> None:
    layouts = ("tp2-docs", "cp2-docs", "cp2-ulysses-docs", "pp2-docs", "dp2-docs", "tp2-sp-docs-bf16")
    rows = _broken_by("forgotten_documents", *layouts, "cp2")
    assert rows.pop("cp2").kept, "without documents there is nothing to forget"
    for row in rows.values():
        assert row.worst is not None and row.worst.what == "gradient of step 1"
        assert any("linear_qkv" in site for site in _named(row)), row.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raising_rank", ("rank 1", "ValueError", "too many for me", "faults.py")),
        ("dying_rank", ("1", "exit code 42")),
        ("hanging_rank", ("no answer within", "rank 0 stands in", "rank 1 stands in")),
    ],
)
def test_the_others_go_on_after_a_rank_failed(fault: str, said: tuple[str, ...]) -> None:
    timeout = 40.0 if fault == "hanging_rank" else 120.0
    rows = _broken_by(fault, "dp2", "tp2", "pp2", timeout=timeout)
    assert rows["dp2"].kept and rows["pp2"].kept
    assert all(part in rows["tp2"].error for part in said), rows["tp2"].error
    assert "\n" not in rows["tp2"].error and rows["tp2"].to_dict()["kept"] is False
