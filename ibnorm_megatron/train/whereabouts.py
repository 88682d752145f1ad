"""Where the main thread of a rank is: told by the loop, read by the thread that watches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Whereabouts:
    """Step and phase of a run on this rank.

    Attributes:
        step: the optimizer step that is being taken, from 1; 0 before the first.
        phase: a word or two: starting, data, step, evaluating, saving.
        moves: how often either was told, or progress within a phase.
    """

    def __init__(self) -> None:
        self.step, self.phase, self.moves = 0, "starting", 0

    def enter(self, phase: str, step: int | None = None) -> None:
        """Begin a phase, and perhaps a step."""
        self.step, self.phase = self.step if step is None else step, phase
        self.moved()

    def moved(self) -> None:
        """Something was done within a long phase: it is no stall."""
        self.moves += 1

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase within another. After an error it stays, for whoever asks where that happened."""
        before = self.phase
        self.enter(phase)
        yield
        self.enter(before)
