"""Files of pictures: which kinds there are, and how one is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import Problem, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Kinds of picture, by the end of the file's name.
PICTURES = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a picture that cannot be written, before anything is read.

    Raises:
        UserError: its name has another end than :data:`PICTURES`, or is a folder's.
    """
    if path.suffix.lower() not in PICTURES:
        raise UserError(Problem("--picture", str(path), "its kind is not known", f"end its name in {', '.join(PICTURES)}"))
    if path.is_dir():
        raise UserError(Problem("--picture", str(path), "it is a folder", "give the name of a file"))


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure into a file that :func:`check_picture` has seen, in one step.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    except OSError as error:
        why = f"it cannot be written ({error.strerror})"
        raise UserError(Problem("--picture", str(path), why, "give another path")) from None
