"""A FAT file system with files in it, as firmware reads it: FAT16, or FAT32 where it is large.

Source: Microsoft's "FAT: General Overview of On-Disk Format", 1.03. Which of the two it is follows
from the number of clusters alone; a cluster is a sector here, so that small volumes need no filler.
Names are of 8 and 3 letters: EFI's own are.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hyperbuild.builder.disk_extents import MIB, SECTOR, Extent, round_up

if TYPE_CHECKING:
    from collections.abc import Mapping

#: From so many clusters on a volume is FAT32; below the least it would be FAT12.
_FAT32_CLUSTERS, _LEAST_CLUSTERS = 65525, 4085
#: Entries of the root directory of FAT16, which cannot grow.
_ROOT_ENTRIES = 512
_ENTRY_SIZE = 32
_LABEL, _DIRECTORY, _FILE = 0x08, 0x10, 0x20
_FIXED_DISK = 0xF8
_NAME = re.compile(r"[A-Z0-9_-]{1,8}(?:\.[A-Z0-9_-]{1,3})?")
#: The sector where FAT32 has its boot sector once more.
_BACKUP = 6
#: Dates are years from here on.
_EPOCH = datetime(1980, 1, 1, tzinfo=UTC)

#: What a directory holds, by name: files and directories.
_Tree = dict[str, "bytes | _Tree"]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where things are: sectors before the tables, of each of two tables, of the root directory."""

    sectors: int
    reserved: int
    table: int
    root: int
    is_fat32: bool

    @property
    def data(self) -> int:
        """The sector of cluster 2, which is the first."""
        return self.reserved + 2 * self.table + self.root

    @property
    def clusters(self) -> int:
        return self.sectors - self.data


