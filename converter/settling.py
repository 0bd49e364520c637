"""The end of a conversion, begun early: what will not change any more is hashed and synced already.

The digest of a root file system begins with its first block, which is known only when every inode
has its place. From then on the bulk of the file is hashed, and on its way to the disk, while the
metadata behind it is still being written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from queue import SimpleQueue
from typing import Self

from hyperbuild.converter.errors import UnavailableError

_BUFFER = 4 << 20


class Settling:
    """Hashes the file fd from its start up to where it is settled; a context manager."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = hashlib.sha256()
        self._ends: SimpleQueue[int | None] = SimpleQueue()
        self._failure: OSError | None = None
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._digest, self._sync)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def settled(self, end: int) -> None:
        """Take it that the bytes before end (an offset that only grows) stay as they are."""
        self._ends.put(end)
        for thread in self._threads:
            if thread.ident is None:
                thread.start()

    def digest(self) -> str:
        """Return the digest of all that is settled; UnavailableError if it cannot be read."""
        self.__exit__()
        if self._failure:
            raise UnavailableError(
                f"cannot read the root file system again: {self._failure.strerror}; check the disk"
            )
        return "sha256:" + self._hash.hexdigest()

    def _digest(self) -> None:
        try:
            self._hash_settled()
        except OSError as error:
            self._failure = error

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
            os.fdatasync(self._fd)
        except OSError:
            # Who publishes the file syncs it again, and is told.
            return
