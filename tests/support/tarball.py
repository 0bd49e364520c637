"""Tar archives written byte by byte: every dialect, every spelling of a name, nothing forbidden.

tarfile normalizes what it writes; this writes what a test says, and shares no code with any reader.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes

BLOCK = 512
FILE, HARD, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % n for n in range(7))
#: libarchive is pax with attributes by libarchive's own keyword.
DIALECTS = ("v7", "ustar", "gnu", "pax", "libarchive")
#: How pax keeps a sparse file's map; gnu has one way of its own.
SPARSE_PAX = ("0.0", "0.1", "1.0")
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One archive member, all names as raw bytes; ``mtime`` in nanoseconds since the epoch.

    ``holes`` are the (offset, length) of ``data`` that a sparse dialect leaves out.
    """

    name: bytes
    kind: bytes = FILE
    data: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000 * _NANO
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    holes: tuple[tuple[int, int], ...] = ()


def fits(entry: Entry, dialect: str) -> bool:
    """Tell whether a dialect can say all that the entry is."""
    if dialect in ("pax", "libarchive"):
        return True
    if entry.xattrs or entry.mtime % _NANO:
        return False
    if dialect == "gnu":
        return True
    small = max(entry.uid, entry.gid) < 1 << 21 and 0 <= entry.mtime < 1 << 33
    short = len(entry.link) <= 100 and (
        len(entry.name) <= 100 or (dialect == "ustar" and _split(entry.name) is not None)
    )
    return small and short and not entry.holes and (dialect == "ustar" or entry.device == (0, 0))


def member(entry: Entry, dialect: str = "pax", sparse: str = "1.0") -> bytes:
    """Return the member's blocks: extended headers, header, data, padding."""
    if entry.holes:
        return _sparse_member(entry, dialect, sparse)
    return _head(entry, dialect, entry.kind, len(entry.data), {}) + padded(entry.data)


def archive(*members: bytes, end: bool = True) -> bytes:
    """Join members; without end the two zero blocks are left out."""
    return b"".join(members) + bytes(2 * BLOCK if end else 0)


def padded(data: bytes) -> bytes:
    """Fill data up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """Return one pax record, which begins with its own length."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while size != len(rest) + len(b"%d" % size):
        size += 1
    return b"%d" % size + rest


def extension(kind: bytes, body: bytes) -> bytes:
    """Return an extended header (x, g, L, K) with its body."""
    return header(b"././@Extension", kind, len(body)) + padded(body)


