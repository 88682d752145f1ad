"""Small studies for tests of what runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ibnorm_megatron.lab.study import Study, load_study

from ..distributed import ROOT, environment

#: 2,560 parameters without embeddings and head: 25 steps at 5 tokens a parameter.
SIZE = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1, "ffn_hidden_size": 32}

PRETENDED = ("{python}", "-m", "tests.lab.pretended_training", "{config}")


def write_study(folder: Path, data: Path, **values: Any) -> Path:
    """A study's file in ``folder``, whose runs are beside it. ``values`` replace fields of it."""
    given: dict[str, Any] = {
        "name": "tiny",
        "base": str(ROOT / "configs" / "tiny_llama.yaml"),
        "overrides": [f"data.path={data}", "model.vocab_size=512", "evaluate.batches=2", "log.console=false"],
        "dir": str(folder / "study"),
        "arms": {"layernorm": "layernorm", "identity": "ibnorm_identity", "log": "ibnorm_log"},
        "baseline": "layernorm",
        "control": "identity",
        "sizes": {"s": SIZE},
        "horizons": [5],
        "seeds": [1],
        "batch_tokens": 512,
        "transfer": {"rule": "constant"},
        "allow": ["few_seeds", "one_size", "untuned"],
        **values,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


def pretended(folder: Path, data: Path, **values: Any) -> Path:
    """A study that trains nothing; see :mod:`tests.lab.pretended_training`."""
    launcher = {"command": list(PRETENDED), **values.pop("launcher", {})}
    return write_study(folder, data, launcher=launcher, **values)


def loaded(path: Path) -> Study:
    """The study of a file."""
    return load_study(path)


def start(path: Path, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """``ibnorm lab run`` as a process; what it says is on its stderr."""
    code = "import sys; from ibnorm_megatron.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "lab", "run", str(path), *map(str, arguments)]
    given = {**environment(), **variables}
    return subprocess.Popen(words, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def alive(process: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{process}")
