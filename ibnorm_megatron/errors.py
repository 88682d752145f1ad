"""What a user did that cannot work, said in one sentence each: the thing, its value, and the mend.

A :class:`UserError` ends a command with exit code 2 and no traceback, a :class:`RunFailure` with exit code 1: a run that
nobody's mistake ended. Everything else that escapes is our bug and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from .printing import printable
from .redaction import HIDDEN, hide_secrets, is_secret

EXIT_RUN_FAILURE = 1
EXIT_USER_ERROR = 2


@dataclass(frozen=True)
class Problem:
    """One thing that cannot work.

    Attributes:
        where: the config field, file or argument.
        value: what was found there, as text.
        why: what is wrong with it.
        mend: what to do, as an imperative without the full stop.
    """

    where: str
    value: str
    why: str
    mend: str

    def __str__(self) -> str:
        end = "" if self.mend.endswith("?") else "."
        value = HIDDEN if is_secret(self.where) else self.value
        # File names and fields come from outside, and may hold line ends and a terminal's commands.
        return printable(hide_secrets(f"{self.where} is {value}: {self.why}; {self.mend}{end}"))


class UserError(Exception):
    """One or more problems that the user can mend; all of them are reported at once."""

    def __init__(self, *problems: Problem) -> None:
        assert problems, "a UserError names at least one problem"
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class RunFailure(Exception):
    """What ended a run although its user asked for nothing wrong: a rank that died, a loss that stays infinite, a full disk.

    The same command may work again.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raise one UserError for all the problems, if there are any."""
    found = tuple(dict.fromkeys(problems))
    if found:
        raise UserError(*found)


def nearest(name: str, known: Iterable[str]) -> str:
    """A mend for an unknown name: the nearest known one, or all of them."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"


def run_command(command: Callable[[], int | None], *, quiet: bool = False, speaker: str = "") -> int:
    """Run a command and return its exit code: a UserError becomes sentences on stderr and exit code 2, a RunFailure 1.

    Args:
        command: returns an exit code, or None for 0.
        quiet: say nothing; for the ranks of a launch other than the first, which would all say the same.
        speaker: who says it, in front of every sentence.
    """
    try:
        return command() or 0
    except UserError as error:
        if not quiet:
            for problem in error.problems:
                print(f"{speaker}error: {problem}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunFailure as error:
        print(f"{speaker}error: {error}", file=sys.stderr)
        return EXIT_RUN_FAILURE
