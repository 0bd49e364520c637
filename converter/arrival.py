"""A blob read while it arrives: the reader follows the writer through the growing file."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer


class Arrival:
    """How much of a blob is there, told by the thread that writes it to those that read it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.size = 0
        self.has_ended = False
        self._fd = -1

    def begins(self, fd: int) -> None:
        """Take it that the blob is written into the empty file fd, byte after byte."""
        with self.changed:
            if self._fd < 0:
                self._fd = os.dup(fd)
            self.changed.notify_all()

    def has(self, size: int) -> None:
        """Take it that the first size bytes are there."""
        with self.changed:
            self.size = size
            self.changed.notify_all()

    def ends(self, _: object = None) -> None:
        """Take it that no more will come, be the blob complete or not."""
        with self.changed:
            self.has_ended = True
            self.changed.notify_all()

    def open(self, finish: Callable[[], object]) -> Arriving | None:
        """Wait for the blob's begin and return its reader, once; None if it ended before that.

        finish is called where the reader comes to the end; it raises what the writer failed with.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._fd >= 0 or self.has_ended)
            if self._fd < 0:
                return None
            fd, self._fd = self._fd, -1
            return Arriving(self, fd, finish)

    def close(self) -> None:
        """Let go of the file if nobody has opened it."""
        with self.changed:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class Arriving(io.RawIOBase):
    """The reader of an Arrival: waits for bytes that are still to come."""

    def __init__(self, arrival: Arrival, fd: int, finish: Callable[[], object]) -> None:
        self._arrival = arrival
        self._fd = fd
        self._finish = finish
        self._position = 0
        self._interrupted = False

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from any place that has arrived."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to offset bytes from the start or the position."""
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill buffer with what comes next, one byte at least; return 0 at the blob's end."""
        view = memoryview(buffer).cast("B")
        arrival = self._arrival
        with arrival.changed:
            arrival.changed.wait_for(
                lambda: arrival.size > self._position or arrival.has_ended or self._interrupted
            )
            available = arrival.size - self._position
        if self._interrupted:
            raise UnavailableError("reading a layer was given up")
        if available <= 0:
            self._finish()
            return 0
        count = os.preadv(self._fd, [view[:available]], self._position)
        self._position += count
        return count

    def verify(self) -> None:
        """Wait for the rest and raise what is wrong with the blob as a whole, if anything is."""
        self._finish()

    def interrupt(self) -> None:
        """Have a thread that waits for bytes fail, now and from now on."""
        with self._arrival.changed:
            self._interrupted = True
            self._arrival.changed.notify_all()

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._fd)
        super().close()
