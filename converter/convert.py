"""An image in, a root file system out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from hyperbuild.converter.extents import BLOCK_SIZE, ExtentWriter
from hyperbuild.converter.flatten import Flattener
from hyperbuild.converter.limits import DEFAULT_LIMITS, Limits
from hyperbuild.converter.ondisk import EROFS_DATA_BLOCK, EXT4_DATA_BLOCK
from hyperbuild.converter.settling import Settling

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from hyperbuild.converter.flatten import Flattened
    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import Inode, Tree
    from hyperbuild.converter.verity import HashTree

    class Writer(Protocol):
        """What writes one format."""

        def __call__(
            self,
            fd: int,
            root: Inode,
            first_free: int,
            *,
            uuid: bytes,
            build_time: int,
            settled: Callable[[int], None],
        ) -> int:
            """Write metadata around root's file data in fd; return the image's size in bytes."""


@dataclass(frozen=True, slots=True)
class Format:
    """A root file system's format: where file data begins, and what writes the metadata.

    ``shares`` tells whether two files may have the same blocks; ``writer`` imports its writer, as
    a conversion needs one of them.
    """

    name: str
    first_data_block: int
    shares: bool
    writer: Callable[[], Writer]


def _erofs() -> Writer:
    from hyperbuild.converter.erofs import write_erofs

    return write_erofs


def _ext4() -> Writer:
    from hyperbuild.converter.ext4 import write_ext4

    return write_ext4


#: The formats by name; the first is the default.
FORMATS = {
    "erofs": Format("erofs", EROFS_DATA_BLOCK, shares=True, writer=_erofs),
    "ext4": Format("ext4", EXT4_DATA_BLOCK, shares=False, writer=_ext4),
}


@dataclass(frozen=True, slots=True)
class Rootfs:
    """A root file system of size bytes and its digest, written into the file descriptor ``fd``.

    ``verity`` is the dm-verity hash tree behind it, if there is one; size and digest count that in.
    """

    fd: int
    size: int
    digest: str
    flat: Flattened
    verity: HashTree | None = None

    @property
    def tree(self) -> Tree:
        """The image's tree."""
        return self.flat.tree

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        """Return up to limit bytes of a regular file, symlinks followed inside the image."""
        inode = self.tree.lookup(path)
        if inode is None or inode.is_directory or inode.is_symlink:
            return None
        if not inode.size:
            return b""
        return os.pread(self.fd, min(limit, inode.size), inode.block * BLOCK_SIZE)


def convert(
    image: SourceImage,
    source: ImageSource,
    fd: int,
    *,
    rootfs_format: Format,
    epoch: int | None,
    progress: Progress,
    limits: Limits = DEFAULT_LIMITS,
    aligns: bool = False,
    with_verity: bool = False,
    cache: LayerCache | None = None,
) -> Rootfs:
    """Flatten image and write it into the empty file fd in the format wanted.

    epoch (seconds) stands for times the layers don't give; by default it is when the image was
    created. With aligns, large files begin at multiples of HUGE_PAGE; with_verity puts a hash tree
    behind the file system. Layers that cache knows are not read. The bytes depend on the image, the
    format, epoch, aligns and with_verity alone. Errors as for ``Flattener.flatten``.
    """
    epoch = default_epoch(image) if epoch is None else epoch
    place = partial(
        ExtentWriter,
        fd,
        rootfs_format.first_data_block,
        shares=rootfs_format.shares,
        aligns=aligns,
    )
    identity = "\n".join((rootfs_format.name, str(epoch), *image.config.diff_ids)).encode()
    with Settling(fd) as settling:
        flat = Flattener(image, source, fd, place, epoch, progress, limits, cache).flatten()
        size = rootfs_format.writer()(
            fd,
            flat.tree.root,
            flat.next_block,
            uuid=hashlib.sha256(identity).digest()[:16],
            build_time=epoch,
            settled=settling.settled,
        )
        verity = None
        if with_verity:
            from hyperbuild.converter.verity import append_tree

            verity, size = append_tree(fd, size, identity)
            settling.settled(size)
        return Rootfs(fd, size, settling.digest(), flat, verity)


def default_epoch(image: SourceImage) -> int:
    """Read the config's RFC 3339 ``created``; 0 if it is missing or unreadable (it is optional)."""
    try:
        moment = datetime.fromisoformat(image.config.created)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp()))
