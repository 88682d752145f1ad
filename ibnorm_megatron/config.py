"""The root config: it composes the rooms' configs, reads YAML and dotted overrides, and reports every problem at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .data.config import DataConfig
from .errors import Problem, UserError, nearest, raise_if_any
from .model.config import ModelConfig
from .parallel.config import Layout
from .plugins import load_plugins
from .redaction import HIDDEN, secrets_in
from .train.config import CheckpointConfig, EvaluateConfig, GuardConfig, LogConfig, RunConfig, TrainConfig
from .validation import problem_of
from .yaml12 import parse_yaml


class Config(BaseModel):
    """Everything that defines a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugins: tuple[str, ...] = Field((), description="Python files that register norms of your own, read before all else")
    model: ModelConfig
    parallel: Layout = Layout()
    data: DataConfig = DataConfig()
    train: TrainConfig
    guard: GuardConfig = GuardConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    run: RunConfig = RunConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a config file would hold them."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """The resolved config as YAML; reading it gives this config again."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load_config(path: str | Path, overrides: Sequence[str] = (), *, world_size: int | None = None) -> Config:
    """Read a config file, apply overrides, and check everything that can be checked without data or processes.

    Args:
        path: a YAML file.
        overrides: ``room.field=value`` each, the value in YAML.
        world_size: number of processes, where it is known; None checks for the smallest that fits the layout.

    Raises:
        UserError: one problem for everything that is wrong, all together.
    """
    config, problems = parse_config(path, overrides, world_size=world_size)
    raise_if_any(problems)
    assert config is not None
    return config


def parse_config(
    path: str | Path, overrides: Sequence[str] = (), *, world_size: int | None = None
) -> tuple[Config | None, list[Problem]]:
    """As :func:`load_config`, but hand the problems back, for a caller who has more to check and reports once.

    The config is None only where the file cannot be read. Otherwise a refused field is at its default; reading one that
    has none raises a UserError with what was refused, which ends the check that needs it and repeats nothing new.
    """
    values, problems = _read(Path(path))
    return (None, problems) if problems else parse_values(values, overrides, world_size=world_size)


def parse_values(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, world_size: int | None = None
) -> tuple[Config, list[Problem]]:
    """As :func:`parse_config`, from what a config file holds."""
    values = dict(values)
    problems = apply_overrides(overrides, values)
    plugins, found = _plugins(values.pop("plugins", []))
    problems += found
    rooms: dict[str, Any] = {"plugins": plugins}
    for key, value in values.items():
        if key not in Config.model_fields:
            mend = nearest(key, Config.model_fields)
            name = key if key.strip() else repr(key)
            problems.append(Problem(name, repr(value), "there is no such part of a config", mend))
    for name, field in Config.model_fields.items():
        if name == "plugins":
            continue
        rooms[name], found = _room(field.annotation, values.get(name, {}), name)
        problems += found
    config = Config.model_construct(**rooms)  # each is validated, or partial
    problems += _cross_checks(config, world_size)
    return config, problems


def _plugins(given: Any) -> tuple[tuple[str, ...], list[Problem]]:
    """Read the plugins, so that the norms they register can be named."""
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return (), [Problem("plugins", repr(given), "it is no list of Python files", "write plugins: [my_norms.py]")]
    return tuple(paths), list(load_plugins(paths))


def problems_between(config: Config, world_size: int | None) -> list[Problem]:
    """What lies between the fields of a config whose rooms are valid, as :func:`load_config` checks it."""
    return list(_cross_checks(config, world_size))


def _cross_checks(config: Config, world_size: int | None) -> Iterator[Problem]:
    """Problems that lie between fields. Each check stands alone, because one that reads a refused field ends there."""
    shared = ("num_attention_heads", "num_key_value_heads", "ffn_hidden_size")
    over_tensor_ranks = (partial(_over_tensor_ranks, field) for field in shared)
    between = (_sequence_shards, _stages, _heads_over_context_ranks, _sequence_length)
    for check in (_norms, _noise, _compiled, _layout, _batch, _saved_steps, _secrets, *between, *over_tensor_ranks):
        with suppress(UserError):  # what was refused is reported already
            yield from check(config, world_size)


