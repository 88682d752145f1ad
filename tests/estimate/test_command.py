"""``ibnorm estimate`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.config import load_config
from ibnorm_megatron.estimate.memory import needed
from ibnorm_megatron.train.gpus import GPUS

from ..distributed import ROOT

CONFIG = str(ROOT / "configs" / "llama_7b.yaml")


def _estimated(*arguments: object, out: Path) -> dict[str, object]:
    assert main(["estimate", *map(str, arguments), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_proposed_layouts_are_accepted_and_fit_and_the_quickest_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _estimated(CONFIG, "--gpus", 16, "--gpu", "A100", "--memory", 40, "--gpus-per-node", 8, out=tmp_path / "e.json")
    proposals = found["proposals"]
    assert isinstance(proposals, list) and len(proposals) > 3
    for proposal in proposals:
        config = load_config(CONFIG, proposal["overrides"], world_size=16)
        assert config.parallel.tensor <= 8
        assert needed(proposal["memory"]["peak"]) <= 40 * 2**30
    steps = [proposal["speed"]["step"] for proposal in proposals]
    assert all(after > 0.98 * before for before, after in pairwise(steps))  # within a percent they are equal
    shown = capsys.readouterr().out
    assert "layouts that fit 16 x A100 of 40.00 GiB" in shown and "of which norms keep" in shown
    assert proposals[0]["overrides"][0] in shown.replace("\n", " ")


def test_a_layout_that_does_not_suit_so_many_is_said_and_another_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = ["parallel.tensor=2", "parallel.pipeline=8", "parallel.zero_stage=2"]
    found = _estimated(CONFIG, *layout, "--gpus", 8, "--memory", 80, out=tmp_path / "e.json")
    assert "the layout needs a multiple of tensor 2 x pipeline 8 x context 1" in str(found["refused"])
    assert "the config's own layout cannot run on 8" in capsys.readouterr().out


def test_norms_are_set_beside_one_another(tmp_path: Path) -> None:
    found = _estimated(CONFIG, "model.norm={default: layernorm, final: rmsnorm}", out=tmp_path / "e.json")["norms"]
    assert isinstance(found, dict)
    assert list(found)[1:] == ["layernorm", "rmsnorm", "ibnorm_log", "ibnorm_tanh"]
    held = [one["memory"]["norms"] for one in found.values()]
    rows, sites = (
        2 * 2048 // 2,
        65,
    )  # two sequences a micro-batch, whose tokens two tensor ranks share; two a layer, and the last
    kept = {"rmsnorm": 4, "layernorm": 8, "ibnorm_log": 12, "ibnorm_tanh": 12}  # float32 numbers of a row
    assert held == [rows * (sites * 8192 + 64 * 8 + 4), *(rows * sites * (8192 + kept[name]) for name in list(found)[1:])]
    assert all(one["speed"]["norms"] > 0 for one in found.values())


def test_a_cpu_gets_memory_and_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ROOT / "configs" / "tiny_llama.yaml"
    found = _estimated(tiny, "--device", "cpu", out=tmp_path / "e.json")
    assert found["speed"] is None and found["gpu"] is None and found["proposals"] is None
    assert "time on a CPU is not estimated" in capsys.readouterr().out


def test_less_room_means_offloading_and_then_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _estimated(CONFIG, "--gpus", 1, "--memory", 60, out=tmp_path / "e.json")
    assert all("parallel.offload_optimizer=true" in proposal["overrides"] for proposal in found["proposals"])  # type: ignore[attr-defined]
    assert main(["estimate", CONFIG, "--gpus", "1", "--memory", "10"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --gpus is 1: no layout that the stack accepts fits into 10.0 GiB each")


def test_nothing_of_torch_is_imported() -> None:
    code = "import sys; from ibnorm_megatron.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "estimate", CONFIG, "--gpus", "8", "--top", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout


def test_help_names_every_kind_of_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in GPUS)
