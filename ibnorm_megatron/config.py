"""The root config: it composes the rooms' configs, reads YAML and dotted overrides, and reports every problem at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .data.config import DataConfig
from .errors import Problem, nearest, raise_if_any
from .model.config import ModelConfig
from .parallel.config import Layout
from .train.config import CheckpointConfig, EvaluateConfig, LogConfig, RunConfig, TrainConfig


class Config(BaseModel):
    """Everything that defines a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig
    parallel: Layout = Layout()
    data: DataConfig = DataConfig()
    train: TrainConfig
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

    The config is None only where a problem left a room without a value to stand on.
    """
    values, problems = _read(Path(path))
    problems += _apply(overrides, values)
    rooms: dict[str, Any] = {}
    for unknown in values.keys() - Config.model_fields.keys():
        problems.append(
            Problem(unknown, repr(values[unknown]), "there is no such part of a config", nearest(unknown, Config.model_fields))
        )
    for name, field in Config.model_fields.items():
        rooms[name], found = _room(field.annotation, values.get(name, {}), name)
        problems += found
    problems += _cross_checks(rooms["model"], rooms["parallel"], rooms["train"], world_size)
    config = None if any(room is None for room in rooms.values()) else Config(**rooms)
    return config, problems


def _cross_checks(
    model: ModelConfig | None, layout: Layout | None, train: TrainConfig | None, world_size: int | None
) -> Iterator[Problem]:
    """Problems that lie between rooms."""
    if layout and train:
        yield from layout.problems(train.precision, world_size)
        world = layout.model_parallel if world_size is None else world_size
        if world % layout.model_parallel == 0:
            yield from train.problems(layout.data(world))
        if layout.sequence_parallel and train.sequence_length % layout.tensor:
            why = f"sequence parallelism shards it over parallel.tensor {layout.tensor}"
            yield Problem("train.sequence_length", str(train.sequence_length), why, f"use a multiple of {layout.tensor}")
    if layout and model:
        for field in ("num_attention_heads", "num_key_value_heads", "ffn_hidden_size"):
            if getattr(model, field) % layout.tensor:
                why = f"it is not divisible by parallel.tensor {layout.tensor}"
                yield Problem(f"model.{field}", str(getattr(model, field)), why, "set parallel.tensor to a divisor of it")
    if model and train and train.sequence_length > model.max_sequence_length:
        why = f"the model takes at most model.max_sequence_length {model.max_sequence_length}"
        yield Problem("train.sequence_length", str(train.sequence_length), why, "shorten it or raise the model's")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 3e-4 as a number, as YAML 1.2 does, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return {}, [
            Problem(
                "the config file",
                str(path),
                f"it cannot be read ({why})",
                "give the path of a YAML file, such as configs/quickstart.yaml",
            )
        ]
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        return {}, [
            Problem("the config file", str(path), "it is not valid YAML: " + " ".join(str(error).split()), "mend it there")
        ]
    if not isinstance(values, dict):
        return {}, [Problem("the config file", str(path), "it does not hold a mapping", "start from one of configs/")]
    return values, []


def _apply(overrides: Sequence[str], values: dict[str, Any]) -> list[Problem]:
    """Set every ``a.b.c=value`` in the nested mapping ``values``."""
    problems = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().removeprefix("--").split(".")
        if not equals or len(keys) < 2 or not all(keys):
            problems.append(
                Problem(
                    "the override", repr(override), "it is not of the form room.field=value", "write it like train.steps=100"
                )
            )
            continue
        try:
            value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError:
            problems.append(Problem(dotted, repr(text), "it is not a YAML value", "quote it"))
            continue
        at = values
        for key in keys[:-1]:
            inner = at.get(key)
            if isinstance(inner, str):  # a name stands for a mapping with that kind: model.norm=rmsnorm model.norm.eps=1e-6
                inner = {"kind": inner}
            at[key] = inner if isinstance(inner, dict) else {}
            at = at[key]
        at[keys[-1]] = value
    return problems


Room = TypeVar("Room", bound=BaseModel)


def _room(room: type[Room], values: Any, name: str) -> tuple[Room | None, list[Problem]]:
    """Validate one room. A field that is wrong is reported and left at its default, so that the rest is checked too."""
    if not isinstance(values, dict):
        return None, [Problem(name, repr(values), "this part of a config is a mapping of fields", "write its fields below it")]
    values, given = dict(values), set(values)
    problems: list[Problem] = []
    while True:
        try:
            return room.model_validate(values), problems
        except ValidationError as error:
            found = error.errors(include_url=False)
        dropped = False
        for detail in found:
            field = detail["loc"][0] if detail["loc"] else None
            if detail["type"] == "missing" and field in given:
                continue  # it was there, and wrong, and is reported
            problems.append(_problem(room, name, detail))
            if field in values:
                del values[field]
                dropped = True
        if not dropped:
            return None, list(dict.fromkeys(problems))


def _problem(room: type[BaseModel], name: str, detail: Any) -> Problem:
    """One pydantic error as one of our sentences."""
    where = ".".join([name, *map(str, detail["loc"])])
    if detail["type"] == "missing":
        return Problem(where, "missing", "it has no default", f"add it to the config file or pass {where}=VALUE")
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        return Problem(where, repr(detail["input"]), "there is no such field here", nearest(key, room.model_fields))
    if detail["type"] == "value_error":
        why, _, mend = str(detail["ctx"]["error"]).partition(": ")
        value = detail["input"] if not isinstance(detail["input"], dict) else "set"
        return Problem(where, repr(value) if value != "set" else "set so", why, mend or "change one of them")
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return Problem(where, repr(detail["input"]), message, "give it such a value")
