"""The runs that `ibnorm analyze` is tried on: commands that can be trained, and that differ in what they should."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.inside import ARMS, TEXTS, runs
from ibnorm_megatron.config import load_config


def test_commands_differ_in_text_norm_rate_and_seed_only(tmp_path: Path) -> None:
    every = runs(tmp_path / "runs", 2)
    assert len(every) == len({run.folder for run in every}) == 2 * len(ARMS) * len(TEXTS)
    dumped = []
    for run in every:
        _, module, path, *fields = run.command(tmp_path / "data")[1:]
        assert module == "ibnorm_megatron.train"
        config = load_config(path, fields).model_dump()
        assert config["run"].pop("dir") == str(run.folder)
        assert config["train"].pop("seed") == run.seed
        assert config["data"].pop("path") == str(tmp_path / "data" / run.text)
        assert config["train"].pop("lr") == ARMS[run.arm][1]
        dumped.append((run.arm, config["model"].pop("norm"), json.dumps(config, default=str)))
    assert len({rest for _, _, rest in dumped}) == 1
    assert len({str(norm) for _, norm, _ in dumped}) == len({arm for arm, _, _ in dumped}) == len(ARMS)


def test_a_run_has_ended_when_its_summary_says_so(tmp_path: Path) -> None:
    run = runs(tmp_path, 1)[0]
    assert not run.ended
    run.folder.mkdir(parents=True)
    for status in ("stopped", "complete"):
        (run.folder / "summary.json").write_text(json.dumps({"status": status}))
        assert run.ended == (status == "complete")
