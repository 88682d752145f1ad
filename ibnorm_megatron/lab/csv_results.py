"""Results that were logged elsewhere: a table of one line an end of training, as observations."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import Problem, UserError, nearest, raise_if_any
from .pairing import key_of
from .results import Observation

#: Column -> further names it may have. Case, spaces, dots, hyphens and slashes do not matter.
COLUMNS: dict[str, tuple[str, ...]] = {
    "size": ("parameters", "params", "n", "n_params", "num_params", "model_size", "n_parameters"),
    "tokens": ("d", "n_tokens", "num_tokens", "training_tokens", "train_tokens", "data"),
    "loss": ("val_loss", "validation_loss", "eval_loss", "final_loss", "test_loss", "final_val_loss"),
    "arm": ("norm", "method", "variant", "name", "run_type", "model"),
    "seed": ("random_seed", "rng_seed", "init_seed"),
    "flops": ("c", "compute", "training_flop", "training_flops", "train_flops"),
    "seconds": ("s", "time", "wall_clock", "wall_time", "walltime", "wall_seconds", "duration", "train_seconds", "runtime"),
    "size_name": ("size_label", "model_name", "scale"),
}

#: Without these nothing can be fit, and without the next no arms be compared.
NEEDED, OF_ARMS = ("size", "tokens", "loss"), ("arm", "seed")

#: The only arm's name where the table has no such column.
ONLY = "all"

#: Words for a loss that is none: the run diverged, or was lost.
_NO_LOSS = ("", "nan", "inf", "+inf", "-inf", "infinity", "none", "null", "na", "n/a", "diverged", "failed")

#: Multipliers that people write.
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class _Line:
    """One line, with its sentences' place."""

    path: Path
    number: int
    cells: dict[str, str]
    problems: list[Problem]

    def read(self, column: str, parse: Callable[[str], float], wanted: str) -> float:
        """A cell's number, or 1 after taking down what is wrong with it."""
        text = self.cells[column]
        try:
            return parse(text)
        except ValueError:
            where = f"column {column} in line {self.number} of {self.path}"
            self.problems.append(Problem(where, repr(text), f"it is not {wanted}", "correct it, or take the line out"))
            return 1.0


def read_results(path: Path) -> list[Observation]:
    """Observations of a CSV file with the columns :data:`COLUMNS`.

    FLOPs are 6 N D where they are left out, the size's name its parameters, and the seed the line where there is one arm only.
    A loss that is empty, nan or a word such as ``diverged`` is a run without one.

    Raises:
        UserError: it cannot be read, columns are missing or there twice, cells are no such numbers, or two lines of an arm have
            the same size, tokens and seed. All of them at once.
    """
    head, lines = _read(path)
    columns = _columns(path, head)
    problems: list[Problem] = []
    found: list[Observation] = []
    seen: dict[tuple[object, ...], int] = {}
    for number, cells in lines:
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != len(head):
            where, value = f"line {number} of {path}", f"{len(cells)} cells long"
            problems.append(Problem(where, value, f"the first line names {len(head)} columns", "give each its cell"))
            continue
        line = _Line(path, number, {name: cells[place].strip() for name, place in columns.items()}, problems)
        before = len(problems)
        one = _observation(line)
        if len(problems) > before:
            continue
        key = (one.arm, *key_of(one))
        if key in seen:
            value, why = f"of arm {one.arm}, size {one.size}, {one.tokens} tokens, seed {one.seed}", f"so is line {seen[key]}"
            problems.append(Problem(f"line {number} of {path}", value, why, "keep one of them, or give them different seeds"))
        seen.setdefault(key, number)
        found.append(one)
    if not found and not problems:
        problems.append(
            Problem(str(path), "empty", "there is no line below the first", "write one line for each end of training")
        )
    raise_if_any(problems)
    return found


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except OSError as error:
        raise UserError(Problem("the table", str(path), f"it cannot be read ({error.strerror})", "give a CSV file")) from None
    except UnicodeDecodeError:
        raise UserError(Problem("the table", str(path), "it is not UTF-8 text", "save it as CSV in UTF-8")) from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        why = f"line {reader.line_num} cannot be split into cells ({error})"
        raise UserError(Problem("the table", str(path), why, "save it as CSV again")) from None
    if not rows:
        raise UserError(Problem("the table", str(path), "it is empty", f"begin it with a line of columns: {','.join(COLUMNS)}"))
    return rows[0][1], rows[1:]


def _columns(path: Path, head: list[str]) -> dict[str, int]:
    """Where each column stands; columns of other names are of no interest."""
    names = [re.sub(r"[\s./-]+", "_", name.strip().lower()) for name in head]
    found: dict[str, int] = {}
    problems = []
    for column, others in COLUMNS.items():
        places = [place for place, name in enumerate(names) if name == column]
        # A further name counts only where the column's own is not there: ``model`` beside ``arm`` is something else.
        places = places or [place for place, name in enumerate(names) if name in others]
        if len(places) > 1:
            value = " and ".join(repr(head[place]) for place in places)
            problems.append(Problem(f"the column {column} of {path}", value, "it is there twice", "take one of them out"))
        if places:
            found[column] = places[0]
    needed = NEEDED + (OF_ARMS if "arm" in found else ())
    for column in needed:
        if column not in found:
            near = nearest(column, head)
            mend = f"name one of its columns {column}, or {' or '.join(COLUMNS[column][:3])}"
            why = f"without it nothing can be fit{f' ({near})' if near.startswith('did') else ''}"
            if column == "seed":
                why = "without it nobody knows which runs of two arms to pair"
            problems.append(Problem(f"the column {column} of {path}", "missing", why, mend))
    raise_if_any(problems)
    return found


def _observation(line: _Line) -> Observation:
    cells = line.cells
    size = line.read("size", _positive, "a number of parameters above 0")
    tokens = line.read("tokens", _positive, "a number of tokens above 0")
    diverged = cells["loss"].lower() in _NO_LOSS
    loss = math.nan if diverged else line.read("loss", _positive, "a loss in nats above 0")
    seed = line.read("seed", _whole, "a whole number") if "seed" in cells else line.number
    flops = line.read("flops", _positive, "a number of FLOPs above 0") if cells.get("flops") else 6.0 * size * tokens
    seconds = line.read("seconds", _positive, "a number of seconds above 0") if cells.get("seconds") else math.nan
    arm = cells.get("arm", ONLY)
    if not arm:
        where = f"column arm in line {line.number} of {line.path}"
        line.problems.append(Problem(where, "empty", "a run is of some arm", "write its name"))
    return Observation(
        arm=arm,
        size=cells.get("size_name") or f"{size:.3g}".replace("e+0", "e").replace("e+", "e"),
        seed=int(seed),
        parameters=max(1, round(size)),
        tokens=max(1, round(tokens)),
        flops=flops,
        loss=loss,
        seconds=seconds,
        run=f"{line.path.name}, line {line.number}",
        failure=(f"the table says {cells['loss']!r}" if cells["loss"] else "the table has none") if diverged else "",
    )


def _positive(text: str) -> float:
    match = re.fullmatch(r"([+\d.,_eE-]+?)\s*([kmbgt]?)", text.strip(), flags=re.IGNORECASE)
    if not match:
        raise ValueError(text)
    number = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", match[1])
    value = float(number) * _UNITS[match[2].lower()]
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def _whole(text: str) -> float:
    value = float(text)
    if value != int(value) or value < 0:
        raise ValueError(text)
    return value
