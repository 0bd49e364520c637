"""The GUID partition table (UEFI specification 2.10, chapter 5), for sectors of 512 bytes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.disk_extents import SECTOR, Extent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

#: Types of partitions, the latter by the Discoverable Partitions Specification.
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"

_ENTRIES, _ENTRY_SIZE = 128, 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
_HEADER_SIZE = 92
_NAME_LENGTH = 36

#: What the table takes at the beginning of a disk, and the copy of it at the end.
HEAD = (2 + _TABLE_SECTORS) * SECTOR
TAIL = (1 + _TABLE_SECTORS) * SECTOR


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of ``size`` bytes from ``start``, both multiples of a sector."""

    kind: UUID
    guid: UUID
    name: str
    start: int
    size: int


def partition_table(
    size: int, partitions: Sequence[Partition], guid: UUID
) -> tuple[Extent, Extent]:
    """Return the table at both ends of a disk of size bytes with that guid.

    The partitions are in order and lie between the two.
    """
    last = size // SECTOR - 1
    entries = b"".join(map(_entry, partitions)).ljust(_ENTRIES * _ENTRY_SIZE, b"\0")
    first_table, last_table = 2, last - _TABLE_SECTORS
    head = _header(1, last, first_table, last, entries, guid)
    tail = _header(last, 1, last_table, last, entries, guid)
    return (
        Extent(0, _protective_mbr(last) + head + entries),
        Extent(last_table * SECTOR, entries + tail),
    )


def _header(here: int, other: int, table: int, last: int, entries: bytes, guid: UUID) -> bytes:
    first_usable, last_usable = 2 + _TABLE_SECTORS, last - _TABLE_SECTORS - 1

    def spelled(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x10000,
            _HEADER_SIZE,
            checksum,
            0,
            here,
            other,
            first_usable,
            last_usable,
            guid.bytes_le,
            table,
            _ENTRIES,
            _ENTRY_SIZE,
            zlib.crc32(entries),
        )

    return spelled(zlib.crc32(spelled(0))).ljust(SECTOR, b"\0")


def _entry(partition: Partition) -> bytes:
    start = partition.start // SECTOR
    return struct.pack(
        "<16s16sQQQ72s",
        partition.kind.bytes_le,
        partition.guid.bytes_le,
        start,
        start + partition.size // SECTOR - 1,
        0,
        partition.name[:_NAME_LENGTH].encode("utf-16-le"),
    )


def _protective_mbr(last: int) -> bytes:
    """Tell whoever knows the older table alone that the disk is taken, all of it."""
    record = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return (bytes(446) + record).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
