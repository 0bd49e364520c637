"""A few threads that do what is submitted, in order."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

#: How long the end waits for connections to notice it.
_GRACE_SECONDS = 1.0


class Workers:
    """So many threads at most, begun as they are needed.

    They are daemons: one that is stuck in a silent connection must not hold up the program's end.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._queue = queue.SimpleQueue()

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Have work done; the future gives its result or its error."""
        future: Future[Result] = Future()
        self._queue.put((future, work))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, daemon=True, name=self._name)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Drop what was not begun and wait a moment for what was."""
        with suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item:
                    item[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)

    def _run(self) -> None:
        while item := self._queue.get():
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # raised again where it is waited for
                    future.set_exception(error)
