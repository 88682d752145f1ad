"""The numbers of a report for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ...files import write_text
from ..results import Observation

#: Columns of observations.csv, which ``ibnorm lab fit`` reads: size counts parameters.
COLUMNS = ("arm", "size_name", "size", "seed", "tokens", "flops", "loss", "seconds", "cluster", "run", "failure")


def write_observations(path: Path, observations: Sequence[Observation]) -> None:
    """A line an end of training; an empty field for what is not known."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for each in observations:
        values = (each.arm, each.size, each.parameters, each.seed, each.tokens, each.flops, each.loss, each.seconds)
        lines.writerow([*("" if value != value else value for value in values), each.cluster, each.run, each.failure])
    write_text(path, text.getvalue())
