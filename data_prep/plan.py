"""What a preparation set out to do, kept beside its work, so that nothing else can go on with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ibnorm_megatron.errors import Problem, raise_if_any
from ibnorm_megatron.files import write_text

from .recipe import Recipe
from .sources import Source


class _Plan(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    sources: list[Source]


def keep_plan(folder: Path, recipe: Recipe, sources: Sequence[Source]) -> None:
    """Write the plan, or compare with the one that is there.

    Raises:
        UserError: the preparation in ``folder`` was begun with another recipe, or a source has changed since.
    """
    path, plan = folder / "plan", _Plan(recipe=recipe, sources=list(sources))
    if not path.exists():
        write_text(path, plan.model_dump_json())
        return
    before = _Plan.model_validate_json(path.read_text(encoding="utf-8"))
    mend = f"set it back, or remove {folder.parent} to begin again"
    if before.recipe.hash() != recipe.hash():
        raise_if_any(_differences(before.recipe, recipe, folder.parent, mend))
    raise_if_any(_changed(before.sources, plan.sources, folder.parent))


def _differences(before: Recipe, now: Recipe, folder: Path, mend: str) -> Iterator[Problem]:
    for name in type(now).model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if old != new and name != "encoding_errors":
            yield Problem(f"recipe.{name}", _short(new), f"{folder} was begun with {_short(old)}", mend)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "..."


def _changed(before: Sequence[Source], now: Sequence[Source], folder: Path) -> Iterator[Problem]:
    for old, new in zip_longest(before, now):
        for was, part in zip_longest(old.parts, new.parts):
            if was != part:
                file = (part or was).file
                why, mend = f"since {folder} was begun", f"set it back, or remove {folder} to begin again"
                yield Problem(f"the source {file}", "another file", why, mend)
                return
