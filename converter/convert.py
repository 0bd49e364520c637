"""An image in, a root file system out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hyperbuild.converter.erofs import FIRST_DATA_BLOCK, write_erofs
from hyperbuild.converter.extents import BLOCK_SIZE
from hyperbuild.converter.flatten import flatten

if TYPE_CHECKING:
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import Tree


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
    epoch: int | None,
    progress: Progress,
) -> Rootfs:
    """Flatten image and write it into the empty file fd as EROFS.

    epoch (seconds) stands for times the layers don't give; by default it is when the image was
    created. The bytes depend on the image and epoch alone. Errors as for ``flatten``.
    """
    if epoch is None:
        epoch = _created(image.config.created)
    flat = flatten(image, source, fd, first_block=FIRST_DATA_BLOCK, epoch=epoch, progress=progress)
    identity = "\n".join(("erofs", str(epoch), *image.config.diff_ids))
    size = write_erofs(
        fd,
        flat.tree.root,
        flat.next_block,
        uuid=hashlib.sha256(identity.encode()).digest()[:16],
        build_time=epoch,
    )
    return Rootfs(fd, size, flat.tree)


def _created(text: str) -> int:
    """Read the config's RFC 3339 ``created``; 0 if it is missing or unreadable (it is optional)."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp()))
