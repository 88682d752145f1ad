"""Results that were logged elsewhere: a table of one line an end of training, as observations."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import Problem, UserError, nearest, raise_if_any
from .pairing import keys_of
from .results import Observation
from .statistics.surface import levels

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

#: Words for seconds that nobody measured.
_UNKNOWN = ("", "nan", "none", "null", "na", "n/a")

#: Parameters and tokens at least: a size of 1.3 was counted in billions, and rounds to something else.
LEAST = 100

#: Numbers beyond which some square is no number any more.
_SMALLEST, _LARGEST = 1e-60, 1e60

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
        """A cell's number, or 1 after taking down what is wrong with it; whole ones as they are."""
        text = self.cells[column]
        try:
            return parse(text)
        except ValueError:
            where = f"column {column} in line {self.number} of {self.path}"
            self.problems.append(Problem(where, repr(text), f"it is not {wanted}", "correct it, or take the line out"))
            return 1.0


def read_results(path: Path) -> list[Observation]:
    """Observations of a CSV file with the columns :data:`COLUMNS`.

    FLOPs are 6 N D where they are left out, and the seed the line where there is one arm only. Sizes without a name are named
    by their parameters; arms that count their norms' few parameters have sizes of one name. A loss that is empty, nan or a word
    such as ``diverged`` is a run without one.

    Raises:
        UserError: it cannot be read, columns are missing or there twice, cells are no such numbers, or two lines of an arm have
            the same size, tokens and seed. All of them at once.
    """
    head, lines = _read(path)
    columns = _columns(path, head)
    problems: list[Problem] = []
    found: list[Observation] = []
    at: list[int] = []
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
        if len(problems) == before:
            found.append(one)
            at.append(number)
    found = _named(found)
    problems += _twice(path, found, at)
    if not found and not problems:
        problems.append(
            Problem(str(path), "empty", "there is no line below the first", "write one line for each end of training")
        )
    raise_if_any(problems)
    return found


def _named(found: list[Observation]) -> list[Observation]:
    """With names for sizes that have none: one for all that are the same but for norms' few parameters."""
    of_size = levels(np.log([float(one.parameters) for one in found]))
    lowest: dict[int, int] = {}
    for number, one in zip(of_size.tolist(), found, strict=True):
        lowest[number] = min(lowest.get(number, one.parameters), one.parameters)
    names = {number: f"{parameters:.3g}".replace("e+0", "e").replace("e+", "e") for number, parameters in lowest.items()}
    return [one if one.size else replace(one, size=names[number]) for number, one in zip(of_size.tolist(), found, strict=True)]


def _twice(path: Path, found: list[Observation], at: list[int]) -> Iterator[Problem]:
    """Lines that stand at the same place."""
    seen: dict[tuple[object, ...], int] = {}
    for one, key, number in zip(found, keys_of(found), at, strict=True):
        first = seen.setdefault((one.arm, *key), number)
        if first != number:
            value = f"of arm {one.arm}, size {one.size}, {key[1]:g} tokens a parameter, seed {one.seed}"
            mend = "keep one of them, or give them different seeds"
            yield Problem(f"line {number} of {path}", value, f"so is line {first}", mend)


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
    size = line.read("size", _count, f"a number of parameters of {LEAST} or more, such as 125000000 or 125M")
    tokens = line.read("tokens", _count, f"a number of tokens of {LEAST} or more, such as 2500000000 or 2.5B")
    diverged = cells["loss"].lower() in _NO_LOSS
    loss = math.nan if diverged else line.read("loss", _plain, "a loss in nats above 0, such as 3.4127")
    seed = line.read("seed", _whole, "a whole number that is not negative") if "seed" in cells else line.number
    flops = line.read("flops", _large, "a number of FLOPs above 0") if cells.get("flops") else 6.0 * size * tokens
    seconds = math.nan
    if cells.get("seconds", "").lower() not in _UNKNOWN:
        seconds = line.read("seconds", _plain, "a number of seconds above 0, such as 3600.5")
    arm = cells.get("arm", ONLY)
    if not arm:
        where = f"column arm in line {line.number} of {line.path}"
        line.problems.append(Problem(where, "empty", "a run is of some arm", "write its name"))
    return Observation(
        arm=arm,
        size=cells.get("size_name", ""),
        seed=int(seed),
        parameters=round(size),
        tokens=round(tokens),
        flops=flops,
        loss=loss,
        seconds=seconds,
        run=f"{line.path.name}, line {line.number}",
        failure=(f"the table says {cells['loss']!r}" if cells["loss"] else "the table has none") if diverged else "",
    )


def _plain(text: str) -> float:
    """A positive number with a point, without separators or units: 3,512 may be 3.512 to who wrote it, and 5m five minutes."""
    if not re.fullmatch(r"[+]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, flags=re.IGNORECASE | re.ASCII):
        raise ValueError(text)
    return _bounded(float(text))


def _large(text: str) -> float:
    """A positive number that may have commas between thousands, and K, M, B, G or T behind it."""
    match = re.fullmatch(r"(.+?)\s*([kmbgt]?)", text, flags=re.IGNORECASE)
    if not match:
        raise ValueError(text)
    number = match[1].replace("_", "")
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d*)?", number):
        number = number.replace(",", "")
    return _bounded(_plain(number) * _UNITS[match[2].lower()])


def _count(text: str) -> float:
    """A number of parameters or tokens. 100.000 is a hundred thousand to some, and a hundred to others: it is neither."""
    value = _large(text)
    if value < LEAST or re.fullmatch(r"\d{1,3}(\.\d{3})+", text):
        raise ValueError(text)
    return value


def _bounded(value: float) -> float:
    if not _SMALLEST < value < _LARGEST:
        raise ValueError(value)
    return value


def _whole(text: str) -> int:
    """As it stands: a float would make one of two large seeds. 3.0 is what other programs make of 3."""
    match = re.fullmatch(r"(\d{1,30})(\.0*)?", text, flags=re.ASCII)
    if not match:
        raise ValueError(text)
    return int(match[1])
