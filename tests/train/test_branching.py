"""A run that begins at another's checkpoint is the run that would have come there by itself, in a folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.checkpoints.record import read_record
from ibnorm_megatron.train import main
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import torchrun

pytestmark = pytest.mark.slow

_WARMUP, _AT, _DECAYED, _LONG = 4, 12, 16, 40
_WSD = ["train.schedule=wsd", "train.decay_fraction=0.25", "train.min_lr_ratio=0", "log.console=false", "evaluate.batches=2"]
_WSD += ["model.norm=ibnorm_log", "model.dropout=0.1", "train.average_decay=0.9", "checkpoint.interval=0"]


def _case(prepared: Path, run: Path, steps: int, *overrides: str) -> dict[str, Any]:
    given = [f"data.path={prepared}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", *_WSD, f"train.steps={steps}"]
    return {"config": "configs/tiny_llama.yaml", "overrides": [*given, f"train.warmup_fraction={_WARMUP / steps}", *overrides]}


def _at(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def _hashes(run: Path, step: int) -> dict[str, str]:
    return {name: file.hash for name, file in read_record(_at(run, step)).files.items()}


def _curve(run: Path) -> dict[int, tuple[float, float, float]]:
    return {r["step"]: (r["loss"], r["lr"], r["grad_norm"]) for r in RunFolder(run).read_metrics() if "loss" in r}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A trunk, branches of it and of a branch, and the run that these have to be; with muP, in bf16, ZeRO-1, on two ranks."""
    folder = tmp_path_factory.mktemp("branches")
    common = ["train.precision=bf16", "model.mup_base_width=16"]
    cases = [
        # What is imported when the first run begins draws from Python's generator.
        _case(prepared, folder / "first", _DECAYED, *common, "train.steps=4"),
        {
            **_case(prepared, folder / "trunk", _LONG, *common, f"checkpoint.at=[5, {_AT}]", "checkpoint.keep_last=1"),
            "random": 1,
        },
        {**_case(prepared, folder / "whole", _DECAYED, *common), "random": 1},
        _case(
            prepared,
            folder / "branch",
            _DECAYED,
            *common,
            f"run.branch_from={_at(folder / 'trunk', _AT)}",
            "checkpoint.at=[14]",
        ),
        _case(prepared, folder / "early", _LONG, *common, f"run.branch_from={_at(folder / 'trunk', 5)}", "checkpoint.at=[10]"),
        _case(prepared, folder / "twig", _DECAYED, *common, f"run.branch_from={_at(folder / 'early', 10)}"),
        # In another layout, up to rounding.
        _case(
            prepared, folder / "tensor", _DECAYED, *common, f"run.branch_from={_at(folder / 'trunk', _AT)}", "parallel.tensor=2"
        ),
    ]
    # A branch that is stopped, and goes on from its own.
    resumed = _case(prepared, folder / "resumed", _DECAYED, *common, f"run.branch_from={_at(folder / 'trunk', _AT)}")
    cases.append({**resumed, "from": str(folder / "branch"), "step": 14})
    (folder / "cases.json").write_text(json.dumps(cases))
    torchrun(2, "-m", "tests.workers.resume", folder / "cases.json", timeout=900)
    return folder


def test_state_is_saved_at_the_steps_named_and_kept(runs: Path) -> None:
    assert sorted(path.name for path in (runs / "trunk" / "checkpoints").glob("step-*")) == [
        f"step-{step:08d}" for step in (5, _AT, _LONG)
    ]


@pytest.mark.parametrize("name", ["branch", "resumed", "twig"])
def test_a_branch_is_the_undisturbed_run_bit_for_bit(runs: Path, name: str) -> None:
    first = {"branch": _AT, "resumed": _AT, "twig": 10}[name]
    whole, curve = _curve(runs / "whole"), _curve(runs / name)
    assert curve == {step: values for step, values in whole.items() if step > first}
    assert _hashes(runs / name, _DECAYED) == _hashes(runs / "whole", _DECAYED)
    assert len(_hashes(runs / name, _DECAYED)) == 2
    ends = [read_record(_at(runs / run, _DECAYED)) for run in (name, "whole")]
    assert (ends[0].samples, ends[0].tokens, ends[0].optimizer_steps) == (
        ends[1].samples,
        ends[1].tokens,
        ends[1].optimizer_steps,
    )
    summaries = [RunFolder(runs / run).read_summary() for run in (name, "whole")]
    for key in ("status", "step", "tokens", "val_loss", "average_val_loss"):
        assert summaries[0][key] == summaries[1][key], key
    assert _curve(runs / "trunk")[_DECAYED] != whole[_DECAYED], "the trunk does not decay there"


def test_a_branch_in_another_layout_is_the_same_up_to_rounding(runs: Path) -> None:
    """Without dropout's numbers, which another layout draws anew, the rates are those of the run, and losses near."""
    whole, curve = _curve(runs / "whole"), _curve(runs / "tensor")
    assert list(curve) == list(range(_AT + 1, _DECAYED + 1))
    assert [rate for _, rate, _ in curve.values()] == [whole[step][1] for step in curve]
    for step, (loss, _, _) in curve.items():
        assert loss == pytest.approx(whole[step][0], rel=0.03)


def test_the_card_says_where_a_branch_comes_from(runs: Path) -> None:
    card, trunk = RunFolder(runs / "branch").read_card(), RunFolder(runs / "trunk").read_card()
    said = json.loads((_at(runs / "trunk", _AT) / "checkpoint.json").read_text())
    assert card["parent"] == {
        "path": str(_at(runs / "trunk", _AT)),
        "step": _AT,
        "hash": said["hash"],
        "seconds": said["callbacks"]["Summary"]["seconds"],
        "skipped_steps": 0,
        "parent": None,
    }
    twig = RunFolder(runs / "twig").read_card()
    assert (twig["parent"]["step"], twig["parent"]["parent"]["step"], twig["parent"]["parent"]["parent"]) == (10, 5, None)
    assert "parent" not in trunk
    assert "resumed" not in card
    [resumed] = RunFolder(runs / "resumed").read_card()["resumed"]
    assert resumed["step"] == 14
    assert not {"digests", "parent"} & resumed.keys()
    assert RunFolder(runs / "resumed").read_card()["parent"] == card["parent"]
    seconds = {name: RunFolder(runs / name).read_summary()["seconds"] for name in ("branch", "trunk", "whole")}
    assert seconds["branch"] < seconds["whole"], "they are counted from the branch"


def test_digests_are_those_of_all_runs_of_a_seed(runs: Path) -> None:
    digests = {name: RunFolder(runs / name).read_card()["digests"] for name in ("trunk", "whole", "branch", "twig", "resumed")}
    assert len({digest["initial_weights"] for digest in digests.values()}) == 1
    assert [index for index, _ in digests["whole"]["samples"]] == [0, 1, 2, 4, 8, 16, 32, 64]
    for digest in digests.values():
        assert digest["samples"][: len(digests["whole"]["samples"])] == digests["whole"]["samples"]
    assert len(digests["trunk"]["samples"]) > len(digests["whole"]["samples"])


def test_a_branch_that_has_begun_is_only_compared(
    runs: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trunk may be gone; another one is refused."""
    shutil.copytree(runs / "branch", tmp_path / "run")
    case = _case(prepared, tmp_path / "run", _DECAYED, "train.precision=bf16", "model.mup_base_width=16")
    given = [case["config"], *case["overrides"], "run.branch_from=elsewhere"]
    assert main(given) == 2
    assert capsys.readouterr().err.startswith("error: run.branch_from is 'elsewhere': the run in ")
