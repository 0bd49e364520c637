"""A blob on its way into the store: locked by one writer, verified as it grows, resumed if cut."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hyperbuild.converter import files, oci
from hyperbuild.converter.errors import HyperbuildError, UnavailableError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hyperbuild.converter.arrival import Arrival
    from hyperbuild.converter.progress import Task

_REHASH_BYTES = 1 << 20
_POLL_SECONDS = 0.05


class CancelledError(HyperbuildError):
    """The work was given up because another part of it failed, or because the user asked."""


def never() -> bool:
    """Tell that the work goes on: the default of every ``cancelled`` parameter."""
    return False


class Partial:
    """The file path, open and locked by this process as ``fd``."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._told = 0
        self._arrival: Arrival | None = None

    def receive(
        self,
        descriptor: oci.Descriptor,
        fetch: Callable[[int], Iterable[bytes]],
        task: Task,
        cancelled: Callable[[], bool],
        arrival: Arrival | None = None,
    ) -> None:
        """Fill the file with the blob of descriptor, the rest of it coming from fetch(offset).

        Bytes that fail verification are not kept. If some were there before, they may be the wrong
        ones, so the blob is then fetched once more from its start. arrival is told of a blob that
        comes from its start at once.
        """
        kept = os.fstat(self.fd).st_size
        self._arrival = None if kept else arrival
        if self._arrival:
            self._arrival.begins(self.fd)
        try:
            try:
                self._complete(descriptor, fetch, task, cancelled)
            except VerificationError:
                if not kept:
                    raise
                os.ftruncate(self.fd, 0)
                task.advance(-self._told)
                self._told = 0
                self._complete(descriptor, fetch, task, cancelled)
        except VerificationError:
            self.discard()
            raise

    def publish(self, target: Path) -> None:
        """Give the complete file its name, durably."""
        target.parent.mkdir(parents=True, exist_ok=True)
        files.publish(self.fd, self.path, target)

    def discard(self) -> None:
        """Remove what was received."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _complete(
        self,
        descriptor: oci.Descriptor,
        fetch: Callable[[int], Iterable[bytes]],
        task: Task,
        cancelled: Callable[[], bool],
    ) -> None:
        digest = oci.hasher(descriptor.digest)
        position = 0
        if os.fstat(self.fd).st_size > descriptor.size:
            os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        while piece := os.read(self.fd, _REHASH_BYTES):
            digest.update(piece)
            position += len(piece)
            self._tell(task, len(piece))
        for piece in fetch(position) if position < descriptor.size else ():
            if cancelled():
                raise CancelledError("cancelled")
            position += len(piece)
            if position > descriptor.size:
                break
            digest.update(piece)
            self._append(piece)
            self._tell(task, len(piece))
            if self._arrival:
                self._arrival.has(position)
        check(descriptor, position, digest.hexdigest())

    def _tell(self, task: Task, amount: int) -> None:
        self._told += amount
        task.advance(amount)

    def _append(self, piece: bytes) -> None:
        try:
            files.write_all(self.fd, piece)
        except OSError as error:
            self.discard()
            raise _write_error(self.path, error) from error


def check(descriptor: oci.Descriptor, size: int, hexdigest: str) -> None:
    """Raise VerificationError unless size (bytes seen) and hexdigest are what was declared."""
    if size != descriptor.size:
        seen = f"has more than {descriptor.size}" if size > descriptor.size else f"ends at {size}"
        raise VerificationError(
            f"blob {descriptor.digest} {seen} bytes, {descriptor.size} are declared; "
            "the image is damaged where it is kept: push it again"
        )
    if hexdigest != descriptor.digest.partition(":")[2]:
        raise VerificationError(
            f"blob {descriptor.digest} has other bytes (their digest is {hexdigest}); "
            "the image is damaged where it is kept: push it again"
        )


@contextmanager
def partial(
    path: Path, done: Callable[[], bool], cancelled: Callable[[], bool]
) -> Iterator[Partial | None]:
    """Open path and lock it, waiting for another writer; None once done() says it is not needed.

    CancelledError if cancelled() says so while waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while not done():
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            # A file whose writer has just renamed or removed it is not the one that path names.
            if files.try_lock(fd) and files.is_at(fd, path):
                # The one who held the lock may have finished between done() and the lock.
                if not done():
                    yield Partial(path, fd)
                    return
                path.unlink()
        finally:
            os.close(fd)
        if cancelled():
            raise CancelledError("cancelled")
        time.sleep(_POLL_SECONDS)
    yield None


def sweep(directory: Path, before: float) -> None:
    """Remove the partial files that no process writes and whose last write was before a time.

    The time is in seconds since the epoch.
    """
    for path in directory.glob("*-*") if directory.is_dir() else ():
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_mtime < before and files.try_lock(fd):
                    path.unlink()
            finally:
                os.close(fd)


def _write_error(path: Path, error: OSError) -> UnavailableError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(
            f"the disk is full at {path.parent.parent}; free space or remove images from the store"
        )
    return UnavailableError(f"cannot write {path}: {error.strerror or error}")
