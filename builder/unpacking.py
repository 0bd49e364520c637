"""A guest's archive into a directory of the host: the guest is not trusted, so nothing leaves it.

Every directory on the way is opened from the one before, and a symbolic link on the way is refused:
an archive that makes a link and then writes through it gets nowhere. Owners are whoever copies;
set-id bits and special files are left out.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hyperbuild.converter import tar
from hyperbuild.converter.errors import ContentError, InputError, printable
from hyperbuild.converter.files import TEMPORARY_PREFIX
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
    of special files. ContentError: it wants to leave directory, or is no such archive. InputError:
    what is there already is of another kind. A file that did not arrive whole is not there.
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
                # A mode that followed a link would be that of something outside.
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=parent)
                try:
                    os.fchmod(fd, member.mode & _MODE)
                    os.utime(fd, ns=_times(member))
                finally:
                    os.close(fd)
    finally:
        os.close(base)


def _path(name: bytes, root: bytes | None, where: str) -> bytes:
    """Return a member's path below the directory, its first component replaced."""
    # The first component is "." where it is the root that was asked for.
    top, *below = name.split(b"/")
    below = [part for part in below if part not in (b"", b".")]
    if top in (b"", b"..") or b".." in below:
        raise ContentError(f"{where}: the guest's archive has a member {printable(name)!r}")
    return b"/".join(below if root is None else [root, *below])


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
        is_directory = member.type == tar.DIRECTORY
        there = _kind(parent, name)
        fitting = (stat.S_IFDIR,) if is_directory else (stat.S_IFREG, stat.S_IFLNK)
        if there and there not in fitting:
            what = "directory" if is_directory else "file"
            raise InputError(
                f"{stream.where}: {printable(path)} is there already and is no {what}, as what is "
                "copied is; name another target, or move it away"
            )
        if is_directory:
            if not there:
                os.mkdir(name, 0o700, dir_fd=parent)
            return
        if member.type not in (tar.REGULAR, tar.SYMLINK):
            on_skip(f"{printable(path)} is a special file, and left out")
            return
        temporary = f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
        try:
            if member.type == tar.SYMLINK:
                os.symlink(member.link, temporary, dir_fd=parent)
            else:
                _write(parent, temporary, member, stream)
            os.utime(temporary, ns=_times(member), dir_fd=parent, follow_symlinks=False)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException as error:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            if isinstance(error, OSError):
                # Nobody but us has heard of the temporary file.
                error.filename = os.fsdecode(path)
            raise


def _kind(parent: int, name: bytes) -> int:
    """Return the type bits of what has the name already, links not followed; 0 for nothing."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def _write(parent: int, name: str, member: Member, stream: LayerStream) -> None:
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
