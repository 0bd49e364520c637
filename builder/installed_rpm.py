"""What rpm has installed: its database in SQLite or ndb, and the headers in it.

A database holds each package's header, without the lead that a header has in a file. Sources: rpm's
own docs/manual (format_v4.md, "Header"; tags.md) and lib/backend/ndb/rpmpkg.c for ndb's layout.
"""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from typing import TYPE_CHECKING

from hyperbuild.builder.installed import Package, clean
from hyperbuild.converter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_LICENSE, _ARCH, _SOURCE = 1014, 1022, 1044
_INT32, _TEXTS = 4, (6, 8, 9)
#: More tags than any header has (there are some 400), and what a header may take.
_TAGS = 4096
_HEADER_LIMIT = 16 << 20
#: SQLite's virtual machine runs this many instructions for each package at the very most.
_STEPS = 50_000_000
_SQLITE_HEADER = 100
_SLOT_COUNT = 1 << 17


def read_header(header: bytes | memoryview) -> Package | None:
    """Return the package of a header; None for a key, which is kept like one.

    ContentError if it is no header.
    """
    try:
        count, size = struct.unpack_from(">II", header)
        if count > _TAGS or 8 + 16 * count + size > len(header):
            raise ContentError("a package's header is cut off")
        store = bytes(header[8 + 16 * count : 8 + 16 * count + size])
        index = bytes(header[8 : 8 + 16 * count])
        tags = {
            tag: _value(store, kind, offset)
            for tag, kind, offset, _ in struct.iter_unpack(">IIII", index)
            if tag in (_NAME, _VERSION, _RELEASE, _EPOCH, _LICENSE, _ARCH, _SOURCE)
        }
    except struct.error as error:
        raise ContentError("a package's header is cut off") from error
    name, version = tags.get(_NAME, ""), tags.get(_VERSION, "")
    if not name or not version:
        raise ContentError("a package's header has no name or no version")
    if name == "gpg-pubkey":
        return None
    return Package(
        "rpm",
        name,
        "-".join(filter(None, (version, tags.get(_RELEASE, "")))),
        arch=tags.get(_ARCH, ""),
        epoch=tags.get(_EPOCH, ""),
        license=tags.get(_LICENSE, ""),
        source=tags.get(_SOURCE, ""),
    )


def _value(store: bytes, kind: int, offset: int) -> str:
    """Return the first string, or the number, at offset of a header's data."""
    if kind == _INT32:
        return str(struct.unpack_from(">I", store, offset)[0])
    if kind in _TEXTS:
        return clean(store[offset : max(offset, store.find(b"\0", offset))])
    return ""


def read_sqlite(content: bytes) -> Iterator[Package]:
    """Yield the packages of an rpmdb.sqlite; ContentError if it is none.

    It may be anybody's: of its schema nothing is run, and it does not keep SQLite busy.
    """
    if content[:16] != b"SQLite format 3\0" or len(content) < _SQLITE_HEADER:
        raise ContentError("it is no database of SQLite")
    # A database in memory has no write-ahead log; one that was closed well needs none.
    plain = content[:18] + b"\1\1" + content[20:]
    try:
        with closing(sqlite3.connect(":memory:")) as base:
            base.deserialize(plain)
            base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _HEADER_LIMIT)
            base.set_progress_handler(lambda: 1, _STEPS)
            base.execute("PRAGMA trusted_schema = OFF")
            base.execute("PRAGMA cell_size_check = ON")
            _require_plain_table(base)
            for (blob,) in base.execute("SELECT blob FROM Packages ORDER BY hnum"):
                if package := read_header(blob if isinstance(blob, bytes) else b""):
                    yield package
    except sqlite3.Error as error:
        raise ContentError(f"SQLite cannot read it ({error})") from error


def _require_plain_table(base: sqlite3.Connection) -> None:
    """Raise ContentError unless Packages is a plain table: no view, no computed column."""
    rows = base.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'Packages' AND type = 'table'"
    ).fetchall()
    columns = base.execute("PRAGMA table_xinfo(Packages)").fetchmany(3)
    # A hidden column (the last field) is a virtual table's or computed.
    plain = [(name, hidden) for _, name, _, _, _, _, hidden in columns]
    if [bool(page) for (page,) in rows] != [True] or plain != [("hnum", 0), ("blob", 0)]:
        raise ContentError("it has no table of packages as rpm makes it")


def read_ndb(content: bytes) -> Iterator[Package]:
    """Yield the packages of a Packages.db; ContentError if it is none.

    A page of 4 KiB begins with 32 bytes of header; slots of 16 bytes follow, on as many pages as
    the header says: magic, the package's number, where its blob begins and ends in units of 16.
    """
    try:
        magic, version, _, pages = struct.unpack_from("<4sIII", content)
        if magic != b"RpmP" or version or not 0 < pages <= _SLOT_COUNT // 256:
            raise ContentError("it is no database of rpm's ndb that is known")
        slots = content[32 : 4096 * pages]
        for mark, number, block, _ in struct.iter_unpack("<4sIII", slots[: len(slots) // 16 * 16]):
            if mark == b"Slot" and number:
                yield from _ndb_package(content, number, 16 * block)
    except struct.error as error:
        raise ContentError("it is cut off") from error


def _ndb_package(content: bytes, number: int, at: int) -> Iterator[Package]:
    magic, owner, _, size = struct.unpack_from("<4sIII", content, at)
    if magic != b"BlbS" or owner != number:
        raise ContentError("a package of it is not where it is said to be")
    if package := read_header(memoryview(content)[at + 16 : at + 16 + size]):
        yield package
