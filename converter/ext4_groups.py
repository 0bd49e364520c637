"""The frame of an ext4: superblock, block groups, bitmaps, and where everything finds its place.

Source: struct ext4_super_block and ext4_group_desc in fs/ext4/ext4.h of Linux. Groups keep nothing
of their own (feature flex_bg): file data runs on over their borders. There is one superblock
(sparse_super2 without backups), followed by the group descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack_into
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.ext4_directories import HASH_VERSION
from hyperbuild.converter.ext4_inodes import EXTRA_SIZE, INODE_SIZE
from hyperbuild.converter.extents import BLOCK_SIZE
from hyperbuild.converter.ondisk import EXT4_DATA_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Inodes 1 to 10 are spoken for; number 2 is the root.
ROOT_INODE, FIRST_INODE = 2, 11
INODES_PER_BLOCK = BLOCK_SIZE // INODE_SIZE

_BITS = BLOCK_SIZE * 8
_DESCRIPTOR = Struct("<IIIHHHHIHHHH")
_DESCRIPTORS_PER_BLOCK = BLOCK_SIZE // _DESCRIPTOR.size
_GROUP_LIMIT = (EXT4_DATA_BLOCK - 1) * _DESCRIPTORS_PER_BLOCK
#: Where the superblock lies, in bytes.
SUPERBLOCK_OFFSET = 1024
_MAGIC, _VALID, _CONTINUE, _DYNAMIC = 0xEF53, 1, 1, 1
_COMPAT = 0x8 | 0x20 | 0x200  # ext_attr, dir_index, sparse_super2
_INCOMPAT = 0x2 | 0x40 | 0x200  # filetype, extents, flex_bg
_RO_COMPAT = 0x2 | 0x8 | 0x20 | 0x40  # large_file, huge_file, dir_nlink, extra_isize
_MOUNT_OPTIONS = 0x4 | 0x8  # user_xattr, acl
_NEVER = 0xFFFF
_UNSIGNED_HASH = 2
_LOG_GROUPS_PER_FLEX = 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """An ext4's measures, in blocks; ``free`` are the runs (start, end) that nothing lies in."""

    groups: int
    blocks_per_group: int
    inodes_per_group: int
    blocks: int
    bitmaps: int
    inode_table: int
    free: list[tuple[int, int]]


