"""What one look at the machine found, and how a check that fails itself spoils no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        area: heading under which it stands.
        name: what was looked at.
        status: ``ok``; ``warning`` where some runs would be slow or refused; ``problem`` where every run would.
        says: what was found.
        mend: what to do, as an imperative without the full stop; empty where nothing has to be done.
        data: the same as plain values, for programs.
    """

    area: str
    name: str
    status: Status
    says: str
    mend: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def ok(area: str, name: str, says: str, /, **data: Any) -> Finding:
    """Nothing to do."""
    return Finding(area, name, "ok", says, data=data)


def warning(area: str, name: str, says: str, mend: str, /, **data: Any) -> Finding:
    """Something that some runs need, or that makes them slow."""
    return Finding(area, name, "warning", says, mend, data)


def problem(area: str, name: str, says: str, mend: str, /, **data: Any) -> Finding:
    """Something that stops every run."""
    return Finding(area, name, "problem", says, mend, data)


def guarded(area: str, name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; one that raises is a warning, with what it found before."""
    try:
        yield from check()
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        says = f"this check itself failed: {type(error).__name__}: {line}".rstrip(": ")
        yield warning(area, name, says, "send this report to the maintainers: it should have said more")


def gibibytes(size: float) -> str:
    """A size for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**29 else f"{size / 2**20:,.0f} MiB"
