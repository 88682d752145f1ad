"""Reports that a command leaves as a JSON file: where one may be written."""

from __future__ import annotations

import json
from pathlib import Path

from .errors import Problem, UserError


def check_json_path(path: Path, command: str) -> None:
    """Refuse a path that cannot be written, or that holds something other than an earlier report of the command.

    A report is told by its ``format``, which is ``ibnorm`` and the command's name.

    Raises:
        UserError: one of these.
    """
    mend = "give another path"
    if not path.parent.is_dir():
        raise UserError(Problem("--json", repr(str(path)), "its folder does not exist", "make it, or give another path"))
    if path.is_dir():
        raise UserError(Problem("--json", repr(str(path)), "it is a folder", mend))
    if not path.exists():
        return
    try:
        ours = json.loads(path.read_text(encoding="utf-8")).get("format") == f"ibnorm {command}"
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(Problem("--json", repr(str(path)), f"it holds something other than a report of {command}", mend))
