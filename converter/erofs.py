"""The EROFS writer: metadata behind file data that is already in place.

Source: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux. The layout is chosen
for DAX and for every kernel from 5.15: 4 KiB blocks, extended inodes, file data in plain form
(unencoded, block-aligned). Tails of directories and symlinks lie behind their inodes, which only
metadata may do: an inlined file could not be mapped.

    block 0        superblock at byte 1024
    blocks 1..     file data
    meta_blkaddr   inodes (root first), each followed by its xattrs and tail
    behind them    the full blocks of directories
    end            padded to 2 MiB, as persistent memory wants it
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.extents import BLOCK_LIMIT, BLOCK_SIZE, write_failure
from hyperbuild.converter.ondisk import FILE_TYPE, IMAGE_ALIGNMENT, encode_device, write_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperbuild.converter.tree import Inode

_SUPERBLOCK_OFFSET = 1024
_SUPERBLOCK = Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
_MAGIC = 0xE0F5E1E2
_COMPAT_CHECKSUM, _COMPAT_MTIME = 0x1, 0x2
_INODE = Struct("<HHHHQIIIIQII16x")
_EXTENDED, _PLAIN, _INLINE = 1, 0 << 1, 2 << 1
_NO_ADDRESS = 0xFFFFFFFF
_SLOT = 32
#: The root is not at nid 0: programs take the inode number 0 for a deleted file.
_ROOT_NID = 1
_DIRENT = Struct("<QHBx")
_XATTR_HEADER_SIZE = 12
_XATTR_ENTRY = Struct("<BBH")
#: Attribute name prefix -> index; a whole name where the rest is empty.
_XATTR_PREFIXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"security.", 6),
)
_XATTR_VALUE_LIMIT = 0xFFFF
_XATTR_SIZE_LIMIT = _XATTR_HEADER_SIZE + (0xFFFF - 1) * 4
_CRC32C_POLYNOMIAL = 0x82F63B78


@dataclass(slots=True)
class _Placed:
    """An inode's place: its nid, its xattrs as bytes, and how its own content is laid out."""

    inode: Inode
    nid: int
    xattrs: bytes
    links: int
    size: int
    is_inline: bool
    block: int = _NO_ADDRESS
    parent_nid: int = 0
    dirents: list[list[bytes]] | None = None


def write_erofs(
    fd: int,
    root: Inode,
    first_free: int,
    *,
    uuid: bytes,
    build_time: int,
    settled: Callable[[int], None],
) -> int:
    """Write the superblock, and metadata from block first_free on; return the size in bytes.

    The data of regular files lies in fd already, at their ``block``. build_time is in seconds since
    the epoch, uuid has 16 bytes; settled is told up to which offset the file is final. ContentError
    if the format cannot hold the tree.
    """
    by_inode = _place(root)
    placed = list(by_inode.values())
    meta_blocks = _blocks(_end(placed[-1]))
    next_block = first_free + meta_blocks
    for item in placed:
        if item.dirents is not None or (item.inode.is_symlink and not item.is_inline):
            count = item.size // BLOCK_SIZE if item.is_inline else _blocks(item.size)
            if count:
                item.block = next_block
                next_block += count
    image_size = next_block * BLOCK_SIZE
    image_size += -image_size % IMAGE_ALIGNMENT
    if image_size > BLOCK_LIMIT * BLOCK_SIZE:
        raise ContentError("the image is larger than 16 TiB, which EROFS cannot hold")
    superblock = _superblock(
        inodes=len(placed),
        blocks=image_size // BLOCK_SIZE,
        meta_block=first_free,
        uuid=uuid,
        build_time=build_time,
    )
    try:
        os.ftruncate(fd, image_size)
        os.pwrite(fd, superblock, 0)
        settled(first_free * BLOCK_SIZE)
        write_pieces(fd, first_free * BLOCK_SIZE, _metadata(by_inode, first_free))
        settled(image_size)
    except OSError as error:
        raise write_failure(error) from error
    return image_size


def _place(root: Inode) -> dict[Inode, _Placed]:
    """Give every inode its nid: the root, then the children of each directory side by side.

    What is returned is in the order of nids.
    """
    placed: list[_Placed] = []
    by_inode: dict[Inode, _Placed] = {}
    position = _ROOT_NID * _SLOT

    def put(inode: Inode) -> _Placed:
        nonlocal position
        item = _layout(inode)
        head = _INODE.size + len(item.xattrs)
        tail = item.size % BLOCK_SIZE if item.is_inline else 0
        if tail and (position + head) % BLOCK_SIZE + tail > BLOCK_SIZE:
            # The tail may not cross a block. From the next boundary it surely does not,
            # unless the xattrs alone push it over: then it gets blocks of its own.
            aligned = position + -position % BLOCK_SIZE
            if head % BLOCK_SIZE + tail <= BLOCK_SIZE:
                position = aligned
            else:
                item.is_inline, tail = False, 0
        item.nid = position // _SLOT
        position += head + tail
        position += -position % _SLOT
        placed.append(item)
        by_inode[inode] = item
        return item

    put(root).parent_nid = _ROOT_NID
    for directory in placed:  # grows while it is walked: breadth first, without recursion
        for name in sorted(directory.inode.children or ()):
            child = directory.inode.children[name]  # type: ignore[index]
            known = by_inode.get(child)
            if known:
                known.links += 1
                continue
            item = put(child)
            if child.is_directory:
                item.parent_nid = directory.nid
                directory.links += 1
    return by_inode


