"""What goes between the process that verifies and the ranks that it asks. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from .layouts import Case


@dataclass(frozen=True)
class Job:
    """What all ranks of a world are asked to do.

    Attributes:
        base: the config's file.
        overrides: laid over it.
        reference: the file that holds what the reference gave, or that this one is to write.
        case: the layout to compare with it; None makes this the reference.
        documents: whether sequences hold several documents, which attention keeps to.
    """

    base: Path
    overrides: tuple[str, ...]
    reference: Path
    case: Case | None
    documents: bool = False


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        what: is compared, such as ``gradient of step 1``.
        parameter: its name in the whole model, or "" for a number of the whole model.
        site: where that is.
        difference: relative; infinite where there is nothing to compare with, or it is not a number.
        bound: the largest that rounding explains.
    """

    what: str
    parameter: str
    site: str
    difference: float
    bound: float

    @property
    def kept(self) -> bool:
        """Whether rounding explains the difference."""
        return self.difference <= self.bound

    @property
    def excess(self) -> float:
        """The difference in units of its bound; where the bound is nothing, any difference is infinitely many."""
        if self.bound > 0:
            return self.difference / self.bound
        return math.inf if self.difference > 0 else 0.0


@dataclass(frozen=True)
class Served:
    """What came of a job.

    Attributes:
        seconds: that it took.
        losses: mean loss of every step.
        grad_norms: norm of every step's gradient.
        findings: the comparisons; none for a reference.
        adam_eps: that the optimizer had.
        device: that the ranks ran on.
    """

    seconds: float
    losses: list[float]
    grad_norms: list[float]
    findings: list[Finding]
    adam_eps: float
    device: str
