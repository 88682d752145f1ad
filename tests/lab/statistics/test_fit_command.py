"""``ibnorm lab fit``: tables of others, with their names for columns, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fitter import SCENARIOS
from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.csv_results import read_results

PUBLISHED = Path(__file__).parent / "data" / "hoffmann_figure_4.csv"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _study(path: Path, heads: str = "Params,train-tokens,Val Loss,Norm,Seed,Compute,wall_time,model name") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads.split(","))
        for one in SCENARIOS[0].observe(3):
            slower = 1.02 if one.arm == "gain" else 1.0
            seconds = one.flops / 1e10 * slower
            writer.writerow([one.parameters, one.tokens, one.loss, one.arm, one.seed, one.flops, seconds, one.size])
    return path


def test_verdicts_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = _study(tmp_path / "runs.csv"), tmp_path / "found.json"
    given = ["--control", "control", "--json", str(out), "--report", str(tmp_path)]
    assert main(["lab", "fit", str(table), *given]) == 0
    shown = capsys.readouterr().out
    assert "gain reaches base" in (tmp_path / "report" / "index.html").read_text()
    assert "better  gain reaches base's loss with" in shown
    assert "Compute multipliers with 95 % intervals" in shown and "Loss minus base's" in shown
    found = json.loads(out.read_text())
    assert found["baseline"] == "base"
    assert [one["arm"] for one in found["multipliers"]] == ["control", "gain", "none", "loss", "growing"]
    assert found["multipliers"][1]["slowdown"]["value"] == pytest.approx(1.02)
    assert len(found["observations"]) == 108


def test_one_arm_alone_is_a_surface(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with open(PUBLISHED, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [f"{row['parameters']},{float(row['flops']) / 6 / float(row['parameters']):.6g},{row['loss']}" for row in rows]
    table = _write(tmp_path / "one.csv", "\n".join(["parameters,tokens,loss", *lines]))
    assert main(["lab", "fit", str(table)]) == 0
    shown = capsys.readouterr().out
    assert "245 points" in shown and "alpha" in shown
    assert "Loss minus" not in shown and "No arm is the baseline" not in shown


def test_a_diverged_run_is_one_without_a_loss(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.csv", "n;d;loss;arm;seed\n1.5M;30M;diverged;a;0\n1,500,000;3e7;3.5;b;0\n1.5M;30M;;c;0\n")
    first, second, third = read_results(table)
    assert (first.parameters, first.tokens, first.failure) == (1_500_000, 30_000_000, "the table says 'diverged'")
    assert (second.parameters, second.loss, second.failure) == (1_500_000, 3.5, "")
    assert third.failure == "the table has none"
    assert first.size == second.size == "1.5e6"
    assert second.flops == 6 * 1.5e6 * 3e7


def test_everything_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        "big,1e6,3,a,0",
        "1e5,-5,3,a,0",
        "1e5,1e6,x,a,1.5",
        "1e5,1e6,3,a",
        "1e5,1e6,3,,2",
        "1e5,1e6,3,a,3",
        "1e5,1e6,3,a,3",
    )
    text = "\n".join(["size,tokens,loss,arm,seed", *lines])
    table = _write(tmp_path / "t.csv", text)
    assert main(["lab", "fit", str(table)]) == 2
    said = capsys.readouterr().err.splitlines()
    expected = [
        f"column size in line 2 of {table} is 'big': it is not a number of parameters above 0",
        f"column tokens in line 3 of {table} is '-5': it is not a number of tokens above 0",
        f"column loss in line 4 of {table} is 'x': it is not a loss in nats above 0",
        f"column seed in line 4 of {table} is '1.5': it is not a whole number",
        f"line 5 of {table} is 4 cells long: the first line names 5 columns",
        f"column arm in line 6 of {table} is empty: a run is of some arm",
        f"line 8 of {table} is of arm a, size 1e5, 1000000 tokens, seed 3: so is line 7",
    ]
    assert len(said) == len(expected)
    for sentence, start in zip(said, expected, strict=True):
        assert sentence.startswith(f"error: {start}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty; begin it with a line of columns: size,tokens,loss,arm,seed"),
        ("size,tokens,loss\n", "there is no line below the first"),
        ("size,tokens\n1,2\n", "is missing: without it nothing can be fit; name one of its columns loss, or val_loss"),
        ("size,tokens,loss,arm\n1,2,3,a\n", "without it nobody knows which runs of two arms to pair"),
        ("size,tokens,val_loss,test_loss\n1,2,3,4\n", "is 'val_loss' and 'test_loss': it is there twice"),
    ],
)
def test_tables_that_cannot_be_read(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "fit", str(_write(tmp_path / "t.csv", text))]) == 2
    assert says in capsys.readouterr().err


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00a")
    assert main(["lab", "fit", str(tmp_path / "binary.csv")]) == 2
    assert "it is not UTF-8 text" in capsys.readouterr().err
    assert main(["lab", "fit", str(tmp_path)]) == 2
    assert "it cannot be read (Is a directory)" in capsys.readouterr().err


def test_options_that_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(_study(tmp_path / "runs.csv"))
    assert main(["lab", "fit", table, "--equivalence", "1.5"]) == 2
    assert "it is a share of compute, above 0 and below 1" in capsys.readouterr().err
    assert main(["lab", "fit", table, "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert main(["lab", "fit", table, "--baseline", "bsae"]) == 2
    assert "did you mean 'base'?" in capsys.readouterr().err


def test_imports_no_torch() -> None:
    code = "import sys, ibnorm_megatron.lab.analysis, ibnorm_megatron.lab.csv_results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
