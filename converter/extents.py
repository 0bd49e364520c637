"""File data on its way into the image: each file from a block boundary, one after the other."""

from __future__ import annotations

import errno
import os
from itertools import accumulate
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK_SIZE = 4096
#: Both file systems number blocks with 32 bits.
BLOCK_LIMIT = 1 << 32
#: Most pieces of one pwritev (Linux: UIO_MAXIOV is 1024); a file adds at most two.
_GATHER_LIMIT = 1000
_ZEROS = memoryview(bytes(BLOCK_SIZE))


class ExtentWriter:
    """Writes files to consecutive blocks of an image file, many by one system call.

    ``append`` keeps views of the caller's memory until ``flush``: flush before it is reused.
    """

    def __init__(self, fd: int, first_block: int) -> None:
        """Write into fd from first_block on."""
        self._fd = fd
        self._pieces: list[memoryview] = []
        self._pending = 0
        self._offset = first_block * BLOCK_SIZE

    @property
    def next_block(self) -> int:
        """The block after the last one used."""
        return (self._offset + self._pending) // BLOCK_SIZE

    def append(self, data: memoryview) -> int:
        """Add one whole file; return its first block."""
        block = (self._offset + self._pending) // BLOCK_SIZE
        size = len(data)
        pieces = self._pieces
        pieces.append(data)
        padding = -size % BLOCK_SIZE
        if padding:
            pieces.append(_ZEROS[:padding])
        self._pending += size + padding
        if len(pieces) >= _GATHER_LIMIT:
            self.flush()
        return block

    def append_pieces(self, size: int, segments: Iterable[tuple[int, Iterable[memoryview]]]) -> int:
        """Add one file of size bytes given as (offset, data) segments; the rest is a hole."""
        self.flush()
        start = self._offset
        end = start + size + -size % BLOCK_SIZE
        if end > BLOCK_LIMIT * BLOCK_SIZE:
            raise ContentError("the image is larger than 16 TiB, which no root file system holds")
        for offset, data in segments:
            position = start + offset
            for piece in data:
                self._write([piece], position)
                position += len(piece)
        self._offset = end
        return start // BLOCK_SIZE

    def flush(self) -> None:
        """Write what was appended; its memory may be reused afterwards."""
        if self._pieces:
            self._write(self._pieces, self._offset)
            self._offset += self._pending
            self._pieces = []
            self._pending = 0

    def _write(self, pieces: list[memoryview], offset: int) -> None:
        while pieces:
            try:
                written = os.pwritev(self._fd, pieces, offset)
            except OSError as error:
                raise write_failure(error) from error
            offset += written
            ends = list(accumulate(map(len, pieces))) if written else []
            if not ends or ends[-1] == written:
                return
            done = sum(end <= written for end in ends)
            first = pieces[done]
            pieces = [first[written - ends[done] + len(first) :], *pieces[done + 1 :]]


def write_failure(error: OSError) -> UnavailableError:
    """Explain an error of writing the image."""
    remedy = "free some space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check it"
    return UnavailableError(f"cannot write the root file system: {error.strerror}; {remedy}")
