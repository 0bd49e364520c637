"""A guest's archive into a directory of the host: the guest is not trusted, so nothing leaves it.

Every directory on the way is opened from the one before, and a symbolic link on the way is refused:
an archive that makes a link and then writes through it gets nowhere. Owners are whoever copies;
set-id bits and special files are left out.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hyperbuild.converter import tar
from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.stream import LayerStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hyperbuild.converter.member import Member

_MODE = 0o777
_NO_NAMES = (b"", b".", b"..")


class Received(LayerStream):
    """An archive that comes piece by piece, not compressed and of no known digest."""

    def __init__(self, pieces: Iterator[bytes], where: str) -> None:
        self.where = where
        self.buffer = memoryview(b"")
        self.position = self.limit = 0
        self._pieces = pieces
        self._passed = 0

    def ensure(self) -> bool:
        """Make at least one byte available at ``position``; False at the end of the stream."""
        while self.position >= self.limit:
            self._passed += self.limit
            self.position = self.limit = 0
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self.buffer, self.limit = memoryview(piece), len(piece)
        return True


def unpack(
    pieces: Iterator[bytes],
    where: str,
    directory: Path,
    root: bytes | None,
    on_skip: Callable[[str], None],
) -> None:
    """Unpack an archive whose members are all below one name, which becomes root in directory.

    With None the name is left out: what is below it comes into directory itself. on_skip is told
    of special files. ContentError: it wants to leave directory, or is no such archive.
    """
    base = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stream = Received(pieces, where)
        modes: dict[bytes, Member] = {}
        for member in tar.members(stream):
            path = _path(member.name, root, where)
            if path == b"":
                if member.type != tar.DIRECTORY:
                    raise ContentError(f"{where} is no directory, whose content was asked for")
                continue
            if member.type == tar.DIRECTORY:
                modes[path] = member
            _make(base, path, member, stream, on_skip)
        # Last, as a directory may be closed even to its owner.
        for path, member in sorted(modes.items(), reverse=True):
            with _parent(base, path, where) as (parent, name):
                os.chmod(name, member.mode & _MODE, dir_fd=parent)
                os.utime(name, ns=_times(member), dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(base)


def _path(name: bytes, root: bytes | None, where: str) -> bytes:
    """Return a member's path below the directory, its first component replaced."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") or b".." in parts or not parts:
        raise ContentError(f"{where}: the guest's archive has a member {printable(name)!r}")
    return b"/".join(parts[1:] if root is None else [root, *parts[1:]])


@contextmanager
def _parent(base: int, path: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Give the directory that path is in, as a descriptor, and the name in it."""
    *parts, name = path.split(b"/")
    fd = os.dup(base)
    try:
        for part in parts:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                below = os.open(part, flags, dir_fd=fd)
            except OSError as error:
                raise ContentError(
                    f"{where}: {printable(path)!r} is not below a directory ({error.strerror})"
                ) from error
            os.close(fd)
            fd = below
        yield fd, name
    finally:
        os.close(fd)


def _make(
    base: int,
    path: bytes,
    member: Member,
    stream: LayerStream,
    on_skip: Callable[[str], None],
) -> None:
    with _parent(base, path, stream.where) as (parent, name):
        if member.type == tar.DIRECTORY:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            return
        if member.type not in (tar.REGULAR, tar.SYMLINK):
            on_skip(f"{printable(path)} is a special file, and left out")
            return
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        if member.type == tar.SYMLINK:
            os.symlink(member.link, name, dir_fd=parent)
        else:
            _write(parent, name, member, stream)
        os.utime(name, ns=_times(member), dir_fd=parent, follow_symlinks=False)


def _write(parent: int, name: bytes, member: Member, stream: LayerStream) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
        segments = [(0, member.stored)] if member.segments is None else member.segments
        for offset, length in segments:
            file.seek(offset)
            for piece in stream.pieces(length):
                file.write(piece)
        file.truncate(member.size)
        os.fchmod(file.fileno(), member.mode & _MODE)


def _times(member: Member) -> tuple[int, int]:
    moment = member.mtime * 1_000_000_000 + member.mtime_ns
    return moment, moment
