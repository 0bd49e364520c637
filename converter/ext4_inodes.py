"""Inodes as ext4 keeps them: 256 bytes, times to the nanosecond, data mapped by extents.

Source: struct ext4_inode in fs/ext4/ext4.h and fs/ext4/ext4_extents.h of Linux.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from hyperbuild.converter.ext4_directories import plan_directory
from hyperbuild.converter.ext4_xattrs import INLINE_SIZE, NO_XATTRS, Xattrs, encode_xattrs
from hyperbuild.converter.extents import BLOCK_SIZE
from hyperbuild.converter.ondisk import encode_device

if TYPE_CHECKING:
    from hyperbuild.converter.ext4_directories import Directory
    from hyperbuild.converter.tree import Inode

INODE_SIZE = 256
#: Bytes of an inode's fields behind the first 128.
EXTRA_SIZE = 32
#: Most links of one inode; a directory of more subdirectories says 1 (feature dir_nlink).
LINK_LIMIT = 65_000
#: The times, in seconds since the epoch, that an inode may say: 1901 to 2310. It has room up to
#: 2446, but what lies behind 2310 e2fsck takes for times before 1970 that an old kernel wrote.
EARLIEST, LATEST = -(1 << 31), 5 * (1 << 31) - 1

_INODE = Struct(f"<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII{INLINE_SIZE}s")
_INDEX_FLAG, _EXTENTS_FLAG = 0x1000, 0x80000
_FAST_TARGET_LIMIT = 60
_EXTENT_HEADER = Struct("<HHHHI")
_EXTENT_MAGIC = 0xF30A
_EXTENT = Struct("<IHHI")
_EXTENT_INDEX = Struct("<IIHH")
_EXTENT_BLOCKS = 1 << 15
_ROOT_EXTENTS = 4
_NODE_EXTENTS = (BLOCK_SIZE - _EXTENT_HEADER.size) // _EXTENT.size
_SECTORS = BLOCK_SIZE // 512


@dataclass(slots=True)
class Placed:
    """An inode with its number, and the ``added_blocks`` that the writer lays from ``block`` on.

    These are, in this order: a directory's or a long symlink's content (``content_blocks``), extent
    tree nodes, xattrs. A regular file's own ``file_blocks`` lie elsewhere.
    """

    inode: Inode
    number: int
    parent: int
    links: int
    xattrs: Xattrs = NO_XATTRS
    directory: Directory | None = None
    file_blocks: int = 0
    content_blocks: int = 0
    added_blocks: int = 0
    block: int = 0


def measure(item: Placed) -> None:
    """Fill in what an inode needs besides its 256 bytes; ContentError if it cannot be encoded."""
    inode = item.inode
    kind = stat.S_IFMT(inode.mode)
    if inode.xattrs:
        item.xattrs = encode_xattrs(inode.xattrs)
    if inode.children is not None:
        item.directory = plan_directory(inode.children)
        item.content_blocks = item.directory.blocks
    elif kind == stat.S_IFREG:
        item.file_blocks = -(-inode.size // BLOCK_SIZE)
    elif kind == stat.S_IFLNK:
        item.content_blocks = int(len(inode.target) >= _FAST_TARGET_LIMIT)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        encode_device(*inode.device)
    nodes = _count_nodes(item.file_blocks or item.content_blocks)
    item.added_blocks = item.content_blocks + nodes + bool(item.xattrs.block)


def _count_nodes(blocks: int) -> int:
    """Return how many tree nodes outside the inode map a run of that many blocks."""
    level = -(-blocks // _EXTENT_BLOCKS)
    nodes = 0
    while level > _ROOT_EXTENTS:
        level = -(-level // _NODE_EXTENTS)
        nodes += level
    return nodes


def encode_extents(item: Placed) -> tuple[bytes, list[bytes]]:
    """Map the blocks of item's content; return the inode's part and the tree nodes outside it."""
    first, count = item.block, item.content_blocks
    nodes_at = first + count
    if item.file_blocks:
        first, count = item.inode.block, item.file_blocks
    if 0 < count <= _EXTENT_BLOCKS:
        header = _EXTENT_HEADER.pack(_EXTENT_MAGIC, 1, _ROOT_EXTENTS, 0, 0)
        return header + _EXTENT.pack(0, count, 0, first), []
    starts = list(range(0, count, _EXTENT_BLOCKS))
    entries = [_EXTENT.pack(at, min(_EXTENT_BLOCKS, count - at), 0, first + at) for at in starts]
    nodes: list[bytes] = []
    depth = 0
    while len(entries) > _ROOT_EXTENTS:
        parents = []
        for at in range(0, len(entries), _NODE_EXTENTS):
            part = entries[at : at + _NODE_EXTENTS]
            parents.append(_EXTENT_INDEX.pack(starts[at], nodes_at + len(nodes), 0, 0))
            header = _EXTENT_HEADER.pack(_EXTENT_MAGIC, len(part), _NODE_EXTENTS, depth, 0)
            nodes.append((header + b"".join(part)).ljust(BLOCK_SIZE, b"\0"))
        entries, starts = parents, starts[::_NODE_EXTENTS]
        depth += 1
    header = _EXTENT_HEADER.pack(_EXTENT_MAGIC, len(entries), _ROOT_EXTENTS, depth, 0)
    return header + b"".join(entries), nodes


def encode_inode(item: Placed) -> bytes:
    """Return the inode's 256 bytes."""
    inode = item.inode
    flags, size, pointers = _content(item)
    added = item.added_blocks
    sectors = (item.file_blocks + added) * _SECTORS
    xattr_block = item.block + added - 1 if item.xattrs.block else 0
    seconds, extra = _encode_time(inode.mtime, inode.mtime_ns)
    return _INODE.pack(
        inode.mode, inode.uid & 0xFFFF, size & 0xFFFFFFFF,
        seconds, seconds, seconds, 0,
        inode.gid & 0xFFFF, item.links if item.links <= LINK_LIMIT else 1,
        sectors & 0xFFFFFFFF, flags, 0,
        pointers,
        0, xattr_block, size >> 32, 0,
        sectors >> 32, 0, inode.uid >> 16, inode.gid >> 16, 0, 0,
        EXTRA_SIZE, 0, extra, extra, extra, seconds, extra, 0, 0,
        item.xattrs.inline,
    )  # fmt: skip


