"""YAML 1.2's core schema, safely: what config files and recipes are read by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml


class _Int(int):
    """A number that knows how it was typed, for a field that wants text: run.dir=007."""

    text: str


class _Float(float):
    """As :class:`_Int`."""

    text: str


def _integer(text: str) -> _Int:
    if len(text) > 24 or abs(number := _Int(text, 8 if "o" in text else 16 if "x" in text else 10)) >= 2**63:
        raise ValueError("a number does not fit into 64 bits")
    number.text = text
    return number


def _real(text: str) -> _Float:
    number = _Float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    number.text = text
    return number


_TAG = "tag:yaml.org,2002:"

#: What a plain scalar may be other than text, in YAML 1.2's core schema: how it looks, in the order of trying, and its value.
_SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _integer),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        _real,
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader for YAML 1.2's core schema and 1.1's merge key ``<<``; keys are names, so text, and none stands twice.

    PyYAML reads 1.1, where ``off`` is false, 3e-4 is text, 010 is eight, 1:30 is ninety and 2026-01-31 is no text.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (_TAG + "str", _TAG + "seq", _TAG + "map", None)
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        _size(node, {})
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names, pairs = set(), []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key is not a name", key.start_mark)
            if key.value in names:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            names.add(key.value)
            tag = key.tag if key.tag == _TAG + "merge" else _TAG + "str"
            pairs.append((yaml.ScalarNode(tag, key.value, key.start_mark, key.end_mark), value))
        node.value = pairs
        return node

    def construct_plain(self, node: yaml.Node) -> Any:
        """The value of a scalar that is not text."""
        kind, text = node.tag.removeprefix(_TAG), self.construct_scalar(node)
        pattern, read = _SCALARS[kind]
        try:
            if not re.fullmatch(pattern, text):  # a tag that the file gives itself: !!int abc
                raise ValueError(f"{text!r} is no {kind}")
            return read(text)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for with its aliases written out, which is what printing or copying it takes.

    Raises:
        yaml.composer.ComposerError: too many for any config, or one that holds itself.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _OPEN
        inner = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = size = 1 + sum(_size(each, known) for each in inner)
        if size > _MOST_VALUES:
            why = "it holds itself" if size >= _OPEN else f"its aliases stand for more than {_MOST_VALUES:,} values"
            raise yaml.composer.ComposerError(None, None, why, node.start_mark)
    return known[id(node)]


#: A config or recipe has some hundred values. Nine lines of aliases of aliases can stand for a billion.
_MOST_VALUES = 1_000_000
_OPEN = 1 << 80

for _kind, (_pattern, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), None)
    _Loader.add_constructor(_TAG + _kind, _Loader.construct_plain)
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"<<\Z"), None)


def parse_yaml(text: str) -> Any:
    """The value of a YAML 1.2 text.

    Raises:
        ValueError: it is none; the message says where, in one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", in line {mark.line + 1}" if mark and "\n" in text else ""
        raise ValueError(f"{error.problem or error.context}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
