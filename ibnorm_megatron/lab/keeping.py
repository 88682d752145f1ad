"""Which checkpoints of ended runs stay, so that a study of hundreds of runs does not fill the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..train.run_folder import RunFolder
from .launching import is_busy, run_folder
from .ledger import latest
from .trials import Entry

if TYPE_CHECKING:
    from .study import Study

_DONE = ("complete", "diverged")


class Keeper:
    """Removes what ``launcher.keep`` does not ask for, once nothing goes on from it.

    ``last`` leaves every main run its last state, and none to others, whose loss is all that is asked of them; ``none`` leaves
    nothing, ``all`` everything. A trunk's states stay until each of its branches has ended. Failed runs lose nothing.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._tidy: set[str] = set()

    def sweep(self, entries: Sequence[Entry]) -> None:
        """Look at all runs that were not tidy the last time. What cannot be removed stays, and is tried again."""
        keep = self._study.config.launcher.keep
        if keep == "all":
            return
        known = latest(entries)
        for key, entry in known.items():
            waiting = key in self._tidy or entry.status not in _DONE or _is_gone_on_from(entry, known.values())
            if waiting or is_busy(self._study, entry.trial):
                continue
            with suppress(OSError):
                folder = run_folder(self._study, entry.trial)
                if keep == "last" and entry.trial.stage == "main":
                    folder.prune(1, 0)
                else:
                    _drop(folder)
                self._tidy.add(key)


def _is_gone_on_from(trunk: Entry, entries: Iterable[Entry]) -> bool:
    """Whether some branch of a trunk has not ended well; one that failed may yet be tried again."""
    ended = {entry.trial.horizon for entry in entries if entry.status in _DONE and _is_branch(entry, trunk)}
    return not ended.issuperset(trunk.trial.branches)


def _is_branch(entry: Entry, trunk: Entry) -> bool:
    a, b = entry.trial, trunk.trial
    same = (a.arm, a.size, a.seed, a.learning_rate, a.strength) == (b.arm, b.size, b.seed, b.learning_rate, b.strength)
    return same and a.trunk == b.horizon


def _drop(folder: RunFolder) -> None:
    """Remove all checkpoints. The folder has another name meanwhile, so that nobody goes on from a part of one."""
    going = folder.path / ".checkpoints.removed"
    shutil.rmtree(going, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.checkpoints.rename(going)
        if going.is_symlink():  # somebody has them on another disk, where they are theirs to remove
            going.unlink()
        else:
            shutil.rmtree(going)
