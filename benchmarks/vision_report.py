"""From the runs of the image models to what people read: tables, a page, a picture, a CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ibnorm_megatron.files import write_text
from ibnorm_megatron.lab.results import Estimate
from ibnorm_megatron.lab.statistics.paired import Clusters, by_t, holm

from .conditions import conditions, markdown_table

#: The arm that is not converted, against which all others are set, and the control, which is no candidate.
OWN, CONTROL = "own", "identity"

#: What is compared: its column, its name, by how much it is multiplied, its digits.
MEASURES = (("loss", "test loss, nats", 1.0, 4), ("accuracy", "accuracy, %", 100.0, 2))

Lines = dict[str, list[dict[str, Any]]]
HEADS = ["model", "arm", "learning rate", "mean", "minus own, paired", "p", "p, Holm"]


def comparison(runs: list[dict[str, Any]], measure: str, scale: float) -> list[dict[str, Any]]:
    """For every model and arm: the mean over seeds and, but for the own norm, the paired difference with its interval.

    Differences are by seed, with Student's interval (``lab.statistics.paired``); Holm's correction is over the arms of a model
    without the control. An arm of which a run diverged has a mean of None and no difference.
    """
    rows = []
    for model in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == model]
        values = {
            arm: {run["seed"]: run[measure] for run in mine if run["arm"] == arm}
            for arm in dict.fromkeys(r["arm"] for r in mine)
        }
        found: dict[str, tuple[Estimate, float]] = {}
        for arm, by_seed in values.items():
            if arm != OWN and None not in [*by_seed.values(), *values[OWN].values()]:
                differences = [scale * (by_seed[seed] - values[OWN][seed]) for seed in by_seed]
                found[arm] = by_t(Clusters.of(differences, list(by_seed)))
        corrected = holm({arm: p for arm, (_, p) in found.items() if arm != CONTROL})
        for arm, by_seed in values.items():
            lost = [value for value in by_seed.values() if value is None]
            estimate, p = found.get(arm, (None, None))
            rows.append({
                "model": model,
                "arm": arm,
                "rate": next(run["rate"] for run in mine if run["arm"] == arm),
                "mean": None if lost else scale * sum(by_seed.values()) / len(by_seed),
                "diverged": len(lost),
                "difference": estimate,
                "p": p,
                "holm": corrected.get(arm),
            })  # fmt: skip
    return rows


def verdict(rows: list[dict[str, Any]], name: str, lower_is_better: bool) -> list[str]:
    """A sentence for every model."""
    said = []
    for model in dict.fromkeys(row["model"] for row in rows):
        sure = [row for row in rows if row["model"] == model and row["holm"] is not None and row["holm"] < 0.05]
        parts = []
        for row in sure:
            better = (row["difference"].value < 0) == lower_is_better
            parts.append(
                f"{row['arm']} is {'better' if better else 'worse'} than its own norm by {abs(row['difference'].value):.3g}"
            )
        said.append(
            f"{model}, {name}: {', '.join(parts) or 'no difference from its own norm can be claimed for any compression'}."
        )
    return said


def _cells(row: dict[str, Any], digits: int) -> list[str]:
    mean = f"{row['diverged']} diverged" if row["mean"] is None else f"{row['mean']:.{digits}f}"
    if row["difference"] is None:
        return [row["model"], row["arm"], f"{row['rate']:g}", mean, "", "", ""]
    one = row["difference"]
    text = f"{one.value:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
    adjusted = "control" if row["holm"] is None else f"{row['holm']:.3f}"
    return [row["model"], row["arm"], f"{row['rate']:g}", mean, text, f"{row['p']:.3f}", adjusted]


def tables(lines: Lines) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, heads and cells of every table."""
    found = []
    for measure, name, scale, digits in MEASURES:
        rows = comparison(lines["compared"], measure, scale)
        found.append((f"Test images: {name}", HEADS, [_cells(row, digits) for row in rows]))
    rates = sorted({run["rate"] for run in lines["tuning"]})
    heads = ["model", "arm", *(f"{rate:g}" for rate in rates), "chosen"]
    cells = []
    for model, arm in dict.fromkeys((run["model"], run["arm"]) for run in lines["tuning"]):
        losses = {
            rate: _mean([r["loss"] for r in lines["tuning"] if (r["model"], r["arm"], r["rate"]) == (model, arm, rate)])
            for rate in rates
        }
        best = next(run["rate"] for run in lines["compared"] if (run["model"], run["arm"]) == (model, arm))
        edge = " (the grid's end)" if best in (rates[0], rates[-1]) else ""
        shown = ["diverged" if loss is None else f"{loss:.4f}" for loss in losses.values()]
        cells.append([model, arm, *shown, f"{best:g}{edge}"])
    found.append(("Learning rates: mean validation loss", heads, cells))
    return found


