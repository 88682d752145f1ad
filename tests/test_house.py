"""The shape of the house: who may import whom, and what every file keeps to."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .distributed import ROOT

#: Each room and the rooms below it that it may use. ``root`` holds errors, files, progress, quiet.
BELOW = {
    "norms": set(),
    "root": set(),
    "parallel": {"root"},
    "data": {"root"},
    "checkpoints": {"parallel", "root"},
    "model": {"norms", "parallel", "root"},
    "config": {"data", "model", "parallel", "train.config", "root"},
    "train": {"checkpoints", "config", "data", "model", "norms", "parallel", "root"},
    "verify": {"config", "data", "model", "norms", "parallel", "train", "train.config", "root"},
    "overhead": {"config", "data", "model", "norms", "parallel", "train", "train.config", "root"},
    "estimate": {"config", "model", "norms", "parallel", "train", "train.config", "root"},
    "lab": {"config", "data", "estimate", "model", "norms", "train", "train.config", "root"},
    "information": {"root"},
    "telemetry": {"train", "root"},
    "analysis": {
        *("checkpoints", "config", "data", "information", "lab"),
        *("model", "norms", "parallel", "train", "train.config", "root"),
    },
    "checks": {"norms", "root"},
    "cluster": {"config", "root"},
    "doctor": {"model", "norms", "train", "train.config", "root"},
    "cli": {
        *("analysis", "checkpoints", "checks", "cluster", "norms", "config", "data", "doctor", "estimate", "lab"),
        *("overhead", "telemetry", "train", "verify", "root"),
    },
    "data_prep": {"data", "root"},
}
SOURCES = sorted([*(ROOT / "ibnorm_megatron").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")])


def _room(dotted: str) -> str | None:
    """The room of a module, or None for a library's."""
    parts = dotted.split(".")
    if parts[0] == "data_prep":
        return "data_prep"
    if parts[0] != "ibnorm_megatron":
        return None
    if len(parts) == 1:
        return "root"
    if parts[1:3] == ["train", "config"]:
        return "train.config"
    return parts[1] if parts[1] in BELOW else "root"


def _module(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def _imports(path: Path) -> Iterator[str]:
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_no_room_imports_one_above_it(path: Path) -> None:
    own = _room(_module(path))
    assert own is not None
    allowed = BELOW["train" if own == "train.config" else own] | {own, "train.config" if own == "train" else own}
    if own == "cli":
        allowed |= {"data_prep"}  # the one command that prepares data
    for imported in _imports(path):
        room = _room(imported)
        assert room is None or room in allowed, f"{own} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_every_module_imports_by_itself(path: Path) -> None:
    if path.name != "__main__.py":
        importlib.import_module(_module(path))


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_files_are_short_and_documented(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert not text.strip() or ast.get_docstring(tree), "the file does not say what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_nothing_unsafe_is_called(path: Path) -> None:
    text = path.read_text()
    assert not re.search(
        r"pickle\.load|weights_only=False|trust_remote_code=True|shell=True|\beval\(|(?<!\.)\bexec\(",
        text.replace(".eval()", ""),
    )
    for call in re.findall(r"yaml\.load\([^)]*\)", text):
        assert "_Loader" in call, call


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(extra for kind in ("dev", "gpu") for extra in project["optional-dependencies"][kind])]
    names = {re.match(r"[\w-]+", requirement).group().lower() for requirement in wanted}  # type: ignore[union-attr]
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert names == pinned
