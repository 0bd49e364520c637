"""A folder of this machine as a layer: a tar with what is in it, in one order, at another place."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path
    from typing import IO

#: How names begin that mean something else in a layer (image-spec, layer.md, "Whiteouts").
_WHITEOUT = ".wh."
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
}


@dataclass(frozen=True, slots=True)
class Folder:
    """The content of the folder ``path``, to be in the image's directory ``to``.

    All of it belongs to ``uid`` and ``gid``; modes and times are as they are here.
    """

    path: Path
    to: str
    uid: int = 0
    gid: int = 0


def pack(folder: Folder, room: Path, latest: datetime | None, where: str) -> int:
    """Pack folder into a nameless file in the directory room; return its descriptor.

    No time in it is after latest; where is what errors call it. InputError: it has what can't be
    copied; UnavailableError: it can't be read, or changes meanwhile, or room is full.
    """
    limit = int(latest.timestamp()) if latest else None
    try:
        with tempfile.TemporaryFile(dir=room) as file:
            # GNU's dialect has names of any bytes and length.
            with tarfile.open(
                fileobj=file, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
            ) as tar:
                for path, place in _content(folder.path, folder.to.strip("/")):
                    if wrong := _add(tar, path, place, folder, limit):
                        raise InputError(f"{where}: {path} {wrong}")
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        raise UnavailableError(
            f"{where}: cannot copy {error.filename or folder.path}: {error.strerror or error}"
        ) from error


def _content(directory: Path, place: str) -> Iterator[tuple[Path, str]]:
    """Yield what is below directory, each directory before what it holds, in order of bytes."""
    for path in sorted(directory.iterdir(), key=os.fsencode):
        below = posixpath.join(place, path.name)
        yield path, below
        if path.is_dir() and not path.is_symlink():
            yield from _content(path, below)


def _add(tar: tarfile.TarFile, path: Path, place: str, folder: Folder, limit: int | None) -> str:
    """Add path to tar, or return what is wrong with it."""
    found = path.lstat()
    kind = _TYPES.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return "is no file, directory or symbolic link; take it out of the folder"
    if path.name.startswith(_WHITEOUT):
        return "has a name that takes a file away in a layer; call it otherwise"
    member = tarfile.TarInfo(place)
    member.type, member.mode = kind, stat.S_IMODE(found.st_mode)
    member.uid, member.gid = folder.uid, folder.gid
    member.mtime = int(found.st_mtime) if limit is None else min(int(found.st_mtime), limit)
    if kind == tarfile.SYMTYPE:
        member.linkname = os.readlink(path)  # noqa: PTH115 - bytes of it may be no UTF-8
    content: IO[bytes] | None = None
    if kind == tarfile.REGTYPE:
        content = path.open("rb")
        member.size = os.fstat(content.fileno()).st_size
    try:
        tar.addfile(member, content)
    finally:
        if content:
            content.close()
    return ""
