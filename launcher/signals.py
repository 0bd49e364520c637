"""Signals to the launcher as bytes of a descriptor, so that one loop can wait for everything."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What asks the launcher to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What tells it that its terminal has another size.
RESIZED = signal.SIGWINCH


@contextmanager
def signal_numbers(
    numbers: Sequence[signal.Signals] = (*ENDING, RESIZED),
) -> Iterator[int | None]:
    """Give a descriptor whose bytes are those of numbers that came as signals.

    A signal that is ignored (as nohup does) stays so. None outside the main thread, which alone
    can handle signals. Handlers are put back at the end.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    except ValueError:
        os.close(reader)
        os.close(writer)
        yield None
        return
    before = {
        number: signal.signal(number, _note)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(reader)
        os.close(writer)


def _note(_number: int, _frame: object) -> None:
    """Do nothing: the wakeup descriptor has the number already."""
