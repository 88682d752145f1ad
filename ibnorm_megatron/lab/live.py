"""A running study on a terminal: a table that stays in its place, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from .progress import Running, Snapshot

#: Without a terminal a line of the whole study comes this often.
_PLAIN_SECONDS = 60.0


class Live:
    """Shows a study while it runs; use as a context manager.

    Nothing is drawn by a thread, so that processes may be started at any time.
    """

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._live = RichLive(console=console, auto_refresh=False) if console.is_terminal else None
        self._spoken = -math.inf

    def __enter__(self) -> Live:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, moment: Snapshot) -> None:
        """What is now; without a terminal a line once a minute."""
        if self._live:
            self._live.update(table(self._title, moment), refresh=True)
        elif time.monotonic() - self._spoken >= _PLAIN_SECONDS:
            self._spoken = time.monotonic()
            self.say(headline(self._title, moment))

    def say(self, line: str) -> None:
        """A line that stays, above the table."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def headline(title: str, moment: Snapshot) -> str:
    """The whole study in a line."""
    found = f"{title}: {moment.stage}, {moment.done} of about {moment.total} done, {len(moment.running)} running"
    for number, what in ((moment.diverged, "diverged"), (moment.failed, "failed")):
        found += f", {number} {what}" if number else ""
    left = duration(moment.seconds_left)
    return f"{found}, about {left} left" if left else found


def table(title: str, moment: Snapshot) -> RenderableType:
    """The whole study, and a line for each run that this process trains."""
    shown = Table(box=None, pad_edge=False, expand=False)
    shown.add_column("run", overflow="ellipsis", no_wrap=True)
    for column in ("step", "loss", "tokens/s", "left"):
        shown.add_column(column, justify="right", no_wrap=True)
    for run in moment.running:
        shown.add_row(*row(run))
    return Group(Text(headline(title, moment), style="bold"), shown)


def row(run: Running) -> tuple[str, str, str, str, str]:
    """A run's cells; empty ones where it has recorded nothing yet."""
    loss = "" if math.isnan(run.loss) else f"{run.loss:.4f}"
    rate = "" if math.isnan(run.tokens_per_second) else f"{run.tokens_per_second:,.0f}"
    return run.name, f"{run.step:,}/{run.steps:,}", loss, rate, duration(run.seconds_left)


def duration(seconds: float) -> str:
    """Seconds as a person says them; empty where they are not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"