def _norms(config: Config, _: int | None) -> Iterator[Problem]:
    yield from config.model.problems()
    if config.parallel.tensor > 1:
        for site, norm in config.model.norm_sites().items():
            if config.model.has_sharded_columns(site) and not norm.sharded_columns:
                why = f"{site}, whose columns parallel.tensor {config.parallel.tensor} spreads over ranks, is no place for it"
                yield Problem("model.norm", norm.label(), why, "set parallel.tensor=1 or put another norm there")


def _noise(config: Config, _: int | None) -> Iterator[Problem]:
    drawing = {norm.label(): None for norm in config.model.norm_sites().values() if norm.draws}
    if drawing and config.parallel.pipeline > 1 and config.parallel.recompute == "full":
        why = f"a stage of parallel.pipeline {config.parallel.pipeline} computes a layer again after it drew for other tokens"
        mend = "set parallel.recompute to none or selective, or its noise to 0"
        yield Problem("model.norm", ", ".join(drawing), f"it draws noise, and {why}", mend)


def _compiled(config: Config, _: int | None) -> Iterator[Problem]:
    if config.model.compile != "none" and config.parallel.zero_stage == 3:
        why = "ZeRO stage 3 takes weights away between forward and backward, under the compiled code"
        mend = "set model.compile=none, or parallel.zero_stage to 2 or less"
        yield Problem("model.compile", config.model.compile, why, mend)


def _layout(config: Config, world_size: int | None) -> Iterator[Problem]:
    yield from config.parallel.problems(config.train.precision, world_size)


def _batch(config: Config, world_size: int | None) -> Iterator[Problem]:
    layout = config.parallel
    world = layout.model_parallel if world_size is None else world_size
    if world > 0 and world % layout.model_parallel == 0:
        yield from config.train.problems(layout.data(world))


def _saved_steps(config: Config, _: int | None) -> Iterator[Problem]:
    if past := [step for step in config.checkpoint.at if step > config.train.steps]:
        why = f"the run ends after train.steps {config.train.steps}"
        yield Problem("checkpoint.at", str(past[0]), why, "take that step out or set more train.steps")


def _secrets(config: Config, _: int | None) -> Iterator[Problem]:
    for room in Config.model_fields:
        values = getattr(config, room)
        given = values if isinstance(values, tuple) else {key: value for key, value in values if key in values.model_fields_set}
        for where in secrets_in(given, where=room):
            why = "a config is written into run folders and reports, and that looks like a secret"
            yield Problem(where, HIDDEN, why, "take it out, and leave it to the environment")


def _sequence_shards(config: Config, _: int | None) -> Iterator[Problem]:
    layout, length = config.parallel, config.train.sequence_length
    shards = layout.tensor if layout.sequence_parallel else 1
    who = [f"sequence parallelism over parallel.tensor {shards}"] if shards > 1 else []
    if layout.context > 1:
        shards *= 2 * layout.context  # a rank has two runs of tokens, an early and a late one: causal attention is then even
        who.append(f"parallel.context {layout.context}, two runs of tokens each,")
    if length % shards:
        verb = "shards" if len(who) == 1 else "shard"
        yield Problem("train.sequence_length", str(length), f"{' and '.join(who)} {verb} it", f"use a multiple of {shards}")


def _stages(config: Config, _: int | None) -> Iterator[Problem]:
    layers, stages = config.model.num_layers, config.parallel.pipeline
    if layers % stages:
        why = f"it is not divisible by parallel.pipeline {stages}"
        yield Problem("model.num_layers", str(layers), why, "set parallel.pipeline to a divisor of it")


def _heads_over_context_ranks(config: Config, _: int | None) -> Iterator[Problem]:
    layout, heads = config.parallel, config.model.num_key_value_heads
    ranks = layout.tensor * layout.context
    if layout.context_method == "all_to_all" and layout.context > 1 and heads % ranks:
        why = f"parallel.context_method all_to_all shares them among tensor x context = {ranks} ranks"
        mend = f"use a multiple of {ranks}, or set parallel.context_method=all_gather"
        yield Problem("model.num_key_value_heads", str(heads), why, mend)


def _sequence_length(config: Config, _: int | None) -> Iterator[Problem]:
    length, most = config.train.sequence_length, config.model.max_sequence_length
    if length > most:
        why = f"the model takes at most model.max_sequence_length {most}"
        yield Problem("train.sequence_length", str(length), why, "shorten it or raise the model's")