def _layout(inode: Inode) -> _Placed:
    xattrs = _encode_xattrs(inode.xattrs) if inode.xattrs else b""
    if inode.children is not None:
        dirents = _split_dirents(inode.children)
        last = sum(map(len, dirents[-1])) + _DIRENT.size * len(dirents[-1])
        size = (len(dirents) - 1) * BLOCK_SIZE + last
        is_inline = size % BLOCK_SIZE != 0
        return _Placed(inode, 0, xattrs, 2, size, is_inline, dirents=dirents)
    if inode.is_symlink:
        return _Placed(inode, 0, xattrs, 1, len(inode.target), is_inline=True)
    return _Placed(inode, 0, xattrs, 1, inode.size, is_inline=False)


def _end(item: _Placed) -> int:
    tail = item.size % BLOCK_SIZE if item.is_inline else 0
    return item.nid * _SLOT + _INODE.size + len(item.xattrs) + tail


def _blocks(size: int) -> int:
    return -(-size // BLOCK_SIZE)


def _split_dirents(children: dict[bytes, Inode]) -> list[list[bytes]]:
    """Sort names bytewise, "." and ".." among them, and fill directory blocks with them."""
    blocks: list[list[bytes]] = []
    room = 0
    for name in sorted((b".", b"..", *children)):
        need = _DIRENT.size + len(name)
        if need > room:
            blocks.append([])
            room = BLOCK_SIZE
        blocks[-1].append(name)
        room -= need
    return blocks


def _encode_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    body = bytearray(_XATTR_HEADER_SIZE)
    for name, value in sorted(xattrs.items()):
        for prefix, index in _XATTR_PREFIXES:
            if name.startswith(prefix):
                suffix = name.removeprefix(prefix)
                if len(value) > _XATTR_VALUE_LIMIT:
                    raise ContentError(
                        f"an extended attribute of {len(value)} bytes; "
                        f"EROFS holds {_XATTR_VALUE_LIMIT}"
                    )
                body += _XATTR_ENTRY.pack(len(suffix), index, len(value)) + suffix + value
                body += bytes(-len(body) % 4)
                break
        else:
            raise ContentError(f"EROFS cannot hold the extended attribute {name!r}")
    if len(body) > _XATTR_SIZE_LIMIT:
        raise ContentError(
            f"{len(body)} bytes of extended attributes on one file; EROFS holds 256 KiB"
        )
    return bytes(body)


def _metadata(by_inode: dict[Inode, _Placed], meta_block: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset from meta_block, bytes) in ascending order."""
    blocks: list[tuple[int, bytes]] = []
    for number, item in enumerate(by_inode.values(), 1):
        if item.dirents is None and not item.inode.target:
            yield item.nid * _SLOT, _encode_inode(item, number) + item.xattrs
            continue
        content = _content(item, by_inode)
        cut = len(content) - len(content) % BLOCK_SIZE if item.is_inline else 0
        if not item.is_inline:
            cut = len(content)
        if cut:
            blocks.append(((item.block - meta_block) * BLOCK_SIZE, content[:cut]))
        yield item.nid * _SLOT, _encode_inode(item, number) + item.xattrs + content[cut:]
    yield from blocks


def _content(item: _Placed, by_inode: dict[Inode, _Placed]) -> bytes:
    if item.dirents is None:
        return item.inode.target
    children = item.inode.children or {}
    parts = []
    for names in item.dirents:
        offset = _DIRENT.size * len(names)
        head = bytearray()
        for name in names:
            child = children.get(name)
            if child is not None:
                nid, file_type = by_inode[child].nid, FILE_TYPE[stat.S_IFMT(child.mode)]
            else:
                nid = item.nid if name == b"." else item.parent_nid
                file_type = FILE_TYPE[stat.S_IFDIR]
            head += _DIRENT.pack(nid, offset, file_type)
            offset += len(name)
        block = bytes(head) + b"".join(names)
        parts.append(block.ljust(BLOCK_SIZE, b"\0"))
    return b"".join(parts)[: item.size]


def _encode_inode(item: _Placed, number: int) -> bytes:
    inode = item.inode
    kind = stat.S_IFMT(inode.mode)
    if kind == stat.S_IFREG:
        address = inode.block if inode.size else _NO_ADDRESS
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        address = encode_device(*inode.device)
    elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
        address = 0
    else:
        address = item.block
    xattr_count = 1 + (len(item.xattrs) - _XATTR_HEADER_SIZE) // 4 if item.xattrs else 0
    return _INODE.pack(
        _EXTENDED | (_INLINE if item.is_inline else _PLAIN),
        xattr_count,
        inode.mode,
        0,
        item.size,
        address,
        number,
        inode.uid,
        inode.gid,
        inode.mtime & 0xFFFFFFFFFFFFFFFF,
        inode.mtime_ns,
        item.links,
    )


def _superblock(
    *, inodes: int, blocks: int, meta_block: int, uuid: bytes, build_time: int
) -> bytes:
    block = bytearray(BLOCK_SIZE)

    def pack(checksum: int) -> None:
        _SUPERBLOCK.pack_into(
            block, _SUPERBLOCK_OFFSET,
            _MAGIC, checksum, _COMPAT_CHECKSUM | _COMPAT_MTIME,
            BLOCK_SIZE.bit_length() - 1, 0, _ROOT_NID, inodes, build_time, 0,
            blocks, meta_block, 0, uuid, b"", 0, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip

    pack(0)
    pack(_crc32c(block[_SUPERBLOCK_OFFSET:]))
    return bytes(block)


def _crc32c(data: bytes | bytearray) -> int:
    """Castagnoli CRC from ~0 without the final inversion, as EROFS keeps it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C_POLYNOMIAL if crc & 1 else 0)
    return crc
