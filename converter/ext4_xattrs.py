"""Extended attributes as ext4 keeps them: behind the inode as far as they fit, then in one block.

Source: fs/ext4/xattr.h and fs/ext4/acl.h of Linux; POSIX ACLs have a form of their own on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.extents import BLOCK_SIZE

#: Bytes behind the fields of a 256-byte inode.
INLINE_SIZE = 96

_MAGIC = Struct("<I").pack(0xEA020000)
_BLOCK_HEADER = Struct("<IIIIIIII")
_ENTRY = Struct("<BBHIII")
_TERMINATOR_SIZE = 4
#: Attribute name prefix -> index; a whole name where the rest is empty.
_PREFIXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"security.", 6),
)
_ACL_INDEXES = (2, 3)
_ACL_VERSION = Struct("<I")
_ACL_XATTR_VERSION, _ACL_DISK_VERSION = 2, 1
_ACL_ENTRY = Struct("<HHI")
_ACL_SHORT_ENTRY = Struct("<HH")
#: Tags with an id: ACL_USER and ACL_GROUP.
_ACL_NAMED = (0x02, 0x08)
_ACL_UNNAMED = (0x01, 0x04, 0x10, 0x20)


@dataclass(frozen=True, slots=True)
class Xattrs:
    """One inode's attributes: up to INLINE_SIZE bytes behind the inode, and a block or b""."""

    inline: bytes
    block: bytes


@dataclass(frozen=True, slots=True)
class _Attribute:
    index: int
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        return _ENTRY.size + _padded(len(self.name)) + _padded(len(self.value))


NO_XATTRS = Xattrs(b"", b"")


def encode_xattrs(xattrs: dict[bytes, bytes]) -> Xattrs:
    """Lay out attributes (full name -> value); ContentError if they do not fit."""
    inline: list[_Attribute] = []
    rest: list[_Attribute] = []
    room = INLINE_SIZE - len(_MAGIC) - _TERMINATOR_SIZE
    for attribute in sorted(map(_attribute, xattrs.items()), key=_order):
        if attribute.size <= room:
            inline.append(attribute)
            room -= attribute.size
        else:
            rest.append(attribute)
    needed = sum(attribute.size for attribute in rest)
    limit = BLOCK_SIZE - _BLOCK_HEADER.size - _TERMINATOR_SIZE
    if needed > limit:
        raise ContentError(
            f"{needed} bytes of extended attributes where ext4 has room for {limit}; "
            "use the format erofs"
        )
    behind = block = b""
    if inline:
        behind = _MAGIC + _table(inline, INLINE_SIZE - len(_MAGIC), 0)
    if rest:
        # One reference, one block; hash 0: not to be shared.
        header = _BLOCK_HEADER.pack(0xEA020000, 1, 1, 0, 0, 0, 0, 0)
        block = header + _table(rest, BLOCK_SIZE - len(header), len(header))
    return Xattrs(behind, block)


def _attribute(item: tuple[bytes, bytes]) -> _Attribute:
    name, value = item
    for prefix, index in _PREFIXES:
        if name.startswith(prefix):
            if index in _ACL_INDEXES:
                value = _encode_acl(value)
            return _Attribute(index, name.removeprefix(prefix), value)
    raise ContentError(f"ext4 cannot hold the extended attribute {name!r}")


def _order(attribute: _Attribute) -> tuple[int, int, bytes]:
    """The order in which the kernel looks through a block."""
    return attribute.index, len(attribute.name), attribute.name


def _padded(size: int) -> int:
    return size + -size % 4


def _table(attributes: list[_Attribute], size: int, base: int) -> bytes:
    """Return size bytes: entries from the start, values from the end; offsets plus base."""
    table = bytearray(size)
    at, end = 0, size
    for item in attributes:
        end -= _padded(len(item.value))
        offset = base + end if item.value else 0
        _ENTRY.pack_into(
            table, at,
            len(item.name), item.index, offset, 0, len(item.value), _hash(item),
        )  # fmt: skip
        name_at = at + _ENTRY.size
        table[name_at : name_at + len(item.name)] = item.name
        table[end : end + len(item.value)] = item.value
        at = name_at + _padded(len(item.name))
    return bytes(table)


def _hash(item: _Attribute) -> int:
    """The entry's hash over name and value; bytes of the name are signed, as e2fsck has them."""
    result = 0
    for byte in item.name:
        signed = byte - 256 if byte > 127 else byte
        result = (result << 5 ^ result >> 27 ^ signed) & 0xFFFFFFFF
    padded = item.value.ljust(_padded(len(item.value)), b"\0")
    for (word,) in Struct("<I").iter_unpack(padded):
        result = (result << 16 ^ result >> 16 ^ word) & 0xFFFFFFFF
    return result


def _encode_acl(value: bytes) -> bytes:
    """Turn a POSIX ACL's attribute form (version 2, 8 bytes each) into ext4's (ids where named)."""
    try:
        (version,) = _ACL_VERSION.unpack_from(value)
        entries = list(_ACL_ENTRY.iter_unpack(value[_ACL_VERSION.size :]))
    except error:
        version, entries = 0, []
    known = _ACL_NAMED + _ACL_UNNAMED
    if version != _ACL_XATTR_VERSION or not all(tag in known for tag, _, _ in entries):
        raise ContentError("a POSIX ACL that is none; the image cannot be unpacked")
    parts = [_ACL_VERSION.pack(_ACL_DISK_VERSION)]
    for tag, permissions, identity in entries:
        if tag in _ACL_NAMED:
            parts.append(_ACL_ENTRY.pack(tag, permissions, identity))
        else:
            parts.append(_ACL_SHORT_ENTRY.pack(tag, permissions))
    return b"".join(parts)
