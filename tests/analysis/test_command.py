"""``ibnorm analyze`` as a command, on runs of two norms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.cli import main

pytestmark = pytest.mark.slow


def test_every_report_of_several_runs(
    runs: dict[str, Path], prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, given = tmp_path / "found", [str(runs[name]) for name in ("layernorm", "layernorm-2", "sub")]
    code = main(["analyze", *given, "--tokens", "1500", "--domain", f"again={prepared}", "--out", str(out)])
    told = capsys.readouterr().out
    assert code == 0
    assert {path.name for path in out.iterdir()} == {
        "analysis.json", "analysis.md", "information.png", "quantization.png", "layers.png", "robustness.png"
    }  # fmt: skip
    values = json.loads((out / "analysis.json").read_text())
    assert [(one["norm"], one["seed"], one["step"]) for one in values["runs"]] == [
        ("layernorm", 1, 30),
        ("layernorm", 2, 30),
        ("ibnorm_tanh(lambda=0.5, strength=scheduled), sub, qk per_head", 1, 30),
    ]
    for one in values["runs"]:
        domains = {domain["name"]: domain for domain in one["domains"]}
        assert domains["own"] == {**domains["again"], "name": "own"}  # it is the same text
        assert domains["own"]["loss"] == one["loss"]
        _check_information(one["informed"])
    loss = [one for one in values["figures"] if one["report"] == "loss"]
    assert [one["seeds"] for one in loss] == [[1, 2], [1]]
    assert loss[0]["value"]["value"] == pytest.approx(sum(one["loss"]["value"] for one in values["runs"][:2]) / 2)
    assert "norm, token, int3" in told
    assert "again, bits a byte" in told
    assert "layers.0.attn_in: I(T; x_t)" in (page := (out / "analysis.md").read_text())
    assert "layers.0.attn_in: I(T; x_t)" not in told  # a terminal has the deepest site's
    assert "Without a number: I(" in page
    assert str(out / "analysis.md") in told


def test_one_report_alone(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(runs["sub"]), "--tokens", "1000", "--only", "robustness"]) == 0
    told = capsys.readouterr().out
    assert "drop 0.2" in told
    assert "int3" not in told


def _check_information(informed: dict[str, Any]) -> None:
    """What is validated for so few tokens has a number, and what is not has a reason; every site has a curve and an audit."""
    sites = ["layers.0.attn_in", "layers.1.attn_in", "final"]
    told = {(one["site"], one["measure"]["quantity"], one["measure"]["estimator"]): one["measure"] for one in informed["told"]}
    for site in sites:
        entropy = told[site, "S(T within a document)", "entropy-prompt"]
        assert entropy["value"] > 0
        for quantity in ("I(T; next token)", "I(T; x_t)", "I(T; x_{t-1})", "I(T; x_{t-4})", "I(T; x_{t-16})"):
            probe = told[site, quantity, "probe-linear"]
            assert probe["value"] is None
            assert "fewer than the" in probe["reason"]
    assert [curve["site"] for curve in informed["curves"]] == sites
    assert {site for site, _ in informed["audits"]} == set(sites)
