"""The outcome of one check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check and what came of it.

    Attributes:
        what: the promise.
        kept: whether it is kept; None for an observation that is neither good nor bad.
        figure: what was measured.
    """

    what: str
    kept: bool | None
    figure: str
