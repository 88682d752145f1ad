"""Trains the runs that ``ibnorm analyze`` is tried on: six norms, on source code and on prose, three seeds each.

    OMP_NUM_THREADS=1 python -m benchmarks.inside --at-once 2

benchmarks/studies/inside has the config and the recipes of both texts, and its README all commands. Learning rates and
lambdas are those that benchmarks/studies/norms chose for each norm. Every run is one process and has its own folder,
``OUT/TEXT/NORM-SEED``; a run that has ended is left alone, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from ibnorm_megatron.errors import Problem, UserError, run_command
from ibnorm_megatron.progress import Progress

STUDY = Path("benchmarks/studies/inside")
TEXTS = ("code", "prose")

#: model.norm and train.lr of each arm.
ARMS: dict[str, tuple[str, float]] = {
    "layernorm": ("layernorm", 8e-3),
    "rmsnorm": ("rmsnorm", 5.657e-3),
    "identity": ("ibnorm_identity", 8e-3),
    "log": ("ibnorm_log", 8e-3),
    "tanh": ("{kind: ibnorm_tanh, lambda: 0.5}", 8e-3),
    "tanh_relative": ("{kind: ibnorm_tanh, scale: relative, lambda: 2}", 8e-3),
}


@dataclass(frozen=True)
class Run:
    """One training: ``text`` it is trained on, ``arm``, ``seed``, and the folder ``out`` that all runs share."""

    text: str
    arm: str
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / self.text / f"{self.arm}-{self.seed}"

    @property
    def ended(self) -> bool:
        summary = self.folder / "summary.json"
        return summary.is_file() and json.loads(summary.read_text())["status"] == "complete"

    def command(self, data: Path) -> list[str]:
        norm, rate = ARMS[self.arm]
        fields = [f"data.path={data / self.text}", f"run.dir={self.folder}", f"train.seed={self.seed}"]
        fields += [f"model.norm={norm}", f"train.lr={rate}", "log.console=false"]
        return [sys.executable, "-m", "ibnorm_megatron.train", str(STUDY / "base.yaml"), *fields]

    def train(self, data: Path) -> None:
        """Run it to its end.

        Raises:
            UserError: it failed; with the last line that it said.
        """
        command = self.command(data)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
        if done.returncode:
            said = done.stdout.strip().splitlines() or ["nothing was said"]
            raise UserError([Problem(str(self.folder), "", said[-1], "mend it, and start the same command again")])


def runs(out: Path, seeds: int) -> list[Run]:
    """All of them, a whole seed of both texts before the next."""
    return [Run(text, arm, seed, out) for seed in range(1, seeds + 1) for text in TEXTS for arm in ARMS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/inside"), help="folder with the prepared texts")
    parser.add_argument("--out", type=Path, default=Path("runs/inside"), help="folder of the runs' folders")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="how many are trained at a time")
    options = parser.parse_args()
    every = runs(options.out, options.seeds)
    due = [run for run in every if not run.ended]
    progress = Progress("training", len(every), done=len(every) - len(due), unit="runs")
    with ThreadPoolExecutor(options.at_once) as pool, progress:
        started = {pool.submit(run.train, options.data): run for run in due}
        try:
            for future in as_completed(started):
                future.result()
                progress.advance(note=f"{started[future].text}, {started[future].arm}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(run_command(main))
