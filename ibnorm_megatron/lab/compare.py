"""Finished runs side by side. Reads run folders and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problem, UserError, raise_if_any
from ..pictures import save_picture
from ..train.run_folder import RunFolder, differences

#: Fields of config and run card in which arms of one comparison may differ.
_FREE_CONFIG = ("plugins", "model.norm", "model.qk_norm", "run.", "log.", "checkpoint.", "evaluate.interval")
_FREE_CARD = ("plugins", "norm", "started", "resumed", "parameters.norms")

#: What is read from each record of a run.
_CARD = ("norm", "tokens")
_SUMMARY = ("val_loss", "val_bits_per_byte", "tokens_per_second", "peak_memory_bytes", "unigram_entropy")

ONE_SEED = (
    "One seed proves nothing: differences of this size come and go with the seed. Repeat with several before you believe one."
)


@dataclass(frozen=True)
class Arm:
    """One finished run: its folder and what is recorded there."""

    path: Path
    config: dict[str, Any]
    card: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The norm's label."""
        return self.card["norm"]


def load_arms(paths: Sequence[Path]) -> list[Arm]:
    """Read runs that may be compared: complete, and different in nothing but their norm; so of one seed, too.

    Raises:
        UserError: a run is not complete or is given twice, or differs from the first in something else; every such run
            and field is named.
    """
    arms: list[Arm] = []
    problems: list[Problem] = []
    for number, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:number]]:
            problems.append(Problem("the run", str(path), "it is given twice", "give every run once"))
            continue
        try:
            arms.append(_load_arm(path))
        except UserError as error:
            problems += error.problems
    for arm in arms[1:]:
        problems += _other_differences(arms[0], arm)
    raise_if_any(problems)
    return arms


def _load_arm(path: Path) -> Arm:
    folder = RunFolder(path)
    config, card, summary = folder.read_config(), folder.read_card(), folder.read_summary()
    if summary is None or summary.get("status") != "complete":
        raise UserError(Problem("the run", str(path), "it is not complete", "run its command again to finish it"))
    lacking = [
        f"{name}'s {key}"
        for name, record, keys in (("run_card.json", card, _CARD), ("summary.json", summary, _SUMMARY))
        for key in keys
        if key not in record
    ]
    if lacking:
        why = f"its records lack {', '.join(lacking)}"
        raise UserError(Problem("the run", str(path), why, "run it again in a new folder"))
    return Arm(path, config, card, summary, folder.read_metrics())


def _other_differences(first: Arm, arm: Arm) -> Iterator[Problem]:
    """In what else than its norm an arm differs from the first."""
    for free, a, b in ((_FREE_CONFIG, first.config, arm.config), (_FREE_CARD, first.card, arm.card)):
        for field, old, new in differences(a, b):
            if not field.startswith(free):
                mend = "compare runs that differ in their norm only"
                yield Problem(f"{field} of {arm.path}", repr(new), f"{first.path} has {old!r}", mend)


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
        numbers = {key: _number(arm.summary.get(key)) for key in (*_SUMMARY, "norm_share")}
        table.add_row(
            arm.name,
            _shown(numbers["val_loss"], "{:.4f}", "diverged"),
            _shown(numbers["val_bits_per_byte"], "{:.4f}", "diverged"),
            _shown(numbers["tokens_per_second"], "{:,.0f}"),
            _shown(numbers["peak_memory_bytes"] / 2**20, "{:,.0f} MiB"),
            _shown(100 * numbers["norm_share"], "{:.1f} %"),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(ONE_SEED, style="bold yellow")


def draw_curves(arms: Sequence[Arm], path: Path) -> None:
    """Training loss, smoothed, with validation points, over tokens; the unigram entropy as a dashed line.

    A loss that is no finite number is a gap.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, arm in enumerate(arms):
        per_step = arm.card["tokens"] / arm.config["train"]["steps"]
        tokens, losses = _curve(arm, "loss", per_step)
        color = f"C{number}"
        axes.plot(tokens, losses, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(tokens, _smoothed(losses), color=color, linewidth=1.2)
        label = f"{arm.name}: {_shown(_number(arm.summary['val_loss']), '{:.4f}', 'diverged')}"
        axes.plot(*_curve(arm, "val_loss", per_step), "o", color=color, markersize=5, label=label)
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
    save_picture(figure, path)


def _curve(arm: Arm, name: str, per_step: float) -> tuple[list[float], list[float]]:
    """A metric over the tokens seen: training and evaluation records alike, by their step."""
    records = [record for record in arm.metrics if name in record]
    return [record["step"] * per_step for record in records], [_number(record[name]) for record in records]


def _number(value: float | None) -> float:
    """A recorded number; the records hold null for what was not finite, or was not measured."""
    return value if value is not None and math.isfinite(value) else math.nan


def _shown(number: float, form: str, otherwise: str = "-") -> str:
    return otherwise if math.isnan(number) else form.format(number)


def _smoothed(values: Sequence[float], span: int = 15) -> list[float]:
    """Mean of the finite ones of the ``span`` values around each, fewer at the ends; a gap stays one."""
    windows = [values[max(0, i - span // 2) : i + span // 2 + 1] for i in range(len(values))]
    finite = [[value for value in window if not math.isnan(value)] for window in windows]
    return [value if math.isnan(value) else sum(near) / len(near) for value, near in zip(values, finite, strict=True)]
