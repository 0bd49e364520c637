"""File data on its way into the image: each file from a block boundary, one after the other.

A file whose content is there already shares its blocks. Which one is the first depends on the order
of files alone, so the same image gives the same bytes however it was put together.
"""

from __future__ import annotations

import errno
import os
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

from isal.isal_zlib import adler32

from hyperbuild.converter.errors import ContentError, UnavailableError
from hyperbuild.converter.files import copy_range

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK_SIZE = 4096
#: Both file systems number blocks with 32 bits.
BLOCK_LIMIT = 1 << 32
#: The size of a huge page, in bytes: files as large are worth aligning to it.
HUGE_PAGE = 2 << 20
#: The sum of a file that never shares: one with holes.
NO_SUM = -1
#: Most pieces of one pwritev (Linux: UIO_MAXIOV is 1024); a file adds at most two.
_GATHER_LIMIT = 1000
_COMPARED = 1 << 20
_ZEROS = memoryview(bytes(BLOCK_SIZE))


class ExtentWriter:
    """Writes files to consecutive blocks of an image file, many by one system call.

    ``append`` keeps views of the caller's memory until ``flush``: flush before it is reused.
    ``sums`` has for each file appended the Adler-32 of its content, or NO_SUM.
    """

    def __init__(
        self, fd: int, first_block: int, *, shares: bool = True, aligns: bool = False
    ) -> None:
        """Write into fd from first_block on.

        With shares, equal files share their blocks; with aligns, files of HUGE_PAGE and more begin
        at a multiple of it.
        """
        self.sums = array("q")
        self._fd = fd
        self._shares = shares
        self._aligns = aligns
        self._pieces: list[memoryview] = []
        self._pending = 0
        self._offset = first_block * BLOCK_SIZE
        #: The file and offset that the pending bytes are copied from, if they are no pieces.
        self._source: tuple[int, int] | None = None
        #: Size and sum of a file, in one number -> the block where the first such file is.
        self._blocks: dict[int, int] = {}

    @property
    def next_block(self) -> int:
        """The block after the last one used."""
        return (self._offset + self._pending) // BLOCK_SIZE

    def append(self, data: memoryview) -> int:
        """Add one whole file, smaller than HUGE_PAGE; return its first block."""
        block = (self._offset + self._pending) // BLOCK_SIZE
        size = len(data)
        content = adler32(data)
        self.sums.append(content)
        known = self._blocks.setdefault(size << 32 | content, block)
        if known != block and self._shares:
            self.flush()
            if os.pread(self._fd, size, known * BLOCK_SIZE) == data.tobytes():
                return known
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
        self._begin(size)
        start = self._offset
        content, seen = 1, 0
        for offset, data in segments:
            position = start + offset
            for piece in data:
                content = adler32(piece, content)
                self._write([piece], position)
                position += len(piece)
                seen += len(piece)
        content = content if seen == size else NO_SUM
        known = self._known(size, content, self._fd, start)
        if known is not None:
            # Whatever comes next counts on zeros where nothing is written.
            os.ftruncate(self._fd, start)
            return known
        self._offset = start + size + -size % BLOCK_SIZE
        return start // BLOCK_SIZE

    def append_range(self, source: int, offset: int, size: int, content: int) -> int:
        """Add one file of size bytes from offset of the file source, its sum known to be content.

        Behind the file, source has zeros up to the end of the block.
        """
        if self._source and self._source != (source, offset - self._pending):
            self.flush()
        if self._aligns and size >= HUGE_PAGE:
            self.flush()
        self._begin(size)
        known = self._known(size, content, source, offset)
        if known is not None:
            return known
        block = self.next_block
        if not self._pending:
            self._source = (source, offset)
        self._pending += size + -size % BLOCK_SIZE
        return block

    def flush(self) -> None:
        """Write what was appended; its memory may be reused afterwards."""
        if self._source:
            source, offset = self._source
            try:
                copy_range(source, offset, self._fd, self._offset, self._pending)
            except OSError as error:
                raise write_failure(error) from error
            self._source = None
        elif self._pieces:
            self._write(self._pieces, self._offset)
            self._pieces = []
        self._offset += self._pending
        self._pending = 0

    def _begin(self, size: int) -> None:
        """Find the place of a file of size bytes that may be a large one."""
        if self._aligns and size >= HUGE_PAGE:
            self._offset += -self._offset % HUGE_PAGE
        if self._offset + self._pending + size > BLOCK_LIMIT * BLOCK_SIZE:
            raise ContentError("the image is larger than 16 TiB, which no root file system holds")

    def _known(self, size: int, content: int, source: int, offset: int) -> int | None:
        """Return the block of a file equal to size bytes of source; else remember this one."""
        self.sums.append(content)
        if content == NO_SUM:
            return None
        block = self.next_block
        known = self._blocks.setdefault(size << 32 | content, block)
        if known == block or not self._shares:
            return None
        self.flush()
        for at in range(0, size, _COMPARED):
            count = min(_COMPARED, size - at)
            here = os.pread(self._fd, count, known * BLOCK_SIZE + at)
            if here != os.pread(source, count, offset + at):
                return None
        return known

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
