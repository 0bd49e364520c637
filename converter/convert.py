"""An image in, a root file system out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hyperbuild.converter import erofs, ext4
from hyperbuild.converter.extents import BLOCK_SIZE
from hyperbuild.converter.flatten import flatten
from hyperbuild.converter.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from typing import Protocol

    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import Inode, Tree

    class Writer(Protocol):
        """What writes one format."""

        def __call__(
            self, fd: int, root: Inode, first_free: int, *, uuid: bytes, build_time: int
        ) -> int:
            """Write metadata around root's file data in fd; return the image's size in bytes."""


@dataclass(frozen=True, slots=True)
class Format:
    """A root file system's format: where file data begins, and what writes the metadata."""

    name: str
    first_data_block: int
    write: Writer


#: The formats by name; the first is the default.
FORMATS = {
    known.name: known
    for known in (
        Format("erofs", erofs.FIRST_DATA_BLOCK, erofs.write_erofs),
        Format("ext4", ext4.FIRST_DATA_BLOCK, ext4.write_ext4),
    )
}


@dataclass(frozen=True, slots=True)
class Rootfs:
    """A root file system of size bytes, written into the file descriptor ``fd``."""

    fd: int
    size: int
    tree: Tree

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        """Return up to limit bytes of a regular file, symlinks followed inside the image."""
        inode = self.tree.lookup(path)
        if inode is None or inode.is_directory or inode.is_symlink:
            return None
        if not inode.size:
            return b""
        return os.pread(self.fd, min(limit, inode.size), inode.block * BLOCK_SIZE)

    def digest(self) -> str:
        """Return the sha256 digest of the whole file system."""
        with os.fdopen(os.dup(self.fd), "rb") as file:
            file.seek(0)
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def convert(
    image: SourceImage,
    source: ImageSource,
    fd: int,
    *,
    rootfs_format: Format,
    epoch: int | None,
    progress: Progress,
    limits: Limits = DEFAULT_LIMITS,
) -> Rootfs:
    """Flatten image and write it into the empty file fd in the format wanted.

    epoch (seconds) stands for times the layers don't give; by default it is when the image was
    created. The bytes depend on the image, the format and epoch alone. Errors as for ``flatten``.
    """
    epoch = default_epoch(image) if epoch is None else epoch
    first_block = rootfs_format.first_data_block
    flat = flatten(
        image, source, fd,
        first_block=first_block, epoch=epoch, progress=progress, limits=limits,
    )  # fmt: skip
    identity = "\n".join((rootfs_format.name, str(epoch), *image.config.diff_ids))
    size = rootfs_format.write(
        fd,
        flat.tree.root,
        flat.next_block,
        uuid=hashlib.sha256(identity.encode()).digest()[:16],
        build_time=epoch,
    )
    return Rootfs(fd, size, flat.tree)


def default_epoch(image: SourceImage) -> int:
    """Read the config's RFC 3339 ``created``; 0 if it is missing or unreadable (it is optional)."""
    try:
        moment = datetime.fromisoformat(image.config.created)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp()))
