"""Every arm of a study at every size, as a run's config; and what of a study's fields does not fit together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, parse_config
from ..errors import Problem
from .fairness import tuned_size
from .rules import DECIDED, Recipe, evaluated_alike, recipe_of

if TYPE_CHECKING:
    from ..model.norm_map import NormMap
    from .study import ArmConfig, SizeConfig, StudyConfig

#: An arm, a size and a lambda, None for the norm's own.
Model = tuple[str, str, float | None]

_NAME = re.compile(r"[\w.-]+")

#: Runs of fewer steps have no warm-up and decay to speak of.
_LEAST_STEPS = 5

#: How far ratios of neighbours on the grid may be from each other: 1, 3, 10 is a grid of equal ratios to anybody.
_RATIO_TOLERANCE = 1.15


def configs_of(study: StudyConfig, base: Path) -> tuple[dict[Model, Config], list[Problem]]:
    """The config of every model of the study, but for what rules and trials decide; and all that is wrong with them."""
    configs: dict[Model, Config] = {}
    found: dict[Problem, list[Model]] = {}
    models: list[Model] = [
        (name, size, strength) for name, arm in study.arms.items() for size in study.sizes for strength in (None, *arm.lambdas)
    ]
    for model in models:
        name, size, strength = model
        overrides = [*study.overrides, *_overrides(study, study.arms[name], study.sizes[size], strength)]
        config, problems = parse_config(base, overrides)
        for problem in problems:
            found.setdefault(problem, []).append(model)
        if config is not None and not problems:
            configs[model] = config
    return configs, [_named(problem, where, models) for problem, where in found.items()]


def _overrides(study: StudyConfig, arm: ArmConfig, size: SizeConfig, strength: float | None) -> Iterator[str]:
    fields: dict[str, Any] = {**size.model_dump(), "norm_placement": arm.norm_placement, "qk_norm": arm.qk_norm}
    fields["norm"] = _with_lambda(arm.norm, strength)
    if study.transfer.rule == "mup":
        fields["mup_base_width"] = study.sizes[tuned_size(study)].hidden_size
    yield from (f"model.{name}={json.dumps(value)}" for name, value in fields.items())
    yield "train.schedule=wsd"


def _with_lambda(norm: NormMap, strength: float | None) -> Any:
    """The norm as a config has it, with another lambda wherever it has one."""
    dumped = norm.model_dump(mode="json", by_alias=True)
    if strength is None:
        return dumped
    if "kind" in dumped:
        return {**dumped, "lambda": strength} if "lambda" in dumped else dumped
    return {site: {**each, "lambda": strength} if "lambda" in each else each for site, each in dumped.items()}


def own_lambdas(norm: NormMap) -> set[float]:
    """The lambdas that a norm, or a map of norms, has by itself."""
    norms = [each.model_dump(by_alias=True) for each in norm.root.values()]
    return {each["lambda"] for each in norms if "lambda" in each}


def _named(problem: Problem, where: list[Model], models: list[Model]) -> Problem:
    """A problem of a run's config, with the arm, the size and the lambda in front without which it is not there."""
    parts = []
    for number, word in enumerate(("arm", "size", "lambda")):
        values = dict.fromkeys(model[number] for model in where)
        if len(values) < len({model[number] for model in models}) and list(values) != [None]:
            shown = ", ".join(str(value) for value in values if value is not None)
            parts.append(f"{word} {shown}")
    return replace(problem, where=f"{problem.where} of {', '.join(parts)}") if parts else problem


def between_fields(study: StudyConfig) -> Iterator[Problem]:
    """What of a study's fields does not fit together, or does not fit what a study decides by itself."""
    yield from study.problems()
    for room, names in (("arms", study.arms), ("sizes", study.sizes)):
        for name in names:
            if not _NAME.fullmatch(name):
                why = "folders are named after it"
                yield Problem(room, repr(name), why, "use letters, digits, points, lines and underscores")
    for override in study.overrides:
        key = override.partition("=")[0].strip().removeprefix("--")
        if any(key == decided or key.startswith(f"{decided}.") for decided in DECIDED):
            mend = "take it out; what a study tunes, sizes and decides by rule stands in its own fields"
            yield Problem("overrides", repr(override), "a study sets this field itself", mend)
    yield from _lambdas(study)
    yield from _grid(study)
    yield from _same_arms(study)
    yield from _check_seeds(study)
    yield from _head_widths(study)


def _lambdas(study: StudyConfig) -> Iterator[Problem]:
    for name, arm in study.arms.items():
        where, own = f"arms.{name}.lambdas", own_lambdas(arm.norm)
        if arm.lambdas and not own:
            yield Problem(where, str(list(arm.lambdas)), f"{arm.norm.label()} has no lambda", "leave them out")
        elif arm.lambdas and study.tuning is None:
            yield Problem(where, str(list(arm.lambdas)), "the study tunes nothing", "add tuning, or leave them out")
        for strength in arm.lambdas:
            if own == {strength}:
                why = "it is the norm's own, with which the grid is tried already"
                yield Problem(where, f"{strength:g}", why, "name others only")
        if len(set(arm.lambdas)) < len(arm.lambdas):
            yield Problem(where, str(list(arm.lambdas)), "one of them is there twice", "give each once")