def header(
    name: bytes,
    kind: bytes,
    size: int,
    *,
    numbers: tuple[int, int, int, int] = (0o644, 0, 0, 0),
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """Return one header block with its checksum; numbers are mode, uid, gid and mtime.

    tail stands in place of what comes from the prefix on (GNU's own fields).
    """
    mode, uid, gid, mtime = numbers
    block = bytearray()
    block += name[:100].ljust(100, b"\0")
    for value, width in ((mode, 8), (uid, 8), (gid, 8), (size, 12), (mtime, 12)):
        block += _number(value, width)
    block += b" " * 8 + kind + link[:100].ljust(100, b"\0") + magic.ljust(8, b"\0") + bytes(64)
    block += b"".join(_number(part, 8) for part in device) if magic else bytes(16)
    block += tail or prefix.ljust(155, b"\0")
    block = block.ljust(BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _number(value: int, width: int) -> bytes:
    """Octal as every dialect has it, or base 256 as GNU and star write what is too large."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = bytearray((value % (1 << 8 * width)).to_bytes(width, "big"))
    raw[0] = 0xFF if value < 0 else raw[0] | 0x80
    return bytes(raw)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Cut a long name into ustar's prefix and name, if a slash stands where that needs one."""
    for at, byte in enumerate(name):
        if byte == 0x2F and 0 < at <= 155 and 0 < len(name) - at - 1 <= 100:
            return name[:at], name[at + 1 :]
    return None


def _head(
    entry: Entry,
    dialect: str,
    kind: bytes,
    size: int,
    more: dict[bytes, bytes],
    *,
    repeated: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """Return all that comes before a member's data; more and repeated are pax records of it."""
    seconds = entry.mtime // _NANO
    numbers = (entry.mode, entry.uid, entry.gid, seconds)
    if dialect in ("pax", "libarchive"):
        records = _records(entry, dialect) | more
        ids = tuple(number if number < 1 << 21 else 0 for number in numbers[:3])
        short = (*ids, seconds if 0 <= seconds < 1 << 33 else 0)
        body = b"".join(record(key, value) for key, value in records.items()) + repeated
        return (extension(b"x", body) if body else b"") + header(
            entry.name, kind, size, numbers=short, link=entry.link, device=entry.device
        )
    if dialect == "gnu":
        longs = ((b"L", entry.name), (b"K", entry.link))
        before = b"".join(extension(k, text + b"\0") for k, text in longs if len(text) > 100)
        return before + header(
            entry.name, kind, size,
            numbers=numbers, link=entry.link, magic=b"ustar  \0", device=entry.device, tail=tail,
        )  # fmt: skip
    magic = b"" if dialect == "v7" else b"ustar\x0000"
    prefix, name = (b"", entry.name) if len(entry.name) <= 100 else _split(entry.name) or (b"", b"")
    return header(
        name, kind, size,
        numbers=numbers, link=entry.link, magic=magic, device=entry.device, prefix=prefix,
    )  # fmt: skip


def _records(entry: Entry, dialect: str) -> dict[bytes, bytes]:
    records = {}
    if len(entry.name) > 100:
        records[b"path"] = entry.name
    if len(entry.link) > 100:
        records[b"linkpath"] = entry.link
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number >= 1 << 21:
            records[key] = b"%d" % number
    seconds, nanoseconds = divmod(entry.mtime, _NANO)
    if nanoseconds or not 0 <= seconds < 1 << 33:
        sign, whole = (b"-", -entry.mtime) if entry.mtime < 0 else (b"", entry.mtime)
        records[b"mtime"] = sign + b"%d.%09d" % divmod(whole, _NANO)
    for name, value in entry.xattrs.items():
        if dialect == "libarchive":
            key = b"LIBARCHIVE.xattr." + quote_from_bytes(name).encode()
            records[key] = base64.b64encode(value).rstrip(b"=")
        else:
            records[b"SCHILY.xattr." + name] = value
    return records


def _segments(entry: Entry) -> list[tuple[int, int]]:
    """Return the (offset, length) of what is no hole; the last may be empty, at the end."""
    found = []
    position = 0
    for offset, length in (*entry.holes, (len(entry.data), 0)):
        if offset > position or offset == len(entry.data):
            found.append((position, offset - position))
        position = offset + length
    return found


def _sparse_member(entry: Entry, dialect: str, sparse: str) -> bytes:
    segments = _segments(entry)
    stored = b"".join(entry.data[at : at + length] for at, length in segments)
    size = b"%d" % len(entry.data)
    if sparse == "gnu":
        return _old_gnu(entry, segments, stored)
    if sparse == "1.0":
        numbers = (len(segments), *(number for pair in segments for number in pair))
        stored = padded(b"".join(b"%d\n" % number for number in numbers)) + stored
        more = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}
        more |= {b"GNU.sparse.name": entry.name, b"GNU.sparse.realsize": size}
        return _head(entry, dialect, FILE, len(stored), more) + padded(stored)
    more = {b"GNU.sparse.size": size, b"GNU.sparse.numblocks": b"%d" % len(segments)}
    if sparse == "0.1":
        more[b"GNU.sparse.name"] = entry.name
        more[b"GNU.sparse.map"] = b",".join(b"%d,%d" % pair for pair in segments)
        return _head(entry, dialect, FILE, len(stored), more) + padded(stored)
    # Format 0.0 repeats keys, which a dict cannot say.
    pairs = b"".join(
        record(b"GNU.sparse.offset", b"%d" % at) + record(b"GNU.sparse.numbytes", b"%d" % length)
        for at, length in segments
    )
    return _head(entry, dialect, FILE, len(stored), more, repeated=pairs) + padded(stored)


def _old_gnu(entry: Entry, segments: list[tuple[int, int]], stored: bytes) -> bytes:
    """Write type S: four segments in the header, 21 in each block behind it."""

    def table(pairs: list[tuple[int, int]], room: int) -> bytes:
        return b"".join(_number(n, 12) for pair in pairs for n in pair).ljust(room * 24, b"\0")

    rest = segments[4:]
    # From byte 345 on: two times, an offset, long names, an unused byte; then the map.
    tail = bytes(41) + table(segments[:4], 4) + bytes([bool(rest)]) + _number(len(entry.data), 12)
    blocks = b""
    while rest:
        part, rest = rest[:21], rest[21:]
        blocks += (table(part, 21) + bytes([bool(rest)])).ljust(BLOCK, b"\0")
    return _head(entry, "gnu", b"S", len(stored), {}, tail=tail) + blocks + padded(stored)
