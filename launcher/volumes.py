"""Named volumes: each one file with an ext4 file system, in a directory of the user's own."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, NotFoundError
from hyperbuild.converter.files import is_at, open_regular, sweep, try_lock
from hyperbuild.converter.records import Record
from hyperbuild.launcher.disk import check_disk, make_disk
from hyperbuild.launcher.machine import DiskFile
from hyperbuild.launcher.mounts import check_volume_name

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where Linux tells of locks, by device and inode, without anybody taking them.
_LOCKS = Path("/proc/locks")


class Volume(Record):
    """A volume: how large it may become and what it takes of the host's disk, both in bytes."""

    name: str
    path: Path
    size: int
    used: int
    in_use: bool


def open_volume(path: Path, search_path: str) -> int:
    """Open the volume at path, made if there is none, and lock it, as ``open_disk`` does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        if not os.path.lexists(path):
            make_disk(DiskFile(path), search_path)
        fd = open_regular(path, os.O_RDWR)
        try:
            _lock(fd, path)
            if is_at(fd, path):
                check_disk(fd, path)
                return fd
        except BaseException:
            os.close(fd)
            raise
        # It was removed, and perhaps made again, before it was locked.
        os.close(fd)


def create_volume(volumes: Path, name: str, size: int | None, search_path: str) -> None:
    """Make the volume name of size MiB; InputError if there is one, or it is no name."""
    path = volumes / check_volume_name(name)
    if os.path.lexists(path):
        raise InputError(f"there is a volume {name} already; remove it first, or choose another")
    volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(volumes)
    make_disk(DiskFile(path, size), search_path)


def list_volumes(volumes: Path) -> list[Volume]:
    """Return the volumes by name."""
    locked = _locked()
    return sorted(_found(volumes, locked), key=lambda volume: volume.name)


def remove_volume(volumes: Path, name: str) -> None:
    """Remove the volume name; NotFoundError if there is none, InputError if a VM uses it."""
    path = volumes / check_volume_name(name)
    if not path.is_file() or path.is_symlink():
        names = ", ".join(volume.name for volume in list_volumes(volumes))
        raise NotFoundError(f"there is no volume {name}; there are: {names or 'none'}")
    fd = open_regular(path)
    try:
        _lock(fd, path)
        # Who opened it before the lock was free finds it gone, and makes another.
        if is_at(fd, path):
            path.unlink()
    finally:
        os.close(fd)


def _found(volumes: Path, locked: set[tuple[int, int, int]]) -> Iterator[Volume]:
    with suppress(FileNotFoundError):
        for path in volumes.iterdir():
            with suppress(InputError, FileNotFoundError):
                check_volume_name(path.name)
                status = path.stat(follow_symlinks=False)
                device = status.st_dev
                key = (os.major(device), os.minor(device), status.st_ino)
                yield Volume(path.name, path, status.st_size, status.st_blocks * 512, key in locked)


def _locked() -> set[tuple[int, int, int]]:
    """Return (major, minor, inode) of each file that somebody has locked as a whole."""
    try:
        text = _LOCKS.read_text()
    except OSError:
        return set()
    found = re.findall(r"FLOCK\s+ADVISORY\s+\w+\s+\S+\s+([0-9a-f]+):([0-9a-f]+):(\d+)", text)
    return {(int(major, 16), int(minor, 16), int(inode)) for major, minor, inode in found}


def _lock(fd: int, path: Path) -> None:
    if not try_lock(fd):
        raise InputError(f"the volume {path.name} is in use by another VM; stop that one first")
