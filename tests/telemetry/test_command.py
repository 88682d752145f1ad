"""``ibnorm telemetry``: the last values in the terminal, and a picture whose colours are the numbers of the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from ibnorm_megatron.cli import main
from ibnorm_megatron.telemetry.heatmap import SHOWN, draw
from ibnorm_megatron.telemetry.series import load_series

SITES = ("layers.0.attn_in", "layers.0.mlp_in", "layers.1.attn_in", "layers.1.mlp_in", "final")
STEPS = (100, 200, 250)
STD, CONTRACTION = "std of the rows that go in", "contraction, Var(g) / Var(c)"
GRADIENT = "gradient's norm by part, before clipping"


def _value(site: int, step: int) -> float:
    return 0.5 + site + step / 1000


def _record(step: int) -> dict[str, Any]:
    sites = {
        site: {
            "std": _value(number, step),
            "contraction": None if site == "final" else 0.9 - number / 10,
            "sigma_over_lambda": None,
            "variance_ratio": None if number < 2 else 1.5,
            "outliers": number,
        }
        for number, site in enumerate(SITES)
    }
    return {"step": step, "grad_norm": {"mlp": 0.5 + step / 1000, "head": None}, "sites": sites}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, as far as it is read."""
    folder = tmp_path / "run-of-$mall"
    folder.mkdir()
    (folder / "run_card.json").write_text(json.dumps({"norm": "ibnorm_log"}))
    (folder / "telemetry.jsonl").write_text("".join(f"{json.dumps(_record(step))}\n" for step in STEPS))
    return folder


def test_a_line_a_site_has_the_last_values(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["telemetry", str(run)]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert list(lines) == list(SITES)
    cells = [cell.strip() for cell in lines["layers.1.attn_in"].split("│")[1:-1]]
    assert cells == ["layers.1.attn_in", "2.75", "0.700", "1.5", "2"]
    assert [cell.strip() for cell in lines["final"].split("│")[1:-1]] == ["final", "4.75", "-", "1.5", "4"]
    assert "run-of-$mall: ibnorm_log, after step 250" in shown
    assert "lambda" not in shown, "no norm has one"
    assert "gradient's norm: mlp 0.75\n" in shown


def test_a_heatmap_shows_the_numbers_at_their_sites_and_steps(run: Path) -> None:
    figure = draw(load_series(run), ["std", "contraction", "sigma_over_lambda"])
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == [
        "std of the rows that go in",
        "contraction, Var(g) / Var(c)",
        "gradient's norm by part, before clipping",
    ]
    std = panels["std of the rows that go in"]
    order = [0, 2, 1, 3, 4]  # those of one place together
    assert [label.get_text() for label in std.get_yticklabels()] == [SITES[number] for number in order]
    (mesh,) = (one for one in std.get_children() if isinstance(one, QuadMesh))
    wanted = [[_value(number, step) for step in STEPS] for number in order]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(len(SITES), len(STEPS)), wanted)
    assert mesh.get_coordinates()[0, :, 0].tolist() == [50, 150, 225, 275]
    (mesh,) = (one for one in panels[CONTRACTION].get_children() if isinstance(one, QuadMesh))
    assert np.ma.masked_invalid(mesh.get_array()).mask.reshape(len(SITES), len(STEPS))[-1].all()
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
    lines = panels[GRADIENT].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[0.5 + step / 1000 for step in STEPS]]


@pytest.mark.parametrize("name", ["a.png", "a.svg", "deep/a.pdf"])
def test_a_picture_is_written(run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["telemetry", str(run), "--picture", str(tmp_path / name), "--figures", "std", "outliers"]) == 0
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert (tmp_path / name).read_bytes().startswith(starts[Path(name).suffix])
    assert f"heatmaps: {tmp_path / name}" in capsys.readouterr().out


def test_one_step_and_many_sites_can_be_drawn(run: Path) -> None:
    record = _record(7)
    of_site = record["sites"]["final"]
    record["sites"] = {f"layers.{layer}.attn_in": of_site for layer in range(80)} | {"final": of_site}
    (run / "telemetry.jsonl").write_text(json.dumps(record) + "\n")
    figure = draw(load_series(run), SHOWN)
    labels = figure.axes[0].get_yticklabels()
    assert len(labels) == math.ceil(81 / math.ceil(81 / 28))
    assert labels[1].get_text() == "layers.3.attn_in"
    figure.canvas.draw()
