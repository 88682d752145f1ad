"""A program that keeps a run's folder as training does, and trains nothing: for tests of what starts, stops and kills runs.

    python pretended_training.py CONFIG

It takes the steps of the config, one in ``PRETENDED_STEP`` seconds, saves on SIGTERM, goes on from what it saved, and holds the
folder's lock. ``PRETENDED_FATES`` says by arm, as JSON, how a run ends that is not to end well: ``crash``, ``refuse``,
``diverge``, ``deaf`` (does not listen to SIGTERM), ``stop`` (ends as if somebody else had stopped it), ``other`` (trains with
another config than it was given).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.lab.entries import CARD


def main() -> int:
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    folder = Path(config["run"]["dir"])
    fate = json.loads(os.environ.get("PRETENDED_FATES", "{}")).get(folder.name.split("-")[1], "")
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: None if fate == "deaf" else stopping.append(number))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two at a time would be seen as a failure
        return train(config, folder, fate, stopping)


def train(config: dict[str, Any], folder: Path, fate: str, stopping: list[int]) -> int:
    saved, steps = folder / "saved", config["train"]["steps"]
    step = int(saved.read_text()) if saved.exists() else 0
    with open(folder / "starts", "a") as starts:
        starts.write(f"{step} {os.getpid()}\n")
    recorded = {**config, "train": {**config["train"], "weight_decay": 0.5}} if fate == "other" else config
    (folder / "config.yaml").write_text(yaml.safe_dump(recorded))
    tokens = steps * config["train"]["global_batch_size"] * config["train"]["sequence_length"]
    (folder / "run_card.json").write_text(json.dumps({**CARD, "tokens": tokens}))
    if fate == "refuse":
        print("error: data.path is nowhere: it is not there; give another.", flush=True)
        return 2
    while step < steps and not stopping:
        time.sleep(float(os.environ.get("PRETENDED_STEP", "0")))
        step += 1
        record = {"step": step, "loss": 5 - step / steps, "tokens_per_second": 100.0, "step_seconds": 0.01}
        with open(folder / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps(record) + "\n")
        if fate == "crash" and step == steps // 2:
            print("Traceback (most recent call last):\nMemoryError: no more", flush=True)
            return 1
        if fate == "stop":
            stopping.append(0)
    saved.write_text(str(step))
    state = folder / "checkpoints" / f"step-{step:08d}"
    state.mkdir(parents=True, exist_ok=True)
    (state.parent / "latest").write_text(state.name)
    summary = {"status": "complete" if step == steps else "stopped", "step": step, "tokens": step * 512, "step_seconds": 0.01}
    summary |= {"seconds": step * 0.01, "val_loss": 4.0 if step == steps else None}
    if fate == "diverge":
        summary |= {"status": "failed", "failure": "not_finite", "reason": "the loss of step 3 is nan: not finite."}
    (folder / "summary.json.tmp").write_text(json.dumps(summary))
    (folder / "summary.json.tmp").rename(folder / "summary.json")
    print("error: the loss of step 3 is nan: not finite." if fate == "diverge" else "ended", flush=True)
    return int(fate == "diverge")


if __name__ == "__main__":
    sys.exit(main())
