"""How the study was run: by which code, on what, by which numbers. From what the runs recorded of themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from ...printing import printable
from ..rules import derivation
from . import words
from .tables import Cell, Table
from .view import View

#: Name -> what of an entry's ``matching`` it is.
_FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "program": lambda facts: facts.get("code", {}).get("version"),
    "commit": lambda facts: [_short(commit) for commit in facts.get("code", {}).get("commits", ())] or None,
    "python": lambda facts: facts.get("machine", {}).get("python"),
    "libraries": lambda facts: facts.get("machine", {}).get("libraries"),
    "hardware": lambda facts: facts.get("machine", {}).get("hardware"),
    "layout": lambda facts: facts.get("layout"),
    "data": lambda facts: facts.get("data"),
    "tokenizer": lambda facts: facts.get("tokenizer"),
}


def facts(view: View) -> list[tuple[str, str]]:
    """Names and values; where runs differ, every value with how many runs have it."""
    found = []
    if view.study:
        found.append(("study", view.study.path.name if view.study.path.is_absolute() else str(view.study.path)))
        given = [text for text in view.study.overrides if not text.startswith(("dir=", "launcher."))]
        if given:
            found.append(("overrides", ", ".join(map(printable, given))))
    for name, of in _FACTS.items():
        values = Counter(_said(value) for entry in view.entries if (value := of(entry.matching)) is not None)
        several = len(values) > 1
        texts = [f"{value} ({words.plural(count, 'run')})" if several else value for value, count in values.most_common()]
        if texts:
            found.append((name, "; ".join(texts)))
    times = [(entry.started, entry.ended) for entry in view.entries if entry.started and entry.ended]
    if times:
        found.append(("time", f"{_minute(min(start for start, _ in times))} to {_minute(max(end for _, end in times))} UTC"))
    if view.entries:
        found.append(("compute", _compute(view)))
    if view.notes.records:
        found.append(("records", view.notes.records))
    return found


def _compute(view: View) -> str:
    """FLOPs of what was trained: of a branch what comes after its trunk, of a run that ended early what it came to."""
    runs, flops = [run for run in view.runs if run.trial and not run.superseded], 0.0
    for run in runs:
        recipe = view.study.recipes.get(run.size) if view.study else None
        if recipe and run.trial:
            horizon = run.trial.horizon
            shared = recipe.decay_begins(horizon) * recipe.batch_tokens if run.trial.trunk is not None else 0
            flops += run.flops * min(1.0, max(0, run.tokens - shared) / recipe.tokens(horizon))
    return f"{words.power(flops)} FLOPs in {words.plural(len(runs), 'run')}; what a branch shares with its trunk counts once"


def _said(value: Any) -> str:
    """A recorded value in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return value if isinstance(value, str) else json.dumps(value)


def _short(commit: str) -> str:
    """Ten digits of a commit's hash, and what is said behind it."""
    digits, space, rest = commit.partition(" ")
    return digits[:10] + space + rest


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def rules(view: View) -> list[tuple[str, list[str]]]:
    """By size: the derivation of batch, steps, warm-up and decay, with its numbers."""
    if not view.study:
        return []
    config = view.study.config
    given = config.batch_tokens is not None
    return [(size, derivation(recipe, config.horizons, given)) for size, recipe in view.study.recipes.items()]


def shapes(view: View) -> Table | None:
    """Sizes and what they were trained with."""
    if not view.study:
        return None
    rows = []
    for name, size in view.study.config.sizes.items():
        recipe = view.study.recipes[name]
        ends = (f"{recipe.steps(horizon):,}" for horizon in view.study.config.horizons)
        rows.append(
            (
                Cell(name),
                Cell(f"{recipe.parameters:,}"),
                Cell(f"{size.num_layers}"),
                Cell(f"{size.hidden_size}"),
                Cell(f"{size.num_attention_heads}"),
                Cell(f"{size.ffn_hidden_size}"),
                Cell(f"{recipe.batch_tokens:,}"),
                Cell(f"{recipe.warmup_steps:,}"),
                Cell(" / ".join(ends)),
            )
        )
    horizons = " / ".join(f"{horizon:g}" for horizon in view.study.config.horizons)
    columns = (
        "<size",
        "N",
        "layers",
        "width",
        "heads",
        "MLP",
        "tokens a step",
        "warm-up steps",
        f"steps at {horizons} tokens a parameter",
    )
    return Table("Sizes, the same in all arms", columns, tuple(rows))


def study_text(view: View) -> str:
    """The study's file as it stands now."""
    if not view.study:
        return ""
    try:
        return "\n".join(map(printable, view.study.path.read_text(encoding="utf-8", errors="replace").splitlines()))
    except OSError:
        return ""
