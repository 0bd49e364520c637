"""Tar headers of every dialect that images hold: v7, ustar, GNU and the extended ones of PAX.

Sources: POSIX.1-2008 pax, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format" and
"Storing Sparse Files"; star(5). Where they are silent, what Go's archive/tar accepts, as container
runtimes are built on it.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.member import EXTENSION_LIMIT, SEGMENT_LIMIT, Member
from hyperbuild.converter.pax import apply_pax, merge_globals, pax_records
from hyperbuild.converter.stream import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.converter.stream import LayerStream

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)

#: Name, the fields for mode and ids in one, size, mtime, checksum, type, link, magic and version.
_HEADER = Struct("100s24s12s12s8sc100s8s")
_DEVICES = slice(329, 345)
_PREFIX = slice(345, 500)
_TRAILER = slice(500, 512)
_USTAR, _GNU = b"ustar\0", b"ustar  \0"
_ZERO_BLOCK = bytes(BLOCK)
_HEADER_ONLY = frozenset((HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_SIGN_BIT, _BASE256 = 0x40, 0x80
_ADLER_MODULUS = 65521
_CHECKSUM_AS_SPACES = 8 * 0x20
#: Parsed number fields by their raw bytes; few distinct ones recur in a layer.
_NUMBERS: dict[bytes, int] = {}
_NUMBERS_LIMIT = 8192
#: Mode, uid and gid by their raw bytes, fewer still.
_OWNERS: dict[bytes, tuple[int, int, int]] = {}
_OWNERS_LIMIT = 1024


def members(stream: LayerStream) -> Iterator[Member]:
    """Yield each member; its data stands at the stream's position, to be taken or left.

    ContentError for what no runtime would unpack.
    """
    global_records: list[tuple[bytes, bytes]] = []
    records: list[tuple[bytes, bytes]] = []
    long_name = long_link = b""
    while (header := _next_header(stream)) is not None:
        kind = header[156:157]
        if kind in b"xgLK":
            size = _number(header[124:136], stream)
            if not 0 <= size <= EXTENSION_LIMIT:
                raise ContentError(f"{stream.where}: an extended header of {size} bytes is refused")
            body = stream.read(size)
            stream.skip(-size % BLOCK)
            if kind == b"x":
                records = pax_records(body, stream)
            elif kind == b"g":
                global_records = merge_globals(global_records, pax_records(body, stream), stream)
            elif kind == b"L":
                long_name = body.partition(b"\0")[0]
            else:
                long_link = body.partition(b"\0")[0]
            continue
        member = _member(header, stream)
        if long_name:
            member.name = long_name
        if long_link:
            member.link = long_link
        if global_records or records:
            apply_pax(member, global_records + records, stream)
        if kind == b"S":
            _old_gnu_sparse(member, header, stream)
        if kind == b"\0" and member.name.endswith(b"/"):
            member.type = DIRECTORY
        if member.type in _HEADER_ONLY:
            member.size = member.stored = 0
        end = stream.tell() + member.stored
        padding = -member.stored % BLOCK
        yield member
        _skip_to_header(stream, end - stream.tell(), padding)
        records, long_name, long_link = [], b"", b""


def _skip_to_header(stream: LayerStream, rest: int, padding: int) -> None:
    position = stream.position + rest + padding
    if position <= stream.limit:
        stream.position = position
        return
    stream.skip(rest)
    # Writers that leave out the end of the archive (umoci's) may leave out the last padding too.
    if stream.ensure():
        stream.skip(padding)


def _next_header(stream: LayerStream) -> bytes | None:
    """Return the next header block, checksum verified; None at the end of the archive."""
    header = stream.block()
    if not header:
        return None
    if header[0] or header != _ZERO_BLOCK:
        _check_checksum(header, stream)
        return header
    if (stream.block() or _ZERO_BLOCK) != _ZERO_BLOCK:
        raise ContentError(f"{stream.where}: a lone zero block inside the archive; it is corrupt")
    return None


def _check_checksum(header: bytes, stream: LayerStream) -> None:
    # The low half of Adler-32 is 1 + the sum of the bytes, modulo 65521: the sum at C speed.
    field = header[148:156]
    declared = _octal(field, stream)
    total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(field) + _CHECKSUM_AS_SPACES
    if (total - declared) % _ADLER_MODULUS == 0 and 0 <= declared <= BLOCK * 0xFF:
        return
    rest = header[:148] + header[156:]
    signed = sum(byte - 256 if byte > 0x7F else byte for byte in rest) + _CHECKSUM_AS_SPACES
    if signed != declared:
        raise ContentError(
            f"{stream.where}: not a tar header at offset {stream.tell() - BLOCK}; it is corrupt"
        )


def _number(field: bytes, stream: LayerStream) -> int:
    """Decode a number field, remembering it: ids and times recur."""
    value = _NUMBERS.get(field)
    if value is None:
        value = _octal(field, stream)
        if len(_NUMBERS) >= _NUMBERS_LIMIT:
            _NUMBERS.clear()
        _NUMBERS[field] = value
    return value


def _octal(field: bytes, stream: LayerStream) -> int:
    """Decode octal digits, or GNU's base-256 two's complement (its first bit set)."""
    digits = field.rstrip(b"\0 ")
    if digits.isdigit() and not digits.strip(b"01234567"):
        return int(digits, 8)
    if field[0] & _BASE256:
        value = int.from_bytes(field, "big") & ~(_BASE256 << 8 * (len(field) - 1))
        return value - (1 << (8 * len(field) - 1)) if field[0] & _SIGN_BIT else value
    digits = field.partition(b"\0")[0].strip(b" ") or field.strip(b"\0 ")
    if digits.strip(b"01234567"):
        raise ContentError(f"{stream.where}: {printable(field)!r} is no number in a tar header")
    return int(digits or b"0", 8)


def _owner(fields: bytes, stream: LayerStream) -> tuple[int, int, int]:
    """Decode mode, uid and gid, three fields of 8 bytes."""
    owner = _OWNERS.get(fields)
    if owner is None:
        mode, uid, gid = (_octal(fields[at : at + 8], stream) for at in (0, 8, 16))
        if len(_OWNERS) >= _OWNERS_LIMIT:
            _OWNERS.clear()
        owner = _OWNERS[fields] = mode, uid, gid
    return owner


def _member(header: bytes, stream: LayerStream) -> Member:
    name, owner, size, mtime, _, kind, link, magic = _HEADER.unpack_from(header)
    name = name.partition(b"\0")[0]
    if header[345] and magic.startswith(_USTAR):
        name = _prefix(header) + b"/" + name
    stored = _octal(size, stream)
    if stored < 0:
        raise ContentError(f"{stream.where}: {printable(name)!r} has a negative size")
    device = (0, 0)
    if kind in b"34" and (magic.startswith(_USTAR) or magic == _GNU):
        numbers = header[_DEVICES]
        device = (_octal(numbers[:8], stream), _octal(numbers[8:], stream))
    return Member(
        name,
        REGULAR if kind in b"\x007" else kind,
        *(_OWNERS.get(owner) or _owner(owner, stream)),
        _number(mtime, stream),
        0,
        stored,
        stored,
        link.partition(b"\0")[0] if link[0] else b"",
        device,
    )


def _prefix(header: bytes) -> bytes:
    # star keeps times in the last 24 bytes of the prefix, and says so in the trailer.
    prefix = header[_PREFIX]
    if header[_TRAILER][8:] == b"tar\0":
        prefix = prefix[:131]
    return prefix.partition(b"\0")[0]


def _old_gnu_sparse(member: Member, header: bytes, stream: LayerStream) -> None:
    """Read the map of type S: 4 pairs in the header, 21 in each extension block."""
    pairs: list[tuple[int, int]] = []
    block, start, count, more = header, 386, 4, header[482]
    while True:
        for at in range(start, start + count * 24, 24):
            if block[at]:
                pair = (
                    _number(block[at : at + 12], stream),
                    _number(block[at + 12 : at + 24], stream),
                )
                pairs.append(pair)
        if not more:
            break
        if len(pairs) > SEGMENT_LIMIT:
            raise ContentError(f"{stream.where}: {printable(member.name)!r} has too many holes")
        block, start, count = stream.read(BLOCK), 0, 21
        more = block[504]
    member.type = REGULAR
    member.set_segments(_number(header[483:495], stream), pairs, stream.where)