def _mean(losses: list[float | None]) -> float | None:
    return None if None in losses else sum(losses) / len(losses)  # type: ignore[arg-type]


def verdicts(lines: Lines) -> list[str]:
    """What was found, in sentences."""
    return [
        sentence
        for measure, name, scale, _ in MEASURES
        for sentence in verdict(comparison(lines["compared"], measure, scale), name, measure == "loss")
    ]


def print_tables(lines: Lines, console: Console) -> None:
    """What was found, on the terminal."""
    for title, heads, cells in tables(lines):
        table = Table(*heads, title=title)
        for one in cells:
            table.add_row(*one)
        console.print(table)
    for sentence in verdicts(lines):
        console.print(sentence)


def write_page(lines: Lines, settings: dict[str, Any], path: Path) -> None:
    """The page: conditions, sentences, picture, tables."""
    runs = [*lines["tuning"], *lines["compared"]]
    seconds = sum(run["seconds"] for run in runs)
    given = {**settings, "runs": len(runs), "minutes": seconds / 60}
    method = (
        "{runs} runs, {minutes:.1f} minutes of one core; {train:,} training images, {epochs} epochs in batches of {batch}, "
        "AdamW with weight decay {weight_decay}, warm-up over {warmup:.0%} of the steps, cosine to 0, gradients clipped at "
        "{clip:g}; learning rate by mean loss on {validation:,} validation images over {tuning_seeds} seeds that are not "
        "compared; {seeds} paired seeds, {test:,} test images; differences with Student's 95 % intervals, Holm's correction "
        "over the three compressions of a model; lambda is 1 everywhere and not tuned"
    ).format(**given)
    listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.vision", method).items()]
    parts = ["# Norms in image models", "\n".join([*listed, f"* images: {settings['data']}"])]
    parts += ["\n".join(f"* {sentence}" for sentence in verdicts(lines)), f"![Paired differences]({path.stem}.png)"]
    parts += [f"## {title}\n\n{markdown_table(heads, cells)}" for title, heads, cells in tables(lines)]
    write_text(path, "\n\n".join(parts) + "\n")


def write_csv(lines: Lines, path: Path) -> None:
    """Every run, a row."""
    rows = [{"part": part, **run} for part, runs in lines.items() for run in runs]
    text = io.StringIO()
    writer = csv.DictWriter(text, [name for name in rows[0] if name != "settings"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw(lines: Lines, path: Path) -> None:
    """Paired differences from the own norm with their intervals, a panel for each model and measure; dots are seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(run["model"] for run in lines["compared"]))
    figure, axes = plt.subplots(
        len(models), len(MEASURES), figsize=(10, 2.6 * len(models)), layout="constrained", squeeze=False
    )
    for line, model in enumerate(models):
        for column, (measure, name, scale, _) in enumerate(MEASURES):
            rows = [row for row in comparison(lines["compared"], measure, scale) if row["model"] == model and row["arm"] != OWN]
            _draw_panel(axes[line, column], rows, _by_seed(lines["compared"], model, measure, scale))
            axes[line, column].set_title(f"{model}: {name}, minus own norm")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _by_seed(runs: list[dict[str, Any]], model: str, measure: str, scale: float) -> Callable[[str], list[float]]:
    values = {(run["arm"], run["seed"]): run[measure] for run in runs if run["model"] == model}
    seeds = sorted({seed for _, seed in values})
    return lambda arm: [scale * (values[arm, seed] - values[OWN, seed]) for seed in seeds]


def _draw_panel(panel: Any, rows: list[dict[str, Any]], differences: Callable[[str], list[float]]) -> None:
    panel.axvline(0.0, color="black", lw=1)
    for place, row in enumerate(rows):
        one = row["difference"]
        if one is None:
            continue
        color = "0.5" if row["arm"] == CONTROL else "C0"
        panel.plot([one.low, one.high], [place, place], color=color, lw=2)
        panel.plot([one.value], [place], "s", color=color)
        panel.plot(differences(row["arm"]), [place + 0.22] * len(differences(row["arm"])), ".", color=color, alpha=0.6)
    panel.set_yticks(range(len(rows)), [row["arm"] for row in rows])
    panel.invert_yaxis()
    panel.grid(alpha=0.3, axis="x")
