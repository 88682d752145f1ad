"""What the README says is done, is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ibnorm_megatron.norms import norm_names
from ibnorm_megatron.train.run_folder import RunFolder

from .distributed import ROOT, torchrun

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_a_norm_of_ones_own_trains(tmp_path: Path, prepared: Path) -> None:
    (code,) = re.findall(r"<!-- tested: own_norm -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    script = tmp_path / "my_norm.py"
    script.write_text(code)
    overrides = [f"data.path={prepared}", "model.vocab_size=512", "train.steps=20", f"run.dir={tmp_path / 'run'}"]
    torchrun(2, script, "configs/tiny_llama.yaml", "model.norm=ibnorm_root", "parallel.tensor=2", *overrides)
    metrics = [record["loss"] for record in RunFolder(tmp_path / "run").read_metrics() if "loss" in record]
    assert RunFolder(tmp_path / "run").read_card()["norm"] == "ibnorm_root"
    assert metrics[-1] < metrics[0]


def test_every_name_in_the_readme_exists() -> None:
    for name in re.findall(r"`((?:ibnorm_|rms|layer)\w+)`", README):
        assert name in norm_names(), name
    for path in re.findall(r"(?:configs|launch|tests|docs)/[\w./]+\.\w+", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/setup.sh", "tests/run.sh", ".ci/run"])
def test_scripts_are_valid_bash(script: str) -> None:
    from .distributed import command

    assert command("bash", "-n", script).returncode == 0


def test_the_quickstart_refuses_what_it_does_not_know() -> None:
    from .distributed import command

    for arguments in (["--dat", "x"], ["--data"]):
        done = command("bash", "launch/quickstart.sh", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
    shown = command("bash", "launch/quickstart.sh", "--help")
    assert shown.returncode == 0
    assert "--data" in shown.stdout