def _content(item: Placed) -> tuple[int, int, bytes]:
    """Return flags, size, and the 60 bytes that say where the content is."""
    inode = item.inode
    kind = stat.S_IFMT(inode.mode)
    if item.directory is not None:
        flags = _EXTENTS_FLAG | (_INDEX_FLAG if item.directory.is_indexed else 0)
        return flags, item.content_blocks * BLOCK_SIZE, encode_extents(item)[0]
    if kind == stat.S_IFREG:
        return _EXTENTS_FLAG, inode.size, encode_extents(item)[0]
    if kind == stat.S_IFLNK:
        if item.content_blocks:
            return _EXTENTS_FLAG, len(inode.target), encode_extents(item)[0]
        return 0, len(inode.target), inode.target
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return 0, 0, _encode_device(*inode.device)
    return 0, 0, b""


def _encode_device(major: int, minor: int) -> bytes:
    """Return an old 16-bit number in the first word, or a new one in the second."""
    number = encode_device(major, minor)
    if major < 1 << 8 and minor < 1 << 8:
        return number.to_bytes(4, "little")
    return bytes(4) + number.to_bytes(4, "little")


def _encode_time(seconds: int, nanoseconds: int) -> tuple[int, int]:
    """Return the low 32 bits, and the word with nanoseconds over two bits of epoch.

    Times out of range become the nearest in it, as the kernel does.
    """
    if not EARLIEST <= seconds <= LATEST:
        seconds, nanoseconds = (EARLIEST if seconds < EARLIEST else LATEST), 0
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | (seconds - EARLIEST >> 32)
