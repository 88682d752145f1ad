"""From a step's times to what people read: tables, a CSV, a page with the goals, and bars."""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .conditions import conditions, markdown_table
from .llamas import Shape
from .timing import ratio

HEADS = ["contender", "median ms", "shortest ms", "tokens/s", "speed", "speed of shortest", "share of floor", "first loss"]
CSV_HEADS = ["layers", "width", "vocabulary", "length", "batch", "dtype", *HEADS]

#: Speed of ours over hand-written, both eager; over the fastest compiled peer; and time of engine and loop over a bare loop.
GOALS = {"eager": 0.95, "compiled": 1.0, "engine": 1.05}

FLOOR = "floor"

#: Ours in a bare loop with float32 masters: what the engine, which has them in bf16, is held against there.
MASTERS = "ours, fp32 masters"


@dataclass(frozen=True)
class Contender:
    """Who steps: a name, and whether it is compiled.

    Attributes:
        ours: whether it is this project's model.
        same_model: whether it computes what the others do; another norm does not.
    """

    name: str
    compiled: bool
    ours: bool = False
    same_model: bool = True

    def __str__(self) -> str:
        return f"{self.name}, compiled" if self.compiled else self.name


@dataclass(frozen=True)
class CaseResult:
    """What was measured on one shape in one type.

    Attributes:
        shape: of the model and its batch.
        dtype: fp32 or bf16.
        contenders: all that were to run, the first eager one being what speeds are relative to.
        seconds: of every round, by name, with the floor's.
        missing: why a contender has none.
        losses: of the first and the third step.
    """

    shape: Shape
    dtype: str
    contenders: list[Contender]
    seconds: dict[str, list[float]]
    missing: dict[Contender, str]
    losses: dict[Contender, tuple[float, float]]

    @property
    def title(self) -> str:
        """Shape and type."""
        return f"{self.shape}, {self.dtype}"

    def speed(self, name: str, base: str) -> float:
        """How many times faster than base, the median of that within a round."""
        return ratio(self.seconds[base], self.seconds[name])

    def lines(self) -> list[list[str]]:
        """The table's cells."""
        base, found = str(self.contenders[0]), []
        for name, loss in [*((str(one), self.losses.get(one)) for one in self.contenders), (FLOOR, None)]:
            if name not in self.seconds:
                reason = next(why for one, why in self.missing.items() if str(one) == name)
                found.append([name, reason, *[""] * (len(HEADS) - 2)])
                continue
            own = self.seconds[name]
            median, shortest = statistics.median(own), min(own)
            figures = [f"{1e3 * median:.1f}", f"{1e3 * shortest:.1f}", f"{self.shape.tokens / median:.0f}"]
            figures += [f"{self.speed(name, base):.3f}", f"{min(self.seconds[base]) / shortest:.3f}"]
            figures += [f"{self.speed(name, FLOOR):.0%}", f"{loss[0]:.6f}" if loss else ""]
            found.append([name, *figures])
        return found

    def goals(self) -> list[list[str]]:
        """Each goal, what came out, and whether it is met. Only what ran is judged."""
        found = []
        base = str(self.contenders[0])

        def judge(goal: str, figure: float, met: bool, beside: str) -> None:
            found.append([self.title, goal, f"{figure:.3f} ({beside})", "met" if met else "not met"])

        for one in self.contenders:
            if not one.ours or not one.same_model:
                continue
            if not one.compiled:
                speed = self.speed(str(one), base)
                judge(f"{one}: at least {GOALS['eager']} of {base}", speed, speed >= GOALS["eager"], base)
                continue
            peers = [str(peer) for peer in self.contenders if peer.compiled and not peer.ours and str(peer) in self.seconds]
            speed, best = min((self.speed(str(one), peer), peer) for peer in peers)
            judge(f"{one}: at least {GOALS['compiled']} of the best compiled peer", speed, speed >= GOALS["compiled"], best)
        for one in self.contenders:
            if one.ours and one.same_model and "engine" in one.name:
                bare = str(Contender(MASTERS if self.dtype == "bf16" else "ours", one.compiled))
                time = self.speed(bare, str(one))
                judge(f"{one}: at most {GOALS['engine']} of a bare loop's time", time, time <= GOALS["engine"], bare)
        return found


GOAL_HEADS = ["case", "goal", "found", ""]


def print_cases(cases: list[CaseResult]) -> None:
    """Tables on the terminal."""
    console = Console(width=150)
    for case in cases:
        for title, heads, lines in ((case.title, HEADS, case.lines()), ("goals", GOAL_HEADS[1:], _cut(case.goals()))):
            table = Table(*heads, title=title)
            for line in lines:
                table.add_row(*line)
            console.print(table)


def _cut(lines: list[list[str]]) -> list[list[str]]:
    return [line[1:] for line in lines]


def write_csv(cases: list[CaseResult], path: Path) -> None:
    """Every line of every case."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_HEADS)
        for case in cases:
            shape = case.shape
            own = [shape.layers, shape.width, shape.vocabulary, shape.length, shape.batch, case.dtype]
            writer.writerows([*own, *line] for line in case.lines())


def write_page(cases: list[CaseResult], path: Path, rounds: int) -> None:
    """Conditions, goals, and a table for every case."""
    listed = "\n".join(f"* {name}: {value}" for name, value in conditions("benchmarks.step", _method(rounds)).items())
    goals = [line for case in cases for line in case.goals()]
    parts = [f"# A training step side by side\n\n{listed}", f"![Speed beside the hand-written LLaMA's]({path.stem}.png)"]
    parts.append(f"## Goals\n\n{markdown_table(GOAL_HEADS, goals)}")
    parts += [f"## {case.title}\n\n{markdown_table(HEADS, case.lines())}" for case in cases]
    path.write_text("\n\n".join(parts) + "\n")


def _method(rounds: int) -> str:
    return (
        f"{rounds} interleaved rounds of one step each, after three steps that were compared and one that was not timed; speed "
        "is the hand-written eager step's time over the contender's, the median of that within a round. A step is forward, "
        "loss, backward, clipping at 1, fused AdamW. In bf16 all weights and moments are bf16 in a bare loop, but for ours "
        "with fp32 masters; engine + loop, DeepSpeed ZeRO-1 on one rank, has float32 masters and moments, and is held against "
        "those. The floor is the step's matrix products and attention alone"
    )


def draw(cases: list[CaseResult], path: Path) -> None:
    """Speeds as bars, a panel for every case; the line is the hand-written eager step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(cases) // 2)
    figure, axes = plt.subplots(rows, min(2, len(cases)), figsize=(13, 1 + 4.6 * rows), layout="constrained", squeeze=False)
    for panel in axes.flat[len(cases) :]:
        panel.set_visible(False)
    for panel, case in zip(axes.flat, cases, strict=False):
        names = [name for name, *_ in case.lines()]
        speeds = [case.speed(name, str(case.contenders[0])) if name in case.seconds else 0.0 for name in names]
        ours = {str(one) for one in case.contenders if one.ours}
        colors = ["black" if name == FLOOR else "C1" if name in ours else "C0" for name in names]
        hatches = ["//" if name.endswith("compiled") else "" for name in names]
        bars = panel.barh(names, speeds, color=colors, hatch=hatches, edgecolor="white")
        labels = [f"{speed:.2f}" if speed else "not installed" for speed in speeds]
        panel.bar_label(bars, labels, padding=3)
        panel.axvline(1.0, color="gray", lw=1)
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.set_title(case.title, fontsize=9)
        panel.set(xlabel="speed relative to the hand-written eager step")
    figure.savefig(path, dpi=110)
    plt.close(figure)
