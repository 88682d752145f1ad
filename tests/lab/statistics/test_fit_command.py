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
        f"column size in line 2 of {table} is 'big': it is not a number of parameters of 100 or more",
        f"column tokens in line 3 of {table} is '-5': it is not a number of tokens of 100 or more",
        f"column loss in line 4 of {table} is 'x': it is not a loss in nats above 0, such as 3.4127; correct it",
        f"column seed in line 4 of {table} is '1.5': it is not a whole number that is not negative; correct it",
        f"line 5 of {table} is 4 cells long: the first line names 5 columns",
        f"column arm in line 6 of {table} is empty: a run is of some arm",
        f"line 8 of {table} is of arm a, size 1e5, 10 tokens a parameter, seed 3: so is line 7",
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


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("size", "0.125"),  # billions
        ("size", "100.000"),
        ("size", "1e400"),
        ("size", "1,00,000"),
        ("tokens", "2.5"),
        ("loss", "3,512"),
        ("loss", "3.5M"),
        ("loss", "1e-400"),
        ("loss", "-3.5"),
        ("seconds", "5m"),
        ("seconds", "12,345"),
        ("seed", "inf"),
        ("seed", "-1"),
    ],
)
def test_numbers_that_may_mean_another_are_refused(
    column: str, cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {"size": "1e5", "tokens": "1e6", "loss": "3.5", "arm": "a", "seed": "0", "seconds": "5"} | {column: cell}
    table = _write(tmp_path / "t.csv", f"{';'.join(cells)}\n{';'.join(cells.values())}\n")
    assert main(["lab", "fit", str(table)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: column {column} in line 2 of {table} is {cell!r}: it is not a")


def test_large_seeds_stay_apart_and_seconds_may_be_unknown(tmp_path: Path) -> None:
    lines = "1e5,1e6,3.5,a,9007199254740993,n/a\n1e5,1e6,3.5,a,9007199254740992,NaN\n1e5,1e6,3.5,a,3.0,7.5\n"
    first, second, third = read_results(_write(tmp_path / "t.csv", "size,tokens,loss,arm,seed,seconds\n" + lines))
    assert (first.seed, second.seed, third.seed) == (2**53 + 1, 2**53, 3)
    assert first.seconds != first.seconds and second.seconds != second.seconds and third.seconds == 7.5


def test_arms_that_count_their_norms_parameters_are_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To three digits 100,000 and 99,500 are two sizes, and 20.0 and 20.1 two horizons."""
    plain, moved = tmp_path / "plain.csv", tmp_path / "moved.csv"
    rows = [one for one in SCENARIOS[0].observe(3) if one.arm in ("base", "gain", "control")]
    for path, share in ((plain, 1.0), (moved, 0.995)):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["size", "tokens", "loss", "arm", "seed"])
            for one in rows:
                parameters = round(one.parameters * (share if one.arm == "gain" else 1.0))
                writer.writerow([parameters, one.tokens, one.loss, one.arm, one.seed])
    sizes = {(one.arm, one.size) for one in read_results(moved)}
    assert {size for arm, size in sizes if arm == "gain"} == {size for arm, size in sizes if arm == "base"}
    assert main(["lab", "fit", str(moved), "--control", "control"]) == 0
    shown = capsys.readouterr().out
    assert "better  gain reaches base's loss with" in shown and "no loss" not in shown
    assert "Runs that are compared differ by up to 0.5 % in their parameters: multipliers count that" in shown
    assert main(["lab", "fit", str(plain), "--control", "control"]) == 0
    assert "Runs that are compared differ" not in capsys.readouterr().out


def test_files_of_spreadsheets(tmp_path: Path) -> None:
    text = "size;tokens;loss;arm;seed\r\n100,000;500,000;3.5;a;0\r\n"
    for data in (text.encode("utf-8-sig"), text.replace("\r\n", "\r").encode(), text.replace(";", "\t").encode()):
        (tmp_path / "t.csv").write_bytes(data)
        (one,) = read_results(tmp_path / "t.csv")
        assert (one.parameters, one.tokens, one.loss, one.seed, one.size) == (100_000, 500_000, 3.5, 0, "1e5")


def test_options_that_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(_study(tmp_path / "runs.csv"))
    assert main(["lab", "fit", table, "--equivalence", "1.5"]) == 2
    assert "it is a share of compute, above 0 and below 1" in capsys.readouterr().err
    assert main(["lab", "fit", table, "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    for folder in ("", str(tmp_path)):
        assert main(["lab", "fit", table, "--json", folder]) == 2
        assert "it is a folder; give the name of a file" in capsys.readouterr().err
    assert main(["lab", "fit", table, "--baseline", "bsae"]) == 2
    assert "did you mean 'base'?" in capsys.readouterr().err


def test_imports_no_torch() -> None:
    code = "import sys, ibnorm_megatron.lab.analysis, ibnorm_megatron.lab.csv_results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
