"""Two hosts, or the reason why there are none; the lines of docs/cluster.md; and the curve of a run on one host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import VOCABULARY
from ..distributed import ROOT, environment, run_ranks
from .hosts import Hosts, Missing, two_hosts

#: Overrides of the lines in docs/cluster.md, whose run takes minutes.
FEW = ["train.steps=12", "evaluate.interval=0", "log.console=false", "log.telemetry=0", "log.norm_cost=false"]


def arguments(data: Path, run: Path, *overrides: str) -> list[str]:
    """A tiny LLaMA: tensor ranks inside a host, data ranks across."""
    sizes = [f"model.vocab_size={VOCABULARY}", "train.steps=12", "log.console=false", "log.telemetry=0"]
    layout = ["parallel.tensor=2", "parallel.sequence=true"]
    return ["configs/tiny_llama.yaml", f"data.path={data}", f"run.dir={run}", *sizes, *layout, *overrides]


def losses(run: Path) -> dict[int, float]:
    """The loss of every step that a run recorded."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two hosts, or a skipped test that says what is missing."""
    try:
        with two_hosts() as made:
            yield made
    except Missing as missing:
        pytest.skip(str(missing))


@dataclass(frozen=True)
class Shared:
    """A folder that stands for docs/cluster.md's ``/shared``: this repository, and data as the page prepares them."""

    folder: Path

    def lines(self, heading: str) -> list[str]:
        """The page's blocks of commands under a heading."""
        text = (ROOT / "docs" / "cluster.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        return [block.replace("/shared", str(self.folder)) for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """The page's first steps, as it has them."""
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("launch/setup.sh, with which the page begins, would install everything once more")
    made = Shared(tmp_path_factory.mktemp("shared"))
    (made.folder / "ibnorm_megatron").symlink_to(ROOT)
    setup, data, _ = made.lines("Two hosts, torchrun")
    subprocess.run(["bash", "-ec", setup + data], env=environment(), check=True, timeout=300)
    return made


@pytest.fixture(scope="session")
def one_host(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the page's run on one host, in the layout of two."""
    run = tmp_path_factory.mktemp("one") / "run"
    where = [f"data.path={shared.folder / 'data' / 'stdlib'}", f"run.dir={run}"]
    run_ranks(4, "ibnorm_megatron.train", "configs/quickstart.yaml", *where, *FEW)
    return losses(run)


def needs_programs(*names: str, package: str) -> None:
    """Skip a test where a program is missing."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"there is no program {name} (Debian: apt-get install {package})")
