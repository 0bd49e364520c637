"""Microsoft's fixed VHD: a raw disk with a footer behind it, which is what Azure takes.

Source: "Virtual Hard Disk Image Format Specification", 1.0.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from hyperbuild.builder.disk_extents import SECTOR, put
from hyperbuild.builder.disk_raw import write_raw

if TYPE_CHECKING:
    from uuid import UUID

    from hyperbuild.builder.disk_extents import Image

#: Readers that come from before large disks take the size from cylinders, heads and sectors, which
#: round it down; those of today take it as it stands, but of programs alone that they know.
_CREATOR = b"win "
#: 1 January 2000, from which the format counts seconds.
_EPOCH = 946684800
_FIXED = 2


def write_vhd(fd: int, image: Image, guid: UUID, moment: int) -> None:
    """Write image into the empty file fd; guid and moment (seconds) are the disk's. OSError.

    Azure takes disks of whole MiB alone.
    """
    write_raw(fd, image)
    os.ftruncate(fd, image.size + SECTOR)
    put(fd, _footer(image.size, guid, moment), image.size)


def _footer(size: int, guid: UUID, moment: int) -> bytes:
    def spelled(checksum: int) -> bytes:
        return struct.pack(
            ">8sIIQI4sI4sQQHBBII16s",
            b"conectix",
            2,
            0x00010000,
            0xFFFFFFFFFFFFFFFF,
            min(max(moment - _EPOCH, 0), 0xFFFFFFFF),
            _CREATOR,
            0x000A0000,
            b"Wi2k",
            size,
            size,
            *_geometry(size // SECTOR),
            _FIXED,
            checksum,
            guid.bytes,
        ).ljust(SECTOR, b"\0")

    return spelled(~sum(spelled(0)) & 0xFFFFFFFF)


def _geometry(sectors: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors of a track, as the specification's appendix has them."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    track = 17
    heads = max(-(-(sectors // track) // 1024), 4)
    if sectors // track >= heads * 1024 or heads > 16:
        track, heads = 31, 16
    if sectors // track >= heads * 1024:
        track, heads = 63, 16
    return sectors // track // heads, heads, track
