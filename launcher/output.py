"""Writing the application's output to the user's descriptors, byte for byte, never blocking."""

from __future__ import annotations

import os
import select
import stat
from collections import deque


class Output:
    """Bytes on their way to fd, which stays as it is (the user's blocking descriptor).

    Bytes that were taken wait in memory, so whoever feeds it must not feed more than was written.
    ``take_done`` tells how much that is, of each sequence of which it was fed.
    """

    #: Bytes that a file is given at once.
    STEP = 256 << 10

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.broken = False
        self._waiting: deque[tuple[int, memoryview]] = deque()
        self._done: dict[int, int] = {}
        # Writable means that a pipe takes PIPE_BUF bytes without blocking, a file any number.
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._step = self.STEP if regular else select.PIPE_BUF

    def feed(self, data: bytes, sequence: int) -> None:
        """Take data of sequence to be written; dropped if the reader has gone."""
        if self.broken:
            self._count(sequence, len(data))
        elif data:
            self._waiting.append((sequence, memoryview(data)))

    def take_done(self) -> dict[int, int]:
        """Return sequence -> bytes that have been written, or dropped, since this was asked."""
        done, self._done = self._done, {}
        return done

    @property
    def empty(self) -> bool:
        """Whether everything is written."""
        return not self._waiting

    def drop(self) -> None:
        """Forget what waits, and whatever comes."""
        self.broken = True
        while self._waiting:
            sequence, data = self._waiting.popleft()
            self._count(sequence, len(data))

    def write(self) -> None:
        """Write what can be written now that fd is ready; a reader that has gone drops the rest.

        OSError: the write failed in another way (a full disk).
        """
        if not self._waiting:
            return
        sequence, data = self._waiting[0]
        try:
            done = os.write(self.fd, data[: self._step])
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.drop()
            return
        self._count(sequence, done)
        if done == len(data):
            self._waiting.popleft()
        else:
            self._waiting[0] = sequence, data[done:]

    def _count(self, sequence: int, size: int) -> None:
        self._done[sequence] = self._done.get(sequence, 0) + size