def _grid(study: StudyConfig) -> Iterator[Problem]:
    if study.tuning is None:
        return
    grid = study.tuning.learning_rates
    ratios = [high / low for low, high in pairwise(grid)]
    shown = str([float(rate) for rate in grid])
    if any(ratio <= 1 for ratio in ratios):
        yield Problem("tuning.learning_rates", shown, "they do not rise", "write them from the lowest to the highest")
    elif ratios and max(ratios) > _RATIO_TOLERANCE * min(ratios):
        why = f"neighbours differ by factors from {min(ratios):.3g} to {max(ratios):.3g}, so where it is coarse nobody looks"
        yield Problem("tuning.learning_rates", shown, why, "give rates in equal ratios, such as 1e-3, 2e-3, 4e-3")


def _same_arms(study: StudyConfig) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], str] = {}
    for name, arm in study.arms.items():
        is_what = (json.dumps(arm.norm.model_dump(mode="json", by_alias=True)), arm.norm_placement, arm.qk_norm)
        if other := seen.get(is_what):
            why = f"it is the same as {other}, and so would be all its runs"
            yield Problem(f"arms.{name}", arm.norm.label(), why, "leave one of them out")
        seen.setdefault(is_what, name)


def _check_seeds(study: StudyConfig) -> Iterator[Problem]:
    lacking = [seed for seed in study.transfer.check_seeds if seed not in study.seeds]
    if lacking and study.transfer.check_factors:
        why = f"no run at the transferred rate has the seed {lacking[0]}, so there is nothing to compare with"
        yield Problem("transfer.check_seeds", str(list(study.transfer.check_seeds)), why, "choose among seeds")
    if any(factor == 1 for factor in study.transfer.check_factors):
        shown, why = str(list(study.transfer.check_factors)), "1 is the transferred rate, which is run anyway"
        yield Problem("transfer.check_factors", shown, why, "take it out")


def _head_widths(study: StudyConfig) -> Iterator[Problem]:
    """1/sqrt(d) in attention is that of the maximal update parametrization only where d is constant (arXiv 2203.03466)."""
    if study.transfer.rule != "mup":
        return
    tuned = study.sizes[tuned_size(study)]
    for name, size in study.sizes.items():
        width, wanted = (each.hidden_size // each.num_attention_heads for each in (size, tuned))
        if width != wanted and width and wanted:  # heads wider than the model are refused by the model's own config
            why = f"its heads are {width} wide and those of the tuned size {wanted}, and muP transfers between equal ones"
            mend = f"set it to {max(1, size.hidden_size // wanted)}, or choose another transfer.rule"
            yield Problem(f"sizes.{name}.num_attention_heads", str(size.num_attention_heads), why, mend)


def recipes_of(study: StudyConfig, configs: Mapping[Model, Config]) -> dict[str, Recipe]:
    """Batch, warm-up and steps of every size; a horizon of tuning's own counts at the size that is tuned."""
    recipes = {}
    for size in study.sizes:
        run = configs[next(iter(study.arms)), size, None]
        parts = run.model.num_params()
        own = [study.tuning.horizon] if study.tuning and study.tuning.horizon and size == tuned_size(study) else []
        matrices, length = parts["attention"] + parts["mlp"], run.train.sequence_length
        recipes[size] = recipe_of(matrices, [*study.horizons, *own], length, study.batch_tokens)
    some = next(iter(configs.values()))
    return evaluated_alike(recipes, some.evaluate.batches * some.train.global_batch_size)


def size_problems(study: StudyConfig, recipes: Mapping[str, Recipe]) -> Iterator[Problem]:
    """Sizes out of order, and horizons that no steps can tell apart."""
    names = list(recipes)
    for smaller, larger in pairwise(names):
        if recipes[larger].parameters <= recipes[smaller].parameters:
            why = f"it has {recipes[larger].parameters:,} parameters, and {smaller} before it {recipes[smaller].parameters:,}"
            yield Problem("sizes", larger, why, "name the smallest first")
    size, recipe = next(iter(recipes.items()))  # a larger one has no fewer steps
    shortest, *_ = horizons = sorted(study.horizons)
    if recipe.steps(shortest) < _LEAST_STEPS:
        why = f"at {size} it is {recipe.steps(shortest)} steps of {recipe.batch_tokens:,} tokens"
        yield Problem("horizons", f"{shortest:g}", why, "give longer ones, a larger size, or less batch_tokens")
    own = study.tuning.horizon if study.tuning else None
    if own is not None and (tuned := recipes[tuned_size(study)]).steps(own) < _LEAST_STEPS:
        why = f"at {tuned_size(study)} it is {tuned.steps(own)} steps of {tuned.batch_tokens:,} tokens"
        yield Problem("tuning.horizon", f"{own:g}", why, "give a longer one, a larger size, or less batch_tokens")
    for short, long in pairwise(horizons):
        if recipe.decay_begins(short) >= recipe.decay_begins(long):
            why = f"at {size} its decay begins at the step at which that of {long:g} does"
            yield Problem("horizons", f"{short:g}", why, "give horizons that are further apart")
