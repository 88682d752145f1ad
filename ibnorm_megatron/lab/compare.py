"""Finished runs side by side. Reads run folders and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problem, UserError, raise_if_any
from ..train.run_folder import RunFolder, differences

#: Fields of config and run card in which arms of one comparison may differ.
_FREE_CONFIG = ("model.norm", "run.", "log.", "checkpoint.", "evaluate.interval")
_FREE_CARD = ("norm", "started", "parameters.norms")

ONE_SEED = (
    "One seed proves nothing: differences of this size come and go with the seed. Repeat with several before you believe one."
)


@dataclass(frozen=True)
class Arm:
    """One finished run."""

    folder: RunFolder
    config: dict[str, Any]
    card: dict[str, Any]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """The norm's label."""
        return self.card["norm"]


def load_arms(paths: Sequence[Path]) -> list[Arm]:
    """Read runs that may be compared: complete, and different in nothing but their norm (and seed, for repeats).

    Raises:
        UserError: a run is not complete, or differs from the first in something else; every such field is named.
    """
    arms = []
    for path in paths:
        folder = RunFolder(path)
        config, card, summary = folder.read_config(), folder.read_card(), folder.read_summary()
        if summary is None or summary.get("status") != "complete":
            raise UserError(Problem("the run", str(path), "it is not complete", "run its command again to finish it"))
        arms.append(Arm(folder, config, card, summary))
    first = arms[0]
    raise_if_any(
        Problem(
            f"{field} of {arm.folder.path}",
            repr(new),
            f"{first.folder.path} has {old!r}",
            "compare runs that differ in their norm only",
        )
        for arm in arms[1:]
        for free, a, b in ((_FREE_CONFIG, first.config, arm.config), (_FREE_CARD, first.card, arm.card))
        for field, old, new in differences(a, b)
        if not field.startswith(free)
    )
    return arms


def print_table(arms: Sequence[Arm]) -> None:
    """One line an arm: validation loss and bits a byte, speed, memory, and the norms' share of a step."""
    from rich.console import Console
    from rich.table import Table

    entropy = arms[0].summary["unigram_entropy"]
    table = Table(
        title=f"{arms[0].card['tokens']:,} tokens each; unigram entropy of the data {entropy:.3f} nats", title_justify="left"
    )
    table.add_column("norm")
    for column in ("validation loss", "bits a byte", "tokens/s", "peak memory a rank", "norms' share of a step"):
        table.add_column(column, justify="right")
    for arm in arms:
        summary = arm.summary
        share = summary.get("norm_share")
        table.add_row(
            arm.name,
            f"{summary['val_loss']:.4f}",
            f"{summary['val_bits_per_byte']:.4f}",
            f"{summary['tokens_per_second']:,.0f}",
            f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB",
            "-" if share is None else f"{100 * share:.1f} %",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(ONE_SEED, style="bold yellow")


def draw_curves(arms: Sequence[Arm], path: Path) -> None:
    """Training loss, smoothed, with validation points, over tokens; the unigram entropy as a dashed line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, arm in enumerate(arms):
        records = arm.folder.read_metrics()
        train = [(record["tokens"], record["loss"]) for record in records if "loss" in record]
        per_step = train[-1][0] / arm.config["train"]["steps"]
        validation = [(record["step"] * per_step, record["val_loss"]) for record in records if "val_loss" in record]
        color = f"C{number}"
        axes.plot([t for t, _ in train], [loss for _, loss in train], color=color, alpha=0.2, linewidth=0.8)
        axes.plot([t for t, _ in train], _smoothed([loss for _, loss in train]), color=color, linewidth=1.2)
        axes.plot(*zip(*validation, strict=True), "o", color=color, markersize=5, label=f"{arm.name}: {validation[-1][1]:.4f}")
    entropy = arms[0].summary["unigram_entropy"]
    axes.axhline(entropy, color="gray", linestyle="--", linewidth=1)
    axes.annotate("unigram entropy", (1, entropy), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray")
    axes.set(
        xlabel="training tokens",
        ylabel="loss, nats a token",
        title="Training loss (lines, smoothed) and validation loss (points)",
    )
    axes.legend(title="validation loss at the end")
    figure.supxlabel("one seed: differences of this size may come from the seed alone", fontsize="small", color="gray")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    figure.savefig(temporary, dpi=150)
    os.replace(temporary, path)


def _smoothed(values: Sequence[float], span: int = 15) -> list[float]:
    """Mean of the ``span`` values around each, fewer at the ends."""
    windows = [values[max(0, i - span // 2) : i + span // 2 + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
