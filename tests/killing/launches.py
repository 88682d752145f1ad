"""What goes between the harness and the process that forks ranks. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Kill:
    """When a rank dies.

    Attributes:
        rank: who; None: all ranks at once, which only times and names can say.
        how: ``time``: so many seconds after the start. ``seen``: soon after a new name that fits the pattern is in the run's
            folder. ``call``: before its n-th call to the file system below the run's folder, of those that fit the pattern.
            ``size``: in the middle of a write, when a file grows to so many bytes, of those after the n-th call.
        seconds: for ``time``.
        pattern: a path for ``seen``; the call and a path for ``call``, such as ``os.rename checkpoints/*``; "" fits all.
        call: n, for ``call`` and ``size``, from 1.
        size: in bytes.
    """

    rank: int | None
    how: Literal["time", "seen", "call", "size"]
    seconds: float = 0.0
    pattern: str = ""
    call: int = 0
    size: int = 0

    def __str__(self) -> str:
        what = {
            "time": f"after {self.seconds:.3f} s",
            "seen": f"when {self.pattern} is there",
            "call": f"before call {self.call} {self.pattern}".rstrip(),
            "size": f"at {self.size} bytes of a file after call {self.call}",
        }
        return f"{'all ranks' if self.rank is None else f'rank {self.rank}'} {what[self.how]}"


@dataclass(frozen=True)
class Launch:
    """One start of a run.

    Attributes:
        arguments: of the launch target.
        size: number of ranks.
        port: where they meet.
        run: the run's folder.
        logs: the file for what rank N prints is ``logs/rank-N.log``.
        kill: None lets it come to its end.
        mourning: seconds that the other ranks live on after one was killed, as under a launcher that has yet to notice.
        limit: seconds after which the start counts as hanging.
    """

    arguments: tuple[str, ...]
    size: int
    port: int
    run: Path
    logs: Path
    kill: Kill | None = None
    mourning: float = 0.1
    limit: float = 120.0


@dataclass(frozen=True)
class Ended:
    """How a start ended.

    Attributes:
        codes: exit codes of the ranks; negative is the signal that ended one.
        killed: whether the planned kill struck.
        hung: whether it had to be ended at its limit.
        seconds: that it took.
        calls: how many calls to the file system each rank made below the run's folder.
        last: the last of them, of the rank that was killed, or else of the first.
    """

    codes: tuple[int, ...]
    killed: bool
    hung: bool
    seconds: float
    calls: tuple[int, ...]
    last: str
