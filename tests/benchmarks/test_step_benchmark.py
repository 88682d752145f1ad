"""The step benchmark on a tiny model: a line for every contender, the same loss, and no figures of models that differ."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import norm_step, step
from benchmarks.llamas import SHAPES, NotInstalledError
from benchmarks.step_report import FLOOR, MASTERS, CaseResult, Contender

EAGER = ["by hand", "Hugging Face", "litgpt", "ours", "ours, engine + loop", "ours, ibnorm_log"]
PACKAGES = {"Hugging Face": "transformers", "litgpt": "litgpt"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script's files after a run of two rounds, eager."""
    out = tmp_path_factory.mktemp("benchmark") / "step"
    step.main(["--shape", "XS", "--rounds", "2", "--threads", "1", "--no-compile", "--out", str(out)])
    return out


def test_every_contender_has_a_line_in_both_types(out: Path) -> None:
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for dtype in ("fp32", "bf16"):
        own = {row["contender"]: row for row in rows if row["dtype"] == dtype}
        masters = [MASTERS] if dtype == "bf16" else []
        assert list(own) == [*EAGER[:4], *masters, *EAGER[4:], FLOOR]
        for name, row in own.items():
            if name in PACKAGES and find_spec(PACKAGES[name]) is None:
                assert row["median ms"] == "not installed" and not row["speed"]
                continue
            assert float(row["median ms"]) >= float(row["shortest ms"]) > 0
            assert float(row["speed"]) > 0
            if name not in (FLOOR, "ours, ibnorm_log"):
                bound = step.FIRST_LOSS_BOUND[dtype]
                assert float(row["first loss"]) == pytest.approx(float(own["by hand"]["first loss"]), abs=bound)
        assert float(own["by hand"]["speed"]) == 1.0


def test_the_page_has_conditions_goals_and_the_picture(out: Path) -> None:
    page = out.with_suffix(".md").read_text()
    for name in ("hardware", "versions", "commit", "command", "method"):
        assert f"* {name}: " in page
    assert "python -m benchmarks.step" in page
    assert page.count("at most 1.05 of a bare loop's time") == 2
    assert f"({out.stem}.png)" in page
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(*arguments: object) -> None:
        raise NotInstalledError("litgpt")

    monkeypatch.setitem(step.PEERS, "litgpt", missing)
    step.main(["--shape", "XS", "--dtype", "fp32", "--rounds", "1", "--threads", "1", "--no-compile"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "litgpt " in line and "│" in line]
    assert "not installed" in line


def test_models_that_differ_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right = step.hand_written

    def wrong(*arguments: object) -> tuple[torch.nn.Module, object]:
        module, loss = right(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            module.gain.mul_(1.01)
        return module, loss

    monkeypatch.setitem(step.PEERS, "litgpt", wrong)
    with pytest.raises(RuntimeError, match=r"litgpt has loss .*: nothing is reported"):
        step.main(["--shape", "XS", "--dtype", "fp32", "--rounds", "1", "--threads", "1", "--no-compile"])


def test_a_loss_that_is_no_number_is_not_reported() -> None:
    found = {Contender("a", False): (1.0, 1.0), Contender("b", False): (float("nan"), 1.0)}
    with pytest.raises(RuntimeError, match=r"b has loss nan"):
        step.check_losses(found, "fp32")


def _result(seconds: dict[str, float]) -> CaseResult:
    """Two rounds, the second three times as slow for everyone."""
    everyone = [
        Contender(name.removesuffix(", compiled"), name.endswith("compiled"), ours=name.startswith("ours")) for name in seconds
    ]
    times = {name: [value, 3 * value] for name, value in {**seconds, FLOOR: 0.5}.items()}
    return CaseResult(SHAPES["XS"], "fp32", everyone, times, {}, dict.fromkeys(everyone, (1.0, 1.0)))


def test_goals_are_judged_beside_the_right_contender() -> None:
    seconds = {
        "by hand": 1.0, "ours": 1.1, "ours, engine + loop": 1.14, "by hand, compiled": 0.8, "litgpt, compiled": 0.7,
        "ours, compiled": 0.7, "ours, engine + loop, compiled": 0.75,
    }  # fmt: skip
    found = [line[2:] for line in _result(seconds).goals()]
    assert found == [
        ["0.909 (by hand)", "not met"],
        ["0.877 (by hand)", "not met"],
        ["1.000 (litgpt, compiled)", "met"],
        ["0.933 (litgpt, compiled)", "not met"],
        ["1.036 (ours)", "met"],
        ["1.071 (ours, compiled)", "not met"],
    ]


def test_what_norms_cost_in_a_step(tmp_path: Path) -> None:
    out = tmp_path / "norms"
    arguments = ["--width", "64", "--layers", "1", "--length", "32", "--rounds", "2", "--no-compile", "--out", str(out)]
    norm_step.main(arguments)
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["norm"] for row in rows] == ["layernorm", "ibnorm_log", "ibnorm_tanh"]
    assert all(float(row["median ms"]) > 0 for row in rows)
    assert "python -m benchmarks.norm_step" in out.with_suffix(".md").read_text()
