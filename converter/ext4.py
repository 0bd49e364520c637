"""The ext4 writer: metadata around file data that is already in place.

Sources: fs/ext4/ext4.h of Linux and its documentation. The layout is chosen for DAX, for reading
only, and for every kernel from 5.15: 4 KiB blocks, extents, no journal, no checksums, no inline
data, and no block more than is needed. The root has no lost+found: an image holds the container's
tree alone, and e2fsck makes one where it needs it.

    block 0          superblock at byte 1024
    blocks 1..       group descriptors, then metadata as far as it fits
    block 512..      file data
    behind it        the rest of the metadata
    end              padded to 2 MiB, as persistent memory wants it

Metadata are the block and inode bitmaps, the inode table, and for each inode that needs it
directory blocks or a long symlink's target, extent tree nodes, and extended attributes.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.ext4_directories import encode_directory
from hyperbuild.converter.ext4_groups import (
    FIRST_INODE,
    ROOT_INODE,
    SUPERBLOCK_OFFSET,
    Geometry,
    encode_groups,
    encode_superblock,
    plan,
)
from hyperbuild.converter.ext4_inodes import (
    INODE_SIZE,
    LINK_LIMIT,
    Placed,
    encode_extents,
    encode_inode,
    measure,
)
from hyperbuild.converter.extents import BLOCK_SIZE, write_failure
from hyperbuild.converter.ondisk import (
    EXT4_DATA_BLOCK,
    FILE_TYPE,
    IMAGE_ALIGNMENT,
    write_pieces,
)
from hyperbuild.converter.tree import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperbuild.converter.tree import Inode


def write_ext4(
    fd: int,
    root: Inode,
    first_free: int,
    *,
    uuid: bytes,
    build_time: int,
    settled: Callable[[int], None],
) -> int:
    """Write superblock and metadata around the file data; return the size in bytes.

    The data of regular files lies in fd already, at their ``block``, between EXT4_DATA_BLOCK and
    first_free, no block in two files. build_time is in seconds since the epoch, uuid has 16 bytes;
    settled is told up to which offset the file is final. ContentError names the file that the
    format cannot hold. Times before 1901 and after 2310 become the nearest in range.
    """
    placed = _place(root)
    last_inode = max(placed[-1].number, FIRST_INODE - 1)
    unused = _unused(placed, first_free)
    adding = [item for item in placed if item.added_blocks]
    geometry, starts = plan(
        last_inode, [item.added_blocks for item in adding], first_free, unused
    )  # fmt: skip
    for item, start in zip(adding, starts, strict=True):
        item.block = start
    image_size = geometry.blocks * BLOCK_SIZE
    image_size += -image_size % IMAGE_ALIGNMENT
    numbers = {item.inode: item.number for item in placed}
    before = [item for item in adding if item.block < EXT4_DATA_BLOCK]
    behind = [item for item in adding if item.block >= EXT4_DATA_BLOCK]
    superblock = encode_superblock(geometry, last_inode, uuid=uuid, build_time=build_time)
    try:
        os.ftruncate(fd, image_size)
        os.pwrite(fd, superblock, SUPERBLOCK_OFFSET)
        write_pieces(fd, 0, encode_groups(geometry, last_inode, _directories(placed, geometry)))
        write_pieces(fd, 0, _added(before, numbers))
        if geometry.inode_table >= EXT4_DATA_BLOCK:
            settled(first_free * BLOCK_SIZE)
        write_pieces(fd, geometry.inode_table * BLOCK_SIZE, _inode_table(placed))
        write_pieces(fd, 0, _added(behind, numbers))
        settled(image_size)
    except OSError as error:
        raise write_failure(error) from error
    return image_size


def _place(root: Inode) -> list[Placed]:
    """Number every inode: the root, then the children of each directory side by side."""
    top = Placed(root, ROOT_INODE, ROOT_INODE, 2)
    placed = [top]
    by_inode = {root: top}
    number = FIRST_INODE
    try:
        for item in placed:  # grows while it is walked: breadth first, without recursion
            inode = item.inode
            measure(item)
            if inode.children is None:
                continue
            for name in sorted(inode.children):
                child = inode.children[name]
                known = by_inode.get(child)
                if known:
                    known.links += 1
                    continue
                links = 1
                if child.children is not None:
                    links = 2
                    item.links += 1
                known = by_inode[child] = Placed(child, number, item.number, links)
                placed.append(known)
                number += 1
    except ContentError as error:
        raise _blamed(error, root, inode) from None
    for item in placed:
        if item.links > LINK_LIMIT and item.directory is None:
            problem = ContentError(f"{item.links} hard links; ext4 holds {LINK_LIMIT}")
            raise _blamed(problem, root, item.inode)
    return placed


def _blamed(error: ContentError, root: Inode, culprit: Inode) -> ContentError:
    """Return error with the culprit's path in front."""
    path = next(path for path, inode in walk(root) if inode is culprit)
    return ContentError(f"/{printable(path)}: {error}")


def _unused(placed: list[Placed], first_free: int) -> list[tuple[int, int]]:
    """Return the runs (start, end) between file data that no file has."""
    extents = sorted((item.inode.block, item.file_blocks) for item in placed if item.file_blocks)
    extents.append((first_free, 0))
    runs = []
    position = EXT4_DATA_BLOCK
    for block, count in extents:
        if block > position:
            runs.append((position, block))
        position = block + count
    return runs


def _directories(placed: list[Placed], geometry: Geometry) -> list[int]:
    """Count the directories among each group's inodes."""
    counts = [0] * geometry.groups
    for item in placed:
        if item.directory is not None:
            counts[(item.number - 1) // geometry.inodes_per_group] += 1
    return counts


def _inode_table(placed: list[Placed]) -> Iterator[tuple[int, bytes]]:
    for item in placed:
        yield (item.number - 1) * INODE_SIZE, encode_inode(item)


def _added(adding: list[Placed], numbers: dict[Inode, int]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of everything that lies in blocks of its own."""
    for item in adding:
        blocks = _content(item, numbers)
        _, nodes = encode_extents(item)
        xattrs = [item.xattrs.block] if item.xattrs.block else []
        yield item.block * BLOCK_SIZE, b"".join((*blocks, *nodes, *xattrs))


def _content(item: Placed, numbers: dict[Inode, int]) -> list[bytes]:
    """Return the blocks of a directory or of a long symlink."""
    children = item.inode.children
    if item.directory is None or children is None:
        return [item.inode.target.ljust(BLOCK_SIZE, b"\0")] if item.content_blocks else []

    def entry(name: bytes) -> tuple[int, int]:
        child = children[name]
        return numbers[child], FILE_TYPE[stat.S_IFMT(child.mode)]

    return encode_directory(item.directory, item.number, item.parent, entry)
