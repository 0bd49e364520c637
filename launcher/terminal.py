"""The user's terminal: its size, and its raw mode while the application's own takes all keys."""

from __future__ import annotations

import os
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The size of a terminal that tells none.
_UNKNOWN = (0, 0)


def find_terminal(*fds: int) -> int | None:
    """Return the first of fds that is a terminal."""
    return next((fd for fd in fds if os.isatty(fd)), None)


def terminal_size(fd: int | None) -> tuple[int, int]:
    """Return (rows, columns) of the terminal fd; zeros if it is none or does not know them."""
    if fd is None:
        return _UNKNOWN
    try:
        return termios.tcgetwinsize(fd)
    except termios.error:
        return _UNKNOWN


@contextmanager
def raw_on_demand(fd: int) -> Iterator[Callable[[], None]]:
    """Give a function that puts the terminal fd into raw mode; at the end it is what it was.

    Raw is also its output: what comes is written for a terminal already.
    """
    before = termios.tcgetattr(fd)

    def make_raw() -> None:
        raw = termios.tcgetattr(fd)
        raw[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
            | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        raw[1] &= ~termios.OPOST
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSADRAIN, raw)

    try:
        yield make_raw
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
