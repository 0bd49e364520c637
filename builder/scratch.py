"""A directory for the time of one task, in the cache: what killed runs left there goes."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hyperbuild.converter import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.builder.context import Context


@contextmanager
def scratch(context: Context) -> Iterator[Path]:
    """Give an empty directory, which is locked while it is used and gone afterwards."""
    room = context.cache / "builds"
    room.mkdir(parents=True, exist_ok=True)
    directory = room / f"{files.TEMPORARY_PREFIX}{os.urandom(8).hex()}"
    try:
        # Nobody sweeps between the making of it and its lock.
        with files.locked(room / ".lock"):
            files.sweep(room)
            directory.mkdir()
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
