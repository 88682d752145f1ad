"""Versions: what this program asks for, what its tests ran with, and what is installed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ..train.wandb_mode import has_key, wandb_host, wandb_mode
from .finding import Finding, ok, problem

AREA = "libraries"

_ROOT = Path(__file__).resolve().parent.parent.parent

#: Installed by many, and used by nothing here.
_UNUSED = ("transformer-engine", "apex")


def requirements() -> list[Requirement]:
    """What this program asks for, by the checkout that it runs from, or else as it was installed; extras by their markers."""
    project = _ROOT / "pyproject.toml"
    if project.is_file():
        values = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = values.get("optional-dependencies", {})
        lines = [*values["dependencies"], *(_marked(line, name) for name, group in extras.items() for line in group)]
    else:
        lines = metadata.requires("ibnorm-megatron") or []
    return [Requirement(line) for line in lines]


def _marked(line: str, extra: str) -> str:
    what, _, marker = line.partition(";")
    return f"{what}; {f'({marker}) and ' if marker else ''}extra == '{extra}'"


def tested() -> dict[str, str]:
    """The versions of launch/constraints.txt, by name; none where there is no checkout."""
    file = _ROOT / "launch" / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {line.partition("==")[0].lower(): line.partition("==")[2].strip() for line in lines if "==" in line}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    """Everything that is needed, and what of it is not as tested."""
    found: dict[str, str | None] = {}
    others = []
    pins = tested()
    for one in requirements():
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        version = found[one.name] = _installed(one.name)
        wanted = f"{one.name}{one.specifier}"
        if version is None:
            yield problem(AREA, one.name, "it is not installed", f"run: pip install '{wanted}'")
        elif not one.specifier.contains(version, prereleases=True):
            yield problem(AREA, one.name, f"{version}, where {one.specifier} is needed", f"run: pip install '{wanted}'")
        elif (pin := pins.get(one.name.lower())) and Version(version).public != pin:
            others.append(f"{one.name} {version} ({pin})")
    there = sum(version is not None for version in found.values())
    says = f"{there} of {len(found)} needed are installed"
    if others:
        says += f"; other than tested (tested versions in brackets): {', '.join(others)}"
    yield ok(AREA, "versions", says, versions=found)
    names = ("torch", "megatron-core", "deepspeed", "wandb")
    yield ok(AREA, "main ones", ", ".join(f"{name} {found.get(name)}" for name in names))


def optional() -> Iterator[Finding]:
    """What may be installed as well."""
    extras: dict[str, str | None] = {}
    for one in requirements():
        if one.marker is not None and any(one.marker.evaluate({"extra": name}) for name in ("gpu", "encoders")):
            extras[one.name] = _installed(one.name)
    says = ", ".join(f"{name} {version or 'missing'}" for name, version in extras.items())
    yield ok(AREA, "optional", says, versions=extras)
    if unused := [name for name in _UNUSED if _installed(name)]:
        yield ok(AREA, "unused", f"{', '.join(unused)}: installed, and nothing here uses it")


def records(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What ``log.wandb: auto`` comes to here."""
    from ..train.config import LogConfig

    mode, host = wandb_mode(LogConfig(wandb="auto"), environ), wandb_host(environ)
    why = f"there is {'a' if has_key(environ) else 'no'} key for {host}"
    if _installed("wandb") is None:
        why = "wandb is not installed"
    elif environ.get("WANDB_MODE"):
        why += f", and WANDB_MODE is {environ['WANDB_MODE']}"
    yield ok(AREA, "log.wandb: auto", f"{mode}: {why}", mode=mode)