def least_size(files: Mapping[str, bytes]) -> int:
    """Return how large a volume is, in whole MiB, that has room for files."""
    data = sum(round_up(len(content), SECTOR) + 2 * SECTOR for content in files.values())
    # Beside the data: at most four bytes in each of two tables for each cluster, and the rest.
    return round_up(data + data // SECTOR * 8 + 3 * MIB, MIB)


def fat_volume(
    files: Mapping[str, bytes], size: int, *, label: str, serial: int, moment: int
) -> tuple[Extent, ...]:
    """Return a volume of size bytes with files by path ("EFI/BOOT/BOOTX64.EFI").

    size is at least ``least_size``; moment, in seconds since the epoch, is when all was changed.
    ValueError: a name is not of 8 and 3 capital letters, or there is no room.
    """
    shape = _shape(size // SECTOR)
    volume = _Volume(shape, _stamp(moment))
    listing = volume.line(label, _LABEL, 0, 0) + volume.listing(_tree(files), 0)
    if shape.is_fat32:
        # The boot sector names cluster 2, which is the first that is taken.
        root = Extent(shape.data * SECTOR, listing)
    else:
        root = Extent((shape.data - shape.root) * SECTOR, listing)
    boot = _boot_sector(shape, label, serial)
    heads = [Extent(0, boot)]
    if shape.is_fat32:
        information = _information(shape.clusters + 2 - volume.free, volume.free)
        heads = [Extent(place * SECTOR, boot + information) for place in (0, _BACKUP)]
    table = volume.table()
    tables = [Extent((shape.reserved + copy * shape.table) * SECTOR, table) for copy in range(2)]
    return tuple(sorted((*heads, *tables, root, *volume.data), key=lambda extent: extent.offset))


class _Volume:
    """The clusters of a volume, taken from the first on."""

    def __init__(self, shape: _Shape, stamp: tuple[int, int]) -> None:
        self._shape = shape
        self._stamp = stamp
        self._chains: list[tuple[int, int]] = []
        self.data: list[Extent] = []
        self.free = 2
        if shape.is_fat32:
            self._take(1)

    def listing(self, directory: _Tree, own: int) -> bytes:
        """Store what is in directory, and return its lines; own is its cluster, 0 the root's."""
        lines = []
        for name, child in sorted(directory.items()):
            if isinstance(child, bytes):
                first = self._take(-(-len(child) // SECTOR)) if child else 0
                self._put(first, child)
                lines.append(self.line(name, _FILE, first, len(child)))
                continue
            first = self._take(1)
            dots = self.line(".", _DIRECTORY, first, 0) + self.line("..", _DIRECTORY, own, 0)
            self._put(first, dots + self.listing(child, first))
            lines.append(self.line(name, _DIRECTORY, first, 0))
        if (len(lines) + 2) * _ENTRY_SIZE > SECTOR:
            raise ValueError("a directory has too many files")
        return b"".join(lines)

    def line(self, name: str, kind: int, cluster: int, size: int) -> bytes:
        """Return the entry of a file, a directory, or the volume's label."""
        stem, _, suffix = (name, "", "") if name.startswith(".") else name.partition(".")
        spelled = name.ljust(11) if kind == _LABEL else stem.ljust(8) + suffix.ljust(3)
        time, date = self._stamp
        head = struct.pack("<11sBBBHHH", spelled.encode("ascii"), kind, 0, 0, time, date, date)
        return head + struct.pack("<HHHHI", cluster >> 16, time, date, cluster & 0xFFFF, size)

    def table(self) -> bytes:
        """Return the table as far as it is used: each cluster names the next one."""
        end, code = (0x0FFFFFFF, "I") if self._shape.is_fat32 else (0xFFFF, "H")
        entries = [end & ~0xFF | _FIXED_DISK, end]
        for first, count in self._chains:
            entries += [*range(first + 1, first + count), end]
        return struct.pack(f"<{len(entries)}{code}", *entries)

    def _take(self, count: int) -> int:
        if self.free + count > self._shape.clusters + 2:
            raise ValueError("the volume is too small for what is to be in it")
        first, self.free = self.free, self.free + count
        self._chains.append((first, count))
        return first

    def _put(self, cluster: int, content: bytes) -> None:
        if content:
            self.data.append(Extent((self._shape.data + cluster - 2) * SECTOR, content))


def _tree(files: Mapping[str, bytes]) -> _Tree:
    root: _Tree = {}
    for path, content in files.items():
        *above, name = path.split("/")
        here = root
        for part in (*above, name):
            if not _NAME.fullmatch(part):
                raise ValueError(f"{part} is not a name of 8 and 3 letters")
        for part in above:
            child = here.setdefault(part, {})
            if isinstance(child, bytes):
                raise ValueError(f"{part} is a file and a directory")  # noqa: TRY004
            here = child
        here[name] = content
    return root


def _shape(sectors: int) -> _Shape:
    for is_fat32 in (False, True):
        reserved, root = (32, 0) if is_fat32 else (1, _ROOT_ENTRIES * _ENTRY_SIZE // SECTOR)
        width = 4 if is_fat32 else 2
        # Large enough if there were no tables: a little more than is needed.
        table = -(-(sectors - reserved - root + 2) * width // SECTOR)
        shape = _Shape(sectors, reserved, table, root, is_fat32)
        if is_fat32 == (shape.clusters >= _FAT32_CLUSTERS) and shape.clusters >= _LEAST_CLUSTERS:
            return shape
    raise ValueError(f"no FAT volume has {sectors} sectors")


def _boot_sector(shape: _Shape, label: str, serial: int) -> bytes:
    head = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x58\x90" if shape.is_fat32 else b"\xeb\x3c\x90",
        b"HYPERBLD",
        SECTOR,
        1,
        shape.reserved,
        2,
        0 if shape.is_fat32 else _ROOT_ENTRIES,
        0 if shape.is_fat32 or shape.sectors > 0xFFFF else shape.sectors,
        _FIXED_DISK,
        0 if shape.is_fat32 else shape.table,
        32,
        64,
        0,
        shape.sectors if shape.is_fat32 or shape.sectors > 0xFFFF else 0,
    )
    if shape.is_fat32:
        # Both tables are kept alike; the root's cluster, the sectors of FSInfo and of the copy.
        head += struct.pack("<IHHIHH12x", shape.table, 0, 0, 2, 1, _BACKUP)
    kind = b"FAT32   " if shape.is_fat32 else b"FAT16   "
    head += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, serial, label.ljust(11).encode("ascii"), kind)
    return head.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _information(free: int, following: int) -> bytes:
    """Return FAT32's FSInfo: so many clusters are free, the first of them is that."""
    head = b"RRaA".ljust(484, b"\0") + struct.pack("<4sII", b"rrAa", free, following)
    return head.ljust(SECTOR - 4, b"\0") + b"\0\0\x55\xaa"


def _stamp(moment: int) -> tuple[int, int]:
    """Return time and date as entries have them: seconds in pairs, years from 1980 to 2107."""
    when = max(datetime.fromtimestamp(moment, UTC), _EPOCH)
    years = min(when.year - _EPOCH.year, 127)
    time = when.hour << 11 | when.minute << 5 | when.second // 2
    return time, years << 9 | when.month << 5 | when.day