def _over_tensor_ranks(field: str, config: Config, _: int | None) -> Iterator[Problem]:
    size, tensor = getattr(config.model, field), config.parallel.tensor
    if size % tensor:
        why = f"it is not divisible by parallel.tensor {tensor}"
        yield Problem(f"model.{field}", str(size), why, "set parallel.tensor to a divisor of it")


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    where = "the config file"
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        mend = "give the path of a YAML file, such as configs/quickstart.yaml"
        return {}, [Problem(where, str(path), f"it cannot be read ({why})", mend)]
    except ValueError as error:
        return {}, [Problem(where, str(path), f"it is not valid YAML: {error}", "mend it there")]
    if not isinstance(values, dict):
        return {}, [Problem(where, str(path), "it does not hold a mapping", "start from one of configs/")]
    return values, []


def apply_overrides(overrides: Sequence[str], values: dict[str, Any], *, rooms: bool = True) -> list[Problem]:
    """Set every ``a.b.c=value`` in the nested mapping ``values``; without ``rooms``, ``a=value`` as well."""
    problems = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().removeprefix("--").split(".")
        if not equals or (rooms and len(keys) < 2 and keys != ["plugins"]) or not all(keys):
            form, example = ("room.field=value", "train.steps=100") if rooms else ("field=value", "seeds=[1, 2, 3]")
            why = f"it is not of the form {form}"
            problems.append(Problem("the override", repr(override), why, f"write it like {example}"))
            continue
        try:
            problems += _set(values, keys, parse_yaml(text))
        except ValueError as error:
            problems.append(Problem(".".join(keys), repr(text), f"it is not a YAML value: {error}", "mend or quote it"))
    return problems


def _set(values: dict[str, Any], keys: list[str], value: Any) -> Iterator[Problem]:
    """Set one nested key, in copies: in YAML two rooms may share a mapping by an alias."""
    at = values
    for depth, key in enumerate(keys[:-1], start=1):
        inner = {} if at.get(key) is None else at[key]
        if isinstance(inner, str) and depth > 1:  # a name stands for a mapping with that kind: model.norm=rmsnorm
            inner = {"kind": inner}
        if not isinstance(inner, dict):
            where, below = ".".join(keys[:depth]), ".".join(keys[depth:])
            yield Problem(where, repr(inner), f"it is no mapping, so there is no {below} in it", "mend one of the two")
            return
        at[key] = dict(inner)
        at = at[key]
    at[keys[-1]] = value


Room = TypeVar("Room", bound=BaseModel)


def _room(room: type[Room], values: Any, name: str) -> tuple[Room, list[Problem]]:
    """Validate one room. A field that is wrong is reported and taken out, so that the rest is checked too."""
    if not isinstance(values, dict):
        found = [Problem(name, repr(values), "this part of a config is a mapping of fields", "write its fields below it")]
        return _partial(room, {}, found), found
    texts = {key for key, field in room.model_fields.items() if field.annotation is str}
    values = {key: getattr(value, "text", value) if key in texts else value for key, value in values.items()}
    given = set(values)
    problems: list[Problem] = []
    while True:
        try:
            return room.model_validate(values), problems
        except ValidationError as error:
            found = error.errors(include_url=False)
        dropped = False
        for detail in found:
            field = detail["loc"][0] if detail["loc"] else None
            if detail["type"] == "missing" and detail["loc"] == (field,) and field in given:
                continue  # it was there, and wrong, and is reported
            problems.append(problem_of(room, name, detail))
            if field in values:
                del values[field]
                dropped = True
        if not dropped:
            problems = list(dict.fromkeys(problems))
            return _partial(room, values, problems), problems


def _partial(room: type[Room], values: dict[str, Any], refused: list[Problem]) -> Room:
    """A room without its refused fields that have no default. Reading one raises what was refused: no check guesses."""

    values = {
        name: TypeAdapter(Annotated[field.annotation, None, *field.metadata]).validate_python(values[name])
        for name, field in room.model_fields.items()
        if name in values
    }

    def __getattr__(self: Room, name: str) -> Any:
        raise UserError(*refused) if name in room.model_fields else AttributeError(name)

    return type(room.__name__, (room,), {"__doc__": room.__doc__, "__getattr__": __getattr__}).model_construct(**values)
