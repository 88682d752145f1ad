"""The norm benchmark on tiny sizes: all rows, honest gaps, exact results. What it measures is no test's business."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmarks import norms, timing
from benchmarks.accuracy import TIE, verdict
from benchmarks.contenders import contenders, literal
from benchmarks.floors import Gpu, instructions_per_element, issue_floor, traffic_bytes
from benchmarks.report import goal_lines
from benchmarks.rows import NOT_MEASURED, Row
from benchmarks.timing import CudaClock, measure, ratio
from ibnorm_megatron.norms.plan import Plan

PARTS = {"forward", "backward", "both"}
TIMED = ("microseconds", "shortest_microseconds", "ratio", "gb_per_s", "copy_share", "saved_bytes_per_row", "peak_bytes")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script's files after a run of two rounds."""
    out = tmp_path_factory.mktemp("benchmark") / "norms"
    sizes = ["--cpu-shapes", "48x64", "32x128", "--gpu-shapes", "64x128", "--error-shape", "512x256"]
    norms.main([*sizes, "--rounds", "2", "--no-compile", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def table(out: Path) -> list[dict[str, str]]:
    with out.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_there_is_a_row_for_everything(table: list[dict[str, str]]) -> None:
    found = [(row["device"], row["rows"], row["width"], row["norm"], row["what"]) for row in table if row["what"] != "error"]
    assert len(found) == len(set(found))
    for device, shapes in {"cpu": [("48", "64"), ("32", "128")], "cuda": [("64", "128")]}.items():
        names = {one.name for one in contenders(torch.device(device), compiled=False)} | {"copy"}
        assert {"F.layer_norm", "F.rms_norm", "ours layernorm", "ours rmsnorm", "ours log", "ours tanh"} <= names
        assert device == "cpu" or {"Liger RMSNorm", "Liger LayerNorm", "Quack RMSNorm"} <= names
        for shape in shapes:
            assert {row[3:] for row in found if row[:3] == (device, *shape)} == {
                (name, part) for name in names for part in PARTS
            }


def test_what_ran_has_numbers_and_what_did_not_says_so(table: list[dict[str, str]]) -> None:
    for row in table:
        figures = [row[name] for name in TIMED if row["norm"] != "copy" and row["what"] != "error"]
        figures += [row[f"error_{name}"] for name in ("y", "dx", "dgamma") if row["what"] == "error"]
        if row["device"] == "cpu" or (torch.cuda.is_available() and not row["norm"].startswith(("Liger", "Quack"))):
            assert all(float(figure) >= 0 for figure in figures), row
        elif not torch.cuda.is_available():
            assert set(figures) <= {NOT_MEASURED}, row


def test_ours_are_as_exact_as_the_best_peer(table: list[dict[str, str]]) -> None:
    """With a mean of 0 and with one beside which the deviations are small."""
    errors = [row for row in table if row["what"] == "error" and row["device"] == "cpu"]
    compared = 0
    for own in errors:
        case = [own[name] for name in ("dtype", "offset", "formula")]
        peers = [row for row in errors if row["ours"] == "False" and [row["dtype"], row["offset"], row["formula"]] == case]
        for quantity in ("error_y", "error_dx", "error_dgamma", "error_dbeta"):
            if own["ours"] == "True" and peers and own[quantity]:
                assert float(own[quantity]) <= TIE * min(float(peer[quantity]) for peer in peers), (own["norm"], case, quantity)
                compared += 1
    assert compared == 2 * 2 * (4 + 4 + 3)  # types, means; layernorm and identity with a beta, rmsnorm without


def test_the_page_says_under_which_conditions(out: Path, table: list[dict[str, str]]) -> None:
    page = out.with_suffix(".md").read_text()
    for name in ("hardware", "GPU", "versions", "commit", "command", "method"):
        assert f"* {name}: " in page
    assert "python -m benchmarks.norms" in page and f"torch {torch.__version__}" in page
    for name in {row["norm"] for row in table if row["device"] == "cpu"}:
        assert f"| {name} |" in page
    assert torch.cuda.is_available() or f"| ours log | {NOT_MEASURED} | {NOT_MEASURED} | {NOT_MEASURED} |" in page
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_reference_has_a_slope_at_zero() -> None:
    """bf16 rows with a mean hold elements that equal it; autograd's derivative of sign(c) f(|c|) there would be 0."""
    x = torch.tensor([[-2.0, 0.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(4, dtype=torch.float64)
    for name in ("log", "tanh", "softsign", "asinh", "log, relative"):
        assert torch.autograd.gradcheck(lambda x, name=name: literal(name)(x, one, one), x)


def test_ratios_are_within_a_round() -> None:
    """The second runs twice as long as the first, whatever the round's pace is."""
    pace = iter([9.0, 9.0, 1.0, 1.0, 5.0, 5.0])
    samples = measure(
        {"a": lambda _: {"x": next(pace)}, "b": lambda _: {"x": 2 * next(pace)}}, lambda work: (work(), 0.0), 2, warm_up=1
    )
    assert samples == {"a": {"x": [1.0, 5.0]}, "b": {"x": [2.0, 10.0]}}
    assert ratio(samples["b"]["x"], samples["a"]["x"]) == 2.0


def test_floors() -> None:
    """By hand: 132 processors x 4 x 32 lanes x 1 GHz issue one instruction for 16,896 elements in 1 ns."""
    gpu = Gpu("a pretended GPU", 132, 1e9, 90)
    assert gpu.issue_seconds(16_896) == pytest.approx(1e-9)
    assert traffic_bytes("both", 10, 20, torch.bfloat16) == 2000
    plan = Plan.of("identity", 4.0, 1e-5, "absolute", "unit_slope", True)
    counted = instructions_per_element(plan, 4096, torch.bfloat16, True, gpu.capability)
    assert 5 < counted["forward"] < 15 and counted["both"] == counted["forward"] + counted["backward"]
    floor = issue_floor(gpu, plan, 10, 4096, torch.bfloat16, True)
    assert floor["forward"] == pytest.approx(counted["forward"] * 40_960 / 16_896 * 1e-9)


def test_a_verdict_names_what_is_worse() -> None:
    assert verdict({"y": 1.0}, []) == "no peer"
    assert verdict({"y": 1.0, "dx": 3.0}, [{"y": 2.0, "dx": 2.0}, {"y": 4.0, "dx": 1.0}]) == "higher: dx x3.00"
    assert verdict({"y": 1.0}, [{"y": 0.9}]).startswith("tied") and verdict({"y": 1.0}, [{"y": 2.0}]).startswith("lowest")


def _measured(norm: str, what: str, microseconds: float, share: float, *, ours: bool = True, formula: str = "log") -> Row:
    row = Row("cuda", 4096, 1024, "bfloat16", norm, what, formula, ours, microseconds=microseconds, copy_share=share)
    row.issue_share = 0.5 if ours else None
    return row


def test_goals_are_judged_by_the_worst_shape_and_the_fastest_peer() -> None:
    rows = [_measured("ours log", what, 10.0, 0.9) for what in ("forward", "backward", "both")]
    rows += [_measured("Liger RMSNorm", "both", 12.0, 0.9, ours=False, formula="rmsnorm")]
    assert goal_lines(rows) == [["ours log", "90%, met", "90%, met", "0.83, met"]]
    rows += [_measured("F.rms_norm", "both", 9.0, 0.9, ours=False, formula="rmsnorm")]
    rows += [_measured("ours log", "backward", 10.0, 0.84)]
    assert goal_lines(rows) == [["ours log", "90%, met", "84%, not met", "1.11, not met"]]


def test_a_gpu_call_is_timed_between_events_after_the_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which the GPU gets its work; the GPU itself is a stand-in."""
    order: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            order.append("event" if clock._flush.eq(0).all() else "event before the flush")

        def synchronize(self) -> None:
            order.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 2.5

    monkeypatch.setattr(timing, "_FLUSH_BYTES", 8)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    clock = CudaClock(torch.device("cpu"))
    clock._flush.fill_(1)
    assert clock(lambda: order.append("work") or "result") == ("result", 0.0025)
    assert order == ["event", "work", "event", "wait"]
