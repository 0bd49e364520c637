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
from dataclasses import dataclass, field
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
#: st_mode's type bits, as stat.S_IFMT finds them with a call.
_TYPE_MASK = 0o170000
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
class _Body:
    """What an inode has beside its 64 bytes: xattrs, and content of its own (not a file's data)."""

    xattrs: bytes
    size: int
    is_inline: bool = False
    block: int = _NO_ADDRESS
    parent_nid: int = 0
    dirents: list[list[bytes]] | None = None


@dataclass(slots=True)
class _Places:
    """Where inodes lie: nids in ascending order, ``end`` in bytes behind the last.

    ``bodies`` are of those that have one, ``links`` where they are not a single one.
    """

    nids: dict[Inode, int] = field(default_factory=dict)
    bodies: dict[Inode, _Body] = field(default_factory=dict)
    links: dict[Inode, int] = field(default_factory=dict)
    end: int = _ROOT_NID * _SLOT

    def put(self, inode: Inode, body: _Body | None) -> None:
        """Give inode the next place."""
        position = self.end + -self.end % _SLOT
        size = _INODE.size
        if body:
            self.bodies[inode] = body
            size += len(body.xattrs)
            tail = body.size % BLOCK_SIZE if body.is_inline else 0
            if tail and (position + size) % BLOCK_SIZE + tail > BLOCK_SIZE:
                # The tail may not cross a block. From the next boundary it surely does not,
                # unless the xattrs alone push it over: then it gets blocks of its own.
                if size % BLOCK_SIZE + tail <= BLOCK_SIZE:
                    position += -position % BLOCK_SIZE
                else:
                    body.is_inline, tail = False, 0
            size += tail
        self.nids[inode] = position // _SLOT
        self.end = position + size


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
    places = _place(root)
    next_block = first_free + _blocks(places.end)
    for body in places.bodies.values():
        count = body.size // BLOCK_SIZE if body.is_inline else _blocks(body.size)
        if count:
            body.block = next_block
            next_block += count
    image_size = next_block * BLOCK_SIZE
    image_size += -image_size % IMAGE_ALIGNMENT
    if image_size > BLOCK_LIMIT * BLOCK_SIZE:
        raise ContentError("the image is larger than 16 TiB, which EROFS cannot hold")
    superblock = _superblock(
        inodes=len(places.nids),
        blocks=image_size // BLOCK_SIZE,
        meta_block=first_free,
        uuid=uuid,
        build_time=build_time,
    )
    try:
        os.ftruncate(fd, image_size)
        os.pwrite(fd, superblock, 0)
        settled(first_free * BLOCK_SIZE)
        write_pieces(fd, first_free * BLOCK_SIZE, _metadata(places, first_free))
        settled(image_size)
    except OSError as error:
        raise write_failure(error) from error
    return image_size


def _place(root: Inode) -> _Places:
    """Give every inode its place: the root, then the children of each directory side by side."""
    places = _Places()
    nids, bodies, links, put = places.nids, places.bodies, places.links, places.put
    put(root, _body(root))
    bodies[root].parent_nid = _ROOT_NID
    directories = [root]
    for directory in directories:  # grows while it is walked: breadth first, without recursion
        children = directory.children or {}
        subdirectories = 0
        for name in sorted(children):
            child = children[name]
            if child in nids:
                links[child] = links.get(child, 1) + 1
                continue
            body = _body(child)
            put(child, body)
            if body and child.children is not None:
                body.parent_nid = nids[directory]
                subdirectories += 1
                directories.append(child)
        links[directory] = 2 + subdirectories
    return places


def _body(inode: Inode) -> _Body | None:
    xattrs = _encode_xattrs(inode.xattrs) if inode.xattrs else b""
    if inode.children is not None:
        dirents = _split_dirents(inode.children)
        last = sum(map(len, dirents[-1])) + _DIRENT.size * len(dirents[-1])
        size = (len(dirents) - 1) * BLOCK_SIZE + last
        return _Body(xattrs, size, size % BLOCK_SIZE != 0, dirents=dirents)
    if inode.target:
        return _Body(xattrs, len(inode.target), is_inline=True)
    return _Body(xattrs, 0) if xattrs else None


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


def _metadata(places: _Places, meta_block: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset from meta_block, bytes) in ascending order."""
    blocks: list[tuple[int, bytes]] = []
    bodies, links = places.bodies, places.links
    for number, (inode, nid) in enumerate(places.nids.items(), 1):
        body = bodies.get(inode)
        encoded = _encode_inode(inode, body, number, links.get(inode, 1))
        if body:
            content = _content(inode, body, places)
            cut = len(content) - len(content) % BLOCK_SIZE if body.is_inline else len(content)
            if cut:
                blocks.append(((body.block - meta_block) * BLOCK_SIZE, content[:cut]))
            encoded += body.xattrs + content[cut:]
        yield nid * _SLOT, encoded
    yield from blocks


def _content(inode: Inode, body: _Body, places: _Places) -> bytes:
    if body.dirents is None:
        return inode.target
    nids, children = places.nids, inode.children or {}
    parts = []
    for names in body.dirents:
        offset = _DIRENT.size * len(names)
        head = bytearray()
        for name in names:
            child = children.get(name)
            if child is not None:
                nid, file_type = nids[child], FILE_TYPE[child.mode & _TYPE_MASK]
            else:
                nid = nids[inode] if name == b"." else body.parent_nid
                file_type = FILE_TYPE[stat.S_IFDIR]
            head += _DIRENT.pack(nid, offset, file_type)
            offset += len(name)
        block = bytes(head) + b"".join(names)
        parts.append(block.ljust(BLOCK_SIZE, b"\0"))
    return b"".join(parts)[: body.size]


def _encode_inode(inode: Inode, body: _Body | None, number: int, links: int) -> bytes:
    kind = inode.mode & _TYPE_MASK
    size, layout, xattr_count = inode.size, _EXTENDED | _PLAIN, 0
    if kind == stat.S_IFREG:
        address = inode.block if size else _NO_ADDRESS
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        address = encode_device(*inode.device)
    else:
        address = 0
    if body:
        if kind in (stat.S_IFDIR, stat.S_IFLNK):
            size, address = body.size, body.block
        if body.is_inline:
            layout = _EXTENDED | _INLINE
        if body.xattrs:
            xattr_count = 1 + (len(body.xattrs) - _XATTR_HEADER_SIZE) // 4
    return _INODE.pack(
        layout,
        xattr_count,
        inode.mode,
        0,
        size,
        address,
        number,
        inode.uid,
        inode.gid,
        inode.mtime & 0xFFFFFFFFFFFFFFFF,
        inode.mtime_ns,
        links,
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
