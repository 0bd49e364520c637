"""The files of a finished root file system by their paths, as a guest would find them.

The image may be anybody's: symlinks lead nowhere but into the image, nothing is read beyond the
size that was asked for, and never through the map, whose pages would count as this process's.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, VerificationError
from hyperbuild.converter.files import open_regular
from hyperbuild.converter.limits import DEFAULT_LIMITS
from hyperbuild.converter.verify import open_image
from hyperbuild.converter.verify_reader import walk_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.converter.verify_reader import FileInfo, ImageReader

#: Linux follows this many symlinks in a path (MAXSYMLINKS).
_LINKS = 40
_LINK_LIMIT = 4096
#: The largest directory that a path is looked up in, and the largest piece that is read at once.
_DIRECTORY_LIMIT = 64 << 20
PIECE_LIMIT = 8 << 20


@contextmanager
def browse(path: Path) -> Iterator[ImageFiles]:
    """Open the root file system in the file path; VerificationError if it is none."""
    fd = open_regular(path)
    try:
        reader = open_image(fd)
        try:
            yield ImageFiles(fd, reader)
        finally:
            reader.close()
    finally:
        os.close(fd)


class ImageFiles:
    """A root file system whose files are looked up and read. VerificationError if it is broken."""

    def __init__(self, fd: int, reader: ImageReader) -> None:
        self._fd = fd
        self._reader = reader
        self._listed: dict[int, dict[bytes, int]] = {}

    @property
    def made(self) -> int:
        """When it was made, in seconds since the epoch, as its superblock says."""
        return self._reader.made

    def walk(self) -> Iterator[tuple[bytes, FileInfo]]:
        """Yield (path, info) of everything, each directory before what is in it."""
        return walk_once(self._reader, DEFAULT_LIMITS.entries)

    def find(self, path: bytes) -> FileInfo | None:
        """Return what is at path (from the root), its symlinks followed; None if nothing is."""
        trail = [self._reader.stat(self._reader.root_nid)]
        rest = path.split(b"/")[::-1]
        links = 0
        while rest:
            name = rest.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                trail = trail[:-1] or trail
                continue
            if not stat.S_ISDIR(trail[-1].mode):
                return None
            nid = self.names(trail[-1]).get(name)
            if nid is None:
                return None
            info = self._reader.stat(nid)
            if stat.S_ISLNK(info.mode):
                links += 1
                target = self.read(info, _LINK_LIMIT)
                if links > _LINKS or target is None:
                    return None
                rest += target.split(b"/")[::-1]
                trail = trail[:1] if target.startswith(b"/") else trail
            else:
                trail.append(info)
        return trail[-1]

    def names(self, directory: FileInfo) -> dict[bytes, int]:
        """Return the names in a directory, and the inode of each; dots are left out."""
        if directory.size > _DIRECTORY_LIMIT:
            raise VerificationError(f"the directory of inode {directory.nid} is too large")
        if directory.nid not in self._listed:
            self._listed[directory.nid] = {
                name: nid
                for name, nid, _ in self._reader.entries(directory)
                if name not in (b".", b"..")
            }
        return self._listed[directory.nid]

    def stat(self, nid: int) -> FileInfo:
        """Read the inode nid."""
        return self._reader.stat(nid)

    def read(self, info: FileInfo, limit: int) -> bytes | None:
        """Return the content of a file or symlink; None if it has more than limit bytes."""
        return None if info.size > limit else self.head(info, limit)

    def head(self, info: FileInfo, size: int) -> bytes:
        """Return up to size bytes from the beginning of a file."""
        pieces = []
        for start, length in info.runs:
            pieces.append(self._at(start, min(length, size)))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def open(self, info: FileInfo) -> ImageFile:
        """Open a regular file."""
        return ImageFile(self._fd, info)

    def _at(self, start: int, size: int) -> bytes:
        data = os.pread(self._fd, size, start)
        if len(data) != size:
            raise VerificationError(f"the image ends before byte {start + size}")
        return data


class ImageFile(io.RawIOBase):
    """A file of the image as a seekable stream, for libraries that take one.

    ContentError for whoever wants more than ``PIECE_LIMIT`` bytes at once: what asks for it is a
    length that somebody has written into the file.
    """

    def __init__(self, fd: int, info: FileInfo) -> None:
        self._fd = fd
        self._runs = info.runs
        self._size = info.size
        self._position = 0
        self.taken = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be sought in."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position in bytes, as all files do."""
        base = (0, self._position, self._size)[whence]
        if base + offset < 0:
            raise ValueError("a position before the file's beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to size bytes (by default all that follow), fewer at the end alone."""
        left = max(0, self._size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if count > PIECE_LIMIT:
            raise ContentError("more was to be read at once than honest files need")
        pieces, base = [], 0
        for start, length in self._runs:
            inside = max(0, self._position - base)
            if inside < length and count:
                piece = os.pread(self._fd, min(count, length - inside), start + inside)
                pieces.append(piece)
                self._position += len(piece)
                count -= len(piece)
            base += length
        data = b"".join(pieces)
        self.taken += len(data)
        return data
