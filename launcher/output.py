"""Writing the application's output to the user's descriptors, byte for byte, never blocking."""

from __future__ import annotations

import os
import select
import stat
from collections import deque


class Output:
    """Bytes on their way to fd, which stays as it is (the user's blocking descriptor).

    Bytes that were taken wait in memory, so whoever feeds it must stop while it is ``full``.
    """

    #: More than this many waiting bytes make it full.
    LIMIT = 256 << 10

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.broken = False
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        # Writable means that a pipe takes PIPE_BUF bytes without blocking, a file any number.
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._step = self.LIMIT if regular else select.PIPE_BUF

    def feed(self, data: bytes) -> None:
        """Take data to be written; dropped if the reader has gone."""
        if not self.broken and data:
            self._waiting.append(memoryview(data))
            self._size += len(data)

    @property
    def empty(self) -> bool:
        """Whether everything is written."""
        return not self._waiting

    @property
    def full(self) -> bool:
        """Whether no more should be fed now."""
        return self._size >= self.LIMIT

    def drop(self) -> None:
        """Forget what waits, and whatever comes."""
        self.broken = True
        self._waiting.clear()
        self._size = 0

    def write(self) -> None:
        """Write what can be written now that fd is ready; a reader that has gone drops the rest.

        OSError: the write failed in another way (a full disk).
        """
        if not self._waiting:
            return
        data = self._waiting[0]
        try:
            done = os.write(self.fd, data[: self._step])
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.drop()
            return
        self._size -= done
        if done == len(data):
            self._waiting.popleft()
        else:
            self._waiting[0] = data[done:]
