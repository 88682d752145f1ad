"""Making what will be asked for next while its user is busy, in one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 10.0  # seconds that closing waits for work in progress


class Prefetch(Generic[T]):
    """Makes things by number. What :meth:`get` returns is ``make(number)`` whether it was foreseen or not.

    The thread starts with the first :meth:`get` and does one thing after another. Its errors are raised where their number is
    asked for. It is a daemon: a process that ends without :meth:`close` does not wait for it.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._made: dict[int, Future[T]] = {}
        self._wanted: queue.SimpleQueue[tuple[int, Future[T]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def get(self, number: int, following: Sequence[int] = ()) -> T:
        """Wait for what ``number`` stands for, and begin with what will be asked for next; other things are given up."""
        for foreseen in self._made.keys() - {number, *following}:
            self._made.pop(foreseen).cancel()
        for wanted in (number, *following):
            if wanted not in self._made:
                self._made[wanted] = Future()
                self._wanted.put((wanted, self._made[wanted]))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
            self._thread.start()
        return self._made.pop(number).result()

    def close(self) -> None:
        """Give up what was foreseen and end the thread; another :meth:`get` begins anew."""
        for future in self._made.values():
            future.cancel()
        self._made.clear()
        if self._thread is not None:
            self._wanted.put(None)
            self._thread.join(_PATIENCE)
            self._thread = None

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            number, future = wanted
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._make(number))
                except BaseException as error:  # whatever it is, it belongs to whoever asks for the number
                    future.set_exception(error)
            del wanted, future  # what was made is its user's alone
