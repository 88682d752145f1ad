"""What the README says is done, is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ibnorm_megatron.config import load_config
from ibnorm_megatron.norms import norm_names
from ibnorm_megatron.train.run_folder import RunFolder

from .distributed import ROOT, command, run_ranks

README = (ROOT / "README.md").read_text()
TRAIN = "{steps: 10, sequence_length: 64, global_batch_size: 8, micro_batch_size: 4, lr: 1e-3}"


@pytest.mark.slow
def test_a_norm_of_ones_own_trains(tmp_path: Path, prepared: Path) -> None:
    plugin = _plugin(tmp_path)
    norm = "model.norm={default: ibnorm_root, final: peaknorm}"
    overrides = [f"data.path={prepared}", "model.vocab_size=512", "train.steps=20", f"run.dir={tmp_path / 'run'}"]
    main = "ibnorm_megatron.train"
    run_ranks(2, main, "configs/tiny_llama.yaml", f"plugins=[{plugin}]", norm, "parallel.tensor=2", *overrides)
    metrics = [record["loss"] for record in RunFolder(tmp_path / "run").read_metrics() if "loss" in record]
    card = RunFolder(tmp_path / "run").read_card()
    assert card["norm"] == "ibnorm_root final=peaknorm"
    assert list(card["plugins"]) == [str(plugin)]
    assert metrics[-1] < metrics[0]


def _plugin(folder: Path) -> Path:
    """The README's norms in one file."""
    codes = re.findall(r"<!-- tested: own_\w+ -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(codes) == 2
    path = folder / "my_norms.py"
    path.write_text("\n".join(codes))
    return path


@pytest.mark.parametrize("norm", ["ibnorm_root", "peaknorm"])
def test_norms_of_ones_own_keep_their_promises(norm: str, tmp_path: Path) -> None:
    done = command("ibnorm", "check-norm", norm, "--plugin", _plugin(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_map_of_norms_is_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(model:\n  norm:.*?)```", README, flags=re.DOTALL)
    model = {**yaml.safe_load((ROOT / "configs" / "llama_60m.yaml").read_text())["model"], **yaml.safe_load(text)["model"]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": model, "train": yaml.safe_load(TRAIN)}))
    labels = {str(site): norm.label() for site, norm in load_config(path).model.norm_sites().items()}
    assert labels["final"] == "layernorm"
    assert labels["layers.3.attn_in"] == "ibnorm_tanh(lambda=2.0, scale=relative)"
    assert labels["layers.4.attn_in"] == labels["layers.3.mlp_in"] == "rmsnorm"


def test_every_name_in_the_readme_exists() -> None:
    for name in re.findall(r"`((?:ibnorm_|rms|layernorm)\w*)`", README):
        assert name in norm_names(), name
    for path in re.findall(r"(?:configs|launch|tests|docs)/[\w./]+\.\w+", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/setup.sh", "tests/run.sh", "tests/first_try.sh", ".ci/run"])
def test_scripts_are_valid_bash(script: str) -> None:
    assert command("bash", "-n", script).returncode == 0


def test_the_quickstart_refuses_what_it_does_not_know() -> None:
    for arguments in (["--dat", "x"], ["--data"]):
        done = command("bash", "launch/quickstart.sh", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
    shown = command("bash", "launch/quickstart.sh", "--help")
    assert shown.returncode == 0
    assert "--data" in shown.stdout
