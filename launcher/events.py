"""One descriptor for many: what a VM's supervisor waits for besides the VM itself."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

#: Signals that come as calls of the loop; SIGALRM is its own, for deadlines.
_TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Events:
    """Descriptors with their handlers, deadlines, and signals, behind the descriptor ``fd``.

    ``fd`` is readable when ``turn`` has something to do. Handlers are called with what is ready
    (READ, WRITE, or a hangup's mask). There is one in a process, in its main thread.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._deadlines: dict[Callable[[], None], float] = {}
        self._on_signal = on_signal
        self._numbers, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (*_TAKEN, signal.SIGALRM):
            signal.signal(number, _note)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        self.watch(self._numbers, READ, self._read_numbers)

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call handler when fd is ready for mask; without a mask no longer."""
        known = self._masks.get(fd)
        if known == (mask or None):
            self._handlers[fd] = handler
        elif not mask:
            self.forget(fd)
        else:
            if known is None:
                self._epoll.register(fd, mask)
            else:
                self._epoll.modify(fd, mask)
            self._masks[fd], self._handlers[fd] = mask, handler

    def forget(self, fd: int) -> None:
        """Watch fd no longer; to be said before it is closed."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
            with suppress(OSError):
                self._epoll.unregister(fd)

    def at(self, moment: float | None, call: Callable[[], None]) -> None:
        """Have call called at moment (of time.monotonic), once; None takes it back."""
        self._deadlines.pop(call, None)
        if moment is not None:
            self._deadlines[call] = moment
        self._arm()

    def turn(self, timeout: float | None = 0.0) -> None:
        """Do what there is to do, having waited timeout seconds for it (None: without an end)."""
        for fd, mask in self._epoll.poll(timeout):
            # An earlier handler of this turn may have closed it.
            if handler := self._handlers.get(fd):
                handler(mask)

    def _read_numbers(self, _: int) -> None:
        for number in os.read(self._numbers, 512):
            if number == signal.SIGALRM:
                self._call_due()
            elif number in _TAKEN:
                self._on_signal(number)

    def _call_due(self) -> None:
        now = time.monotonic()
        due = [call for call, moment in self._deadlines.items() if moment <= now]
        for call in due:
            del self._deadlines[call]
        self._arm()
        for call in due:
            call()

    def _arm(self) -> None:
        """Have SIGALRM come at the next deadline: whoever polls ``fd`` knows of none."""
        delay = 0.0
        if self._deadlines:
            # Zero would mean never; late by less than this nobody minds.
            delay = max(min(self._deadlines.values()) - time.monotonic(), 0.001)
        signal.setitimer(signal.ITIMER_REAL, delay)


def _note(_number: int, _frame: object) -> None:
    """Do nothing: the wakeup descriptor has the number already."""
