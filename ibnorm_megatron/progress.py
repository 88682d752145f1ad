"""A live progress bar with rate and time left on a terminal, plain lines every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

_PLAIN_SECONDS = 5.0


class Progress:
    """Progress of one piece of work; use as a context manager.

    Args:
        title: what is being done.
        total: how many units there are.
        done: how many of them were done before.
        unit: what is counted, for the rate; ``"B"`` shows megabytes.
        visible: say nothing at all if false.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "", visible: bool = True) -> None:
        self._title, self._total, self._done, self._unit, self._visible = title, total, done, unit, visible
        self._note = ""
        console = Console(file=sys.stderr)
        self._live: RichProgress | None = None
        if visible and console.is_terminal:
            columns: list[str | ProgressColumn] = [
                TextColumn("{task.description}"),
                BarColumn(),
                _Rate(unit),
                TimeRemainingColumn(),
            ]
            self._live = RichProgress(*columns, TextColumn("{task.fields[note]}"), console=console)
        self._started = self._spoken = time.monotonic()
        self._begun_at = done

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Show the bar."""
        if self._live:
            self._live.start()
            self._task = self._live.add_task(self._title, total=self._total, completed=self._done, note="")

    def stop(self) -> None:
        """Leave the bar as it stands, or print a last line; stopping again does nothing."""
        if self._live:
            self._live.stop()
        elif self._visible:
            self._say()
        self._visible = False

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count units as done; ``note`` is shown behind the bar."""
        self._done += units
        self._note = self._note if note is None else note
        if self._live:
            self._live.update(self._task, completed=self._done, note=self._note)
        elif self._visible and time.monotonic() - self._spoken >= _PLAIN_SECONDS:
            self._say()

    def print(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if self._live:
            self._live.console.print(line, markup=False, highlight=False)
        elif self._visible:
            print(line, file=sys.stderr, flush=True)

    def _say(self) -> None:
        self._spoken = time.monotonic()
        elapsed = max(1e-9, self._spoken - self._started)
        rate = (self._done - self._begun_at) / elapsed
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        share = f"{100 * self._done / max(1, self._total):3.0f} %"
        ending = f", {left:.0f} s left" if 0 < left < float("inf") else ""
        print(f"{self._title} {share} ({_rate(rate, self._unit)}{ending}) {self._note}".rstrip(), file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed or 0.0, self._unit))


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second / 1e6:.1f} MB/s" if unit == "B" else f"{per_second:.2f} {unit}/s"
