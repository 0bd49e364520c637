"""What extended headers say of a tar's members, and the sparse files that they describe.

Sources: POSIX.1-2008 pax, "pax Extended Header"; the GNU tar manual, "Storing Sparse Files";
star(5) for the SCHILY keywords; libarchive's tar(5).
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.member import EXTENSION_LIMIT, SEGMENT_LIMIT
from hyperbuild.converter.stream import BLOCK

if TYPE_CHECKING:
    from hyperbuild.converter.member import Member
    from hyperbuild.converter.stream import LayerStream

_XATTR_VALUE_LIMIT = 1 << 16
_XATTR_KEYS = (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
#: What a global header may say of the members behind it.
_GLOBAL_KEYS = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))


def pax_records(body: bytes, stream: LayerStream) -> list[tuple[bytes, bytes]]:
    """Split "LENGTH KEY=VALUE\\n" records; LENGTH counts the whole record."""
    records = []
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 8)
        digits = body[position:space]
        end = position + int(digits) if space > 0 and digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(body) or body[end - 1 : end] != b"\n" or not (equals and key):
            raise ContentError(f"{stream.where}: a malformed pax header")
        records.append((key, value))
        position = end
    return records


def merge_globals(
    known: list[tuple[bytes, bytes]], new: list[tuple[bytes, bytes]], stream: LayerStream
) -> list[tuple[bytes, bytes]]:
    """Add global records, less what no member takes from them: each member is met with all."""
    merged = dict(known)
    merged.update((key, value) for key, value in new if key in _GLOBAL_KEYS)
    if any(key.startswith(_XATTR_KEYS) for key, _ in new):
        raise ContentError(f"{stream.where}: a global header with extended attributes is refused")
    return list(merged.items())


def apply_pax(member: Member, records: list[tuple[bytes, bytes]], stream: LayerStream) -> None:
    """Have records stand above what member's header says; ContentError if they say nonsense.

    The map of a sparse file of format 1.0 is read from the stream, where it comes before the data.
    """
    last = dict(records)  # a later record overrides; an empty value takes the key back
    try:
        for key, value in last.items():
            if not value and not key.startswith(b"SCHILY.xattr."):
                continue
            match key:
                case b"path":
                    member.name = value
                case b"linkpath":
                    member.link = value
                case b"size":
                    member.size = member.stored = _pax_size(value)
                case b"uid":
                    member.uid = int(value)
                case b"gid":
                    member.gid = int(value)
                case b"mtime":
                    member.mtime, member.mtime_ns = _pax_time(value)
                case _ if key.startswith(_XATTR_KEYS):
                    _pax_xattr(member, key, value, last)
        _refuse_nul(member.name + member.link)
        _pax_sparse(member, records, last, stream)
    except (ValueError, ArithmeticError, LookupError) as error:
        raise ContentError(
            f"{stream.where}: {printable(member.name)!r} has a malformed pax header"
        ) from error


def _refuse_nul(text: bytes) -> None:
    if b"\0" in text:
        raise ValueError("NUL")


def _pax_size(value: bytes) -> int:
    # 63 bits are all that offsets have; int() alone would read thousands of digits.
    if not value.isdigit() or int(value) >> 63:
        raise ValueError("size")
    return int(value)


def _pax_time(value: bytes) -> tuple[int, int]:
    """Read [-]SECONDS[.FRACTION] as (floor of seconds, nanoseconds), digits past 1e-9 cut."""
    seconds, _, fraction = value.partition(b".")
    if fraction.strip(b"0123456789"):
        raise ValueError("mtime")
    whole, nanoseconds = int(seconds), int(fraction[:9].ljust(9, b"0"))
    if seconds.startswith(b"-") and nanoseconds:
        return whole - 1, 1_000_000_000 - nanoseconds
    return whole, nanoseconds


def _pax_xattr(member: Member, key: bytes, value: bytes, last: dict[bytes, bytes]) -> None:
    schily = key.removeprefix(b"SCHILY.xattr.")
    if schily != key:
        name = schily
    else:
        # libarchive writes both keywords; its own has the name URL-encoded, the value in base64.
        name = unquote_to_bytes(key.removeprefix(b"LIBARCHIVE.xattr."))
        if b"SCHILY.xattr." + name in last:
            return
        try:
            value = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError("xattr") from error
    if not name or b"\0" in name or len(name) > 255 or len(value) > _XATTR_VALUE_LIMIT:
        raise ValueError("xattr")
    if member.xattrs is None:
        member.xattrs = {}
    member.xattrs[name] = value


def _pax_sparse(
    member: Member,
    records: list[tuple[bytes, bytes]],
    last: dict[bytes, bytes],
    stream: LayerStream,
) -> None:
    """Take over a sparse map of PAX format 0.0 (repeated keys), 0.1 (one list) or 1.0 (in data)."""
    if last.get(b"GNU.sparse.major") == b"1" and last.get(b"GNU.sparse.minor") == b"0":
        size = _pax_size(last[b"GNU.sparse.realsize"])
        numbers = _sparse_1_0(member, stream)
    elif b"GNU.sparse.map" in last:
        size = _pax_size(last[b"GNU.sparse.size"])
        text = last[b"GNU.sparse.map"]
        numbers = [int(number) for number in text.split(b",")] if text else []
    elif b"GNU.sparse.numblocks" in last:
        size = _pax_size(last[b"GNU.sparse.size"])
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        numbers = [int(value) for key, value in records if key in keys]
    else:
        return
    member.name = last.get(b"GNU.sparse.name", member.name)
    if len(numbers) % 2:
        raise ValueError("sparse map")
    member.set_segments(size, list(zip(numbers[::2], numbers[1::2], strict=True)), stream.where)


def _sparse_1_0(member: Member, stream: LayerStream) -> list[int]:
    """Read the map before the data: a count, then offset and length pairs, one number a line."""
    text = bytearray()
    lines = wanted = 0
    while not wanted or lines < wanted:
        if member.stored < BLOCK or len(text) > EXTENSION_LIMIT:
            raise ValueError("sparse map")
        block = stream.read(BLOCK)
        text += block
        member.stored -= BLOCK
        # Counted block by block: over the whole text each time, a megabyte of it takes a second.
        lines += block.count(b"\n")
        if lines and not wanted:
            wanted = 1 + 2 * int(text.partition(b"\n")[0])
            if not 1 <= wanted <= 1 + 2 * SEGMENT_LIMIT:
                raise ValueError("sparse map")
    return [int(line) for line in text.split(b"\n")[1:wanted]]
