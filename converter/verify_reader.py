"""What readers of root file systems have in common. They share no code with the writers."""

from __future__ import annotations

import mmap
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import VerificationError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A directory entry's type code -> st_mode's type bits, alike in EROFS and ext4.
_TYPES = (
    None,
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFLNK,
)
_DIRECTORY = 2


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a guest would see of one inode; ``runs`` are where its content lies: (start, bytes)."""

    nid: int
    mode: int
    links: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    size: int
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    runs: tuple[tuple[int, int], ...]


class ImageReader(ABC):
    """An image, mapped read-only. VerificationError for anything malformed."""

    #: The times that the format has room for, in seconds since the epoch.
    earliest, latest = -(1 << 63), (1 << 63) - 1
    #: A directory of more links than this says 1.
    directory_link_limit = 1 << 32

    root_nid: int
    #: When the image was made, in seconds since the epoch.
    made: int

    def __init__(self, fd: int) -> None:
        try:
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        except ValueError as error:
            raise VerificationError("the image is empty; convert it again") from error
        self.image = memoryview(self._map)

    def close(self) -> None:
        """Unmap the image."""
        # The traceback of a failure may hold views of the map, which goes when they do.
        with suppress(BufferError):
            self.image.release()
            self._map.close()

    @abstractmethod
    def stat(self, nid: int) -> FileInfo:
        """Read the inode nid."""

    @abstractmethod
    def entries(self, info: FileInfo) -> list[tuple[bytes, int, int]]:
        """Return a directory's (name, nid, type code), dots included, in their order on disk."""

    def number(self, offset: int, size: int) -> int:
        """Read the little-endian number of size bytes at offset."""
        if offset + size > len(self.image):
            raise VerificationError(f"the image ends before byte {offset + size}")
        return int.from_bytes(self.image[offset : offset + size], "little")

    def content(self, info: FileInfo) -> Iterator[memoryview]:
        """Yield the content of a file, symlink or directory as views of the image."""
        for start, size in info.runs:
            if start + size > len(self.image):
                raise VerificationError(f"inode {info.nid} has data beyond the image's end")
            yield self.image[start : start + size]

    def walk(self) -> Iterator[tuple[bytes, FileInfo]]:
        """Yield (path, info) of everything, checking each directory's dots, names and types."""
        pending = [(b"", self.root_nid, _DIRECTORY, self.root_nid)]
        while pending:
            path, nid, code, parent = pending.pop()
            info = self.stat(nid)
            if not 0 < code < len(_TYPES) or stat.S_IFMT(info.mode) != _TYPES[code]:
                raise VerificationError(f"the entry of {printable(path)!r} says another type")
            yield path, info
            if not stat.S_ISDIR(info.mode):
                continue
            entries = self.entries(info)
            if len({name for name, _, _ in entries}) != len(entries):
                raise VerificationError(f"the directory {printable(path)!r} repeats a name")
            if (b".", nid, _DIRECTORY) not in entries or (b"..", parent, _DIRECTORY) not in entries:
                raise VerificationError(f"'.' or '..' of {printable(path)!r} leads astray")
            for name, child, child_code in reversed(entries):
                if name not in (b".", b".."):
                    pending.append((path + b"/" + name if path else name, child, child_code, nid))


def walk_once(reader: ImageReader, limit: int) -> Iterator[tuple[bytes, FileInfo]]:
    """Walk an image that may be anybody's: one that does not end within limit entries is broken."""
    directories: set[int] = set()
    for count, (path, info) in enumerate(reader.walk()):
        if info.nid in directories or count > limit:
            raise VerificationError("its directories lead into each other")
        if stat.S_ISDIR(info.mode):
            directories.add(info.nid)
        yield path, info