def plan(
    inodes: int, requests: Sequence[int], first_free: int, unused: list[tuple[int, int]]
) -> tuple[Geometry, list[int]]:
    """Find room for groups, an inode table and the requested runs of blocks, in and behind data.

    inodes counts the reserved ones; unused are runs between file data that nothing lies in. Returns
    the geometry and the first block of each request. ContentError over 8 TiB.
    """
    groups = 1
    while True:
        if groups > _GROUP_LIMIT:
            raise ContentError("the image is larger than 8 TiB; use the format erofs")
        rounded = -(-inodes // groups)
        per_group = rounded + -rounded % INODES_PER_BLOCK
        room = _Room(1 + -(-groups // _DESCRIPTORS_PER_BLOCK), first_free)
        bitmaps = room.take(2 * groups)
        table = room.take(groups * per_group // INODES_PER_BLOCK)
        starts = [room.take(count) for count in requests]
        needed = max(-(-room.end // _BITS), -(-inodes // _BITS))
        if needed <= groups:
            break
        groups = needed
    group_blocks = _BITS
    if -(-room.end // _BITS) < groups:
        # More groups than blocks ask for, for the sake of inodes: smaller ones.
        group_blocks = -(-room.end // groups)
        group_blocks += -group_blocks % 8
    blocks = max(room.end, (groups - 1) * group_blocks + 1)
    free = [*room.rest(), *unused]
    if blocks > room.end:
        free.append((room.end, blocks))
    return Geometry(groups, group_blocks, per_group, blocks, bitmaps, table, free), starts


class _Room:
    """Blocks to give out: those before the file data as far as they suffice, then those behind."""

    def __init__(self, first: int, behind: int) -> None:
        has_data = behind > EXT4_DATA_BLOCK
        self._next = first
        self._border = EXT4_DATA_BLOCK if has_data else first
        self.end = behind if has_data else first

    def take(self, count: int) -> int:
        if self._next + count <= self._border:
            self._next += count
            return self._next - count
        self.end += count
        return self.end - count

    def rest(self) -> list[tuple[int, int]]:
        """Return the run before the file data that was not given out, if any."""
        return [(self._next, self._border)] if self._next < self._border else []


def encode_groups(
    geometry: Geometry, last_inode: int, directories: list[int]
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of descriptors and bitmaps.

    Inodes are in use up to last_inode; directories counts those of each group.
    """
    size = geometry.blocks_per_group
    free_of: dict[int, list[tuple[int, int]]] = {}
    for start, end in geometry.free:
        for group in range(start // size, -(-end // size)):
            base = group * size
            free_of.setdefault(group, []).append(
                (max(start, base) - base, min(end, base + size) - base)
            )
    descriptors = bytearray()
    inodes = geometry.inodes_per_group
    for group in range(geometry.groups):
        free = free_of.get(group, [])
        used = min(max(last_inode - group * inodes, 0), inodes)
        descriptors += _DESCRIPTOR.pack(
            geometry.bitmaps + group,
            geometry.bitmaps + geometry.groups + group,
            geometry.inode_table + group * (inodes // INODES_PER_BLOCK),
            sum(end - start for start, end in free),
            inodes - used,
            directories[group],
            0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        yield (geometry.bitmaps + group) * BLOCK_SIZE, _bitmap(free)
        yield (geometry.bitmaps + geometry.groups + group) * BLOCK_SIZE, _bitmap([(used, inodes)])
    yield BLOCK_SIZE, bytes(descriptors)


def _bitmap(free: list[tuple[int, int]]) -> bytes:
    """Return a block of ones but for the runs (start, end); what is out of range counts as used."""
    bits = (1 << _BITS) - 1
    for start, end in free:
        bits ^= ((1 << end - start) - 1) << start
    return bits.to_bytes(BLOCK_SIZE, "little")


def encode_superblock(
    geometry: Geometry, last_inode: int, *, uuid: bytes, build_time: int
) -> bytes:
    """Return the superblock; build_time is in seconds since the epoch."""
    inodes = geometry.groups * geometry.inodes_per_group
    log_size = BLOCK_SIZE.bit_length() - 11
    fields = (
        (0x00, "I", inodes),
        (0x04, "I", geometry.blocks),
        (0x0C, "I", sum(end - start for start, end in geometry.free)),
        (0x10, "I", inodes - last_inode),
        (0x18, "I", log_size),
        (0x1C, "I", log_size),
        (0x20, "I", geometry.blocks_per_group),
        (0x24, "I", geometry.blocks_per_group),
        (0x28, "I", geometry.inodes_per_group),
        (0x36, "H", _NEVER),
        (0x38, "H", _MAGIC),
        (0x3A, "H", _VALID),
        (0x3C, "H", _CONTINUE),
        (0x4C, "I", _DYNAMIC),
        (0x54, "I", FIRST_INODE),
        (0x58, "H", INODE_SIZE),
        (0x5C, "I", _COMPAT),
        (0x60, "I", _INCOMPAT),
        (0x64, "I", _RO_COMPAT),
        (0x68, "16s", uuid),
        (0xFC, "B", HASH_VERSION),
        (0x100, "I", _MOUNT_OPTIONS),
        (0x108, "I", build_time & 0xFFFFFFFF),
        (0x15C, "H", EXTRA_SIZE),
        (0x15E, "H", EXTRA_SIZE),
        (0x160, "I", _UNSIGNED_HASH),
        (0x174, "B", _LOG_GROUPS_PER_FLEX),
        (0x276, "B", build_time >> 32 & 0xFF),
    )
    superblock = bytearray(1024)
    for offset, form, value in fields:
        pack_into(f"<{form}", superblock, offset, value)
    return bytes(superblock)
