"""What both formats share: type codes, device numbers, and the way metadata are written."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.extents import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where file data may begin. EROFS has its superblock in block 0; ext4 keeps the 2 MiB before for
#: superblock, descriptors and other metadata.
EROFS_DATA_BLOCK = 1
EXT4_DATA_BLOCK = (2 << 20) // BLOCK_SIZE
#: The image's size is a multiple of this: persistent memory is mapped in huge pages.
IMAGE_ALIGNMENT = 2 << 20
#: st_mode's type bits -> the type in a directory entry.
FILE_TYPE = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_FLUSH_SIZE = 1 << 20


def encode_device(major: int, minor: int) -> int:
    """Pack a device number as Linux does on disk (new_encode_dev: 12 bits major, 20 minor)."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise ContentError(f"the device number {major}:{minor} is out of Linux's range")
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def write_pieces(fd: int, start: int, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write (offset from start, bytes) pieces into fd, neighbours in one go.

    Fastest when offsets ascend. Gaps of less than a block become zeros. OSError as os.pwrite.
    """
    pending = bytearray()
    base = 0
    for offset, piece in pieces:
        gap = offset - base - len(pending)
        if len(pending) > _FLUSH_SIZE or not 0 <= gap < BLOCK_SIZE:
            _write(fd, pending, start + base)
            pending.clear()
            base, gap = offset, 0
        pending += bytes(gap)
        pending += piece
    _write(fd, pending, start + base)


def _write(fd: int, data: bytearray, offset: int) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
