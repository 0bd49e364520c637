"""Files that are there whole or not at all, and locks that a killed process gives back.

Every temporary name starts with a dot and is locked (flock) by its writer while it lives, so that
the next run can tell what a killed one left behind from what a running one is writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, NotFoundError, UnavailableError
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPORARY_PREFIX = ".hyperbuild-"
#: Errors of copy_file_range that mean: not between these two files.
_NOT_SHARED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_COPIED = 1 << 20
#: CLOCK_REALTIME_COARSE of Linux, which files are stamped with; and the milliseconds that it may
#: stand still, and more: a file server's clock may be ahead.
_COARSE_CLOCK = 5
_TICKS = 20
#: What a disk answers to a write that it cannot do.
_WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class Identity(Record):
    """What tells a file from any other and from itself after a change, as ``make`` and git do it.

    Every write moves its change time, which no program can set back.
    """

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: int | Path, path: str) -> Identity:
        """Return the identity of an open file or of the file at a path, called path."""
        found = os.fstat(file) if isinstance(file, int) else file.lstat()
        return cls(
            path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )

    def open(self) -> int | None:
        """Open the file for reading; None if it is gone or was touched."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        if Identity.of(fd, self.path) == self:
            return fd
        os.close(fd)
        return None

    def settle(self) -> None:
        """Wait until any further change would be seen: the clock of change times is coarse.

        That is a few milliseconds, for what was changed just now.
        """
        for _ in range(_TICKS):
            if time.clock_gettime_ns(_COARSE_CLOCK) > self.ctime_ns:
                return
            time.sleep(0.001)


@contextmanager
def locked(path: Path, *, passing: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on the file or directory path (a missing file is made).

    Blocks until it is free. The lock dies with the process; the lock file stays, unless it is a
    passing one. FileNotFoundError if path was a directory and is removed meanwhile.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    while True:
        fd = os.open(path, flags, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Once removed it is nobody's lock: others may hold its successor.
            if os.fstat(fd).st_nlink:
                try:
                    yield
                finally:
                    if passing:
                        path.unlink(missing_ok=True)
                return
        finally:
            os.close(fd)


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock on the file path (made if it is missing) that only ``locked`` excludes.

    Blocks while somebody holds that. Where the file can be neither opened nor made, nobody who may
    not write there can hold it either, and nothing is locked.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def is_locked(path: Path, *, alone: bool = False) -> bool:
    """Tell whether somebody has locked the file path, shared or (alone) not.

    Asked for those who have it alone, two who ask at once are not taken for one another.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if alone else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def try_lock(fd: int) -> bool:
    """Lock the open file fd for ourselves; False if somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: Path) -> bool:
    """Tell whether path names the open file fd, and not what has taken its place."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def fsync_directory(path: Path) -> None:
    """Make renames inside the directory path durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(fd: int, path: Path, target: Path) -> None:
    """Give the finished file path, open as fd, its name target (same file system), durably."""
    os.fsync(fd)
    path.rename(target)
    fsync_directory(target.parent)


class Draft:
    """A temporary file beside its place, open as ``fd``; ``publish`` gives it its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            # Another run's sweep may have come between the two calls and removed it.
            if os.fstat(self.fd).st_nlink:
                break
            os.close(self.fd)

    def publish(self, target: Path) -> None:
        """Rename to target (same file system), durably; target is replaced whole."""
        publish(self.fd, self.path, target)


@contextmanager
def draft(directory: Path) -> Iterator[Draft]:
    """Open a Draft in directory; whatever was not published by the end is removed.

    UnavailableError if what is done meanwhile fails to write.
    """
    path = directory / f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
    # The path is known before there is a file: a signal may end even the making of it.
    try:
        try:
            file = Draft(path)
        except OSError as error:
            # Nobody but us has heard of the temporary file.
            error.filename = str(directory)
            raise
        try:
            yield file
        finally:
            os.close(file.fd)
    except OSError as error:
        # A failed write knows its descriptor alone, which says nothing to anybody. Clients of the
        # network raise OSErrors too, which are theirs to explain.
        if error.filename is not None or error.errno not in _WRITE_FAILURES:
            raise
        raise UnavailableError(
            f"cannot write into {directory}: {error.strerror or error}; "
            "free some space there, or choose another place"
        ) from error
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def write_atomically(target: Path, content: bytes, directory: Path | None = None) -> None:
    """Write content as target: readers see the old file or the new one, never a part.

    directory, on the same file system, is where it lies until then; by default beside target.
    """
    with draft(directory or target.parent) as file:
        write_all(file.fd, content)
        file.publish(target)


def named_output(path: Path) -> Path:
    """Return the file that is to be replaced by output which a user wants as path: links followed.

    A rename would put a file in the place of a device, a FIFO or a link. InputError: path is
    something else than a regular file; NotFoundError: the directory for it is not there.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another file") from error
    if found and not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is no regular file, and is not replaced by one; name another")
    place = type(path)(os.path.realpath(path))
    if not place.parent.is_dir():
        raise NotFoundError(
            f"cannot write {path}: the directory {place.parent} is not there; make it first, or "
            "name another file"
        )
    return place


def write_all(fd: int, content: bytes | bytearray | memoryview) -> None:
    """Write all of content at fd's position (a short write is continued)."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def copy_range(source: int, offset: int, target: int, position: int, size: int) -> None:
    """Copy size bytes from offset of the file source to position of target.

    The disk shares them where it can; otherwise the kernel copies. OSError as os.pwrite, and if
    source ends before.
    """
    end = offset + size
    while offset < end:
        try:
            copied = os.copy_file_range(source, target, end - offset, offset, position)
        except OSError as error:
            if error.errno not in _NOT_SHARED:
                raise
            piece = os.pread(source, min(end - offset, _COPIED), offset)
            copied = os.pwrite(target, piece, position)
        if not copied:
            raise OSError(errno.EIO, "the file copied from has become shorter")
        offset += copied
        position += copied


def sweep(directory: Path) -> None:
    """Remove the temporaries in directory whose writers are gone."""
    import shutil

    for path in directory.glob(TEMPORARY_PREFIX + "*"):
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(fd)


@contextmanager
def scratch(room: Path) -> Iterator[Path]:
    """Give an empty directory in room, locked while it is used and gone afterwards.

    What killed runs have left there goes, too.
    """
    import shutil

    room.mkdir(parents=True, exist_ok=True)
    directory = room / f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
    fd = -1
    try:
        # Nobody sweeps between the making of it and its lock.
        with locked(room / ".lock"):
            sweep(room)
            directory.mkdir()
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if fd >= 0:
            os.close(fd)


def open_regular(path: Path, access: int = os.O_RDONLY) -> int:
    """Open path for access (as in open(2)) and return its descriptor.

    A FIFO, device or directory is an InputError: reading one could hang or never end.
    """
    try:
        fd = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnavailableError(f"cannot open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"{path} is not a regular file; give a file")
    return fd
