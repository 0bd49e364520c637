"""The end of a conversion, begun early: what is final is hashed, what is written is synced.

A disk needs about as long for a root file system as making it takes, so it begins with the first
file. The digest begins with the first block, which is known only when every inode has its place;
from then on the bulk of the file is hashed while the metadata behind it are still being written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from queue import SimpleQueue
from typing import Self

from hyperbuild.converter.errors import UnavailableError
from hyperbuild.converter.extents import write_failure

_BUFFER = 1 << 20
#: How long what is written may wait until it is sent to the disk.
_SYNC_SECONDS = 0.2


class Settling:
    """Syncs the file fd all the time, and hashes it up to where it is settled; a context manager.

    An error of the disk is told to one sync alone, so the first one ends in ``digest``.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = hashlib.sha256()
        self._ends: SimpleQueue[int | None] = SimpleQueue()
        self._failures: list[UnavailableError] = []
        self._is_over = False
        self._wakes = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._sync, self._digest)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.put(None)
        self._threads[1].join()
        self._is_over = True
        self._wakes.set()
        self._threads[0].join()

    def settled(self, end: int) -> None:
        """Take it that the bytes before end (an offset that only grows) stay as they are."""
        self._ends.put(end)
        self._wakes.set()

    def digest(self) -> str:
        """Return the digest of all that is settled.

        UnavailableError if that cannot be read, or if anything written did not reach the disk.
        """
        self.__exit__()
        for failure in self._failures:
            raise failure
        return "sha256:" + self._hash.hexdigest()

    def _digest(self) -> None:
        try:
            self._hash_settled()
        except OSError as error:
            self._failures.append(
                UnavailableError(
                    f"cannot read the root file system again: {error.strerror}; check the disk"
                )
            )

    def _hash_settled(self) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        position = 0
        while (end := self._ends.get()) is not None:
            while position < end:
                count = os.preadv(self._fd, [buffer[: end - position]], position)
                if not count:
                    raise OSError(errno.EIO, "it has become shorter")
                self._hash.update(buffer[:count])
                position += count

    def _sync(self) -> None:
        try:
            while True:
                self._wakes.wait(_SYNC_SECONDS)
                self._wakes.clear()
                if self._is_over:
                    return
                os.fdatasync(self._fd)
        except OSError as error:
            self._failures.append(write_failure(error))
