"""A disk with a system partition and a root file system, and the plainest file that holds one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from uuid import UUID

from hyperbuild.builder.disk_extents import MIB, Extent, Image, Stretch, put, round_up
from hyperbuild.builder.disk_fat import fat_volume, least_size
from hyperbuild.builder.disk_gpt import ESP_TYPE, ROOT_TYPE, TAIL, Partition, partition_table
from hyperbuild.converter.errors import InputError

#: Where firmware looks for what to start on a disk that it knows nothing of.
BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"

#: What firmware is promised to read on a fixed disk is FAT32, which begins a little above 32 MiB.
#: There is room for a second program then.
_ESP_SIZE = 64 * MIB
_LABEL = "ESP"
#: The name of the root file system's partition, from which its GUID follows, too.
ROOT_PARTITION = "root"


@dataclass(frozen=True, slots=True)
class Content:
    """What a disk is to hold.

    ``program`` is started by the firmware, ``root`` is the root file system. ``identity`` is a
    text that all GUIDs follow from, ``moment`` when its files were changed, in seconds.
    """

    program: bytes
    root: Stretch
    identity: str
    moment: int


def guid_of(identity: str, what: str) -> UUID:
    """Return a GUID that depends on the two texts alone, and is no other's."""
    digest = hashlib.sha256(f"{identity} {what}".encode()).digest()
    return UUID(bytes=digest[:16], version=4)


def system_partition(content: Content, size: int) -> tuple[Extent, ...]:
    """Return the volume of size bytes that the firmware starts the program from."""
    return fat_volume(
        {BOOT_PATH: content.program},
        size,
        label=_LABEL,
        serial=guid_of(content.identity, "volume").time_low,
        moment=content.moment,
    )


def system_partition_size(content: Content) -> int:
    """Return the least size of such a volume."""
    return least_size({BOOT_PATH: content.program})


def disk_image(content: Content, size: int | None = None) -> Image:
    """Lay content out on a disk of size bytes, by default as large as it needs to be.

    Partitions begin at whole MiB. InputError: a disk of that size is too small.
    """
    esp_size = max(_ESP_SIZE, system_partition_size(content))
    root_start = MIB + esp_size
    root_size = round_up(content.root.size, MIB)
    needed = round_up(root_start + root_size + TAIL, MIB)
    if size is not None and size < needed:
        raise InputError(
            f"a disk of {size // MIB} MiB is too small for a root file system of "
            f"{root_size // MIB} MiB and what starts it: give at least {needed // MIB}M by "
            "--disk-size, or leave it out"
        )
    partitions = (
        _partition(content, ESP_TYPE, "esp", MIB, esp_size),
        _partition(content, ROOT_TYPE, ROOT_PARTITION, root_start, root_size),
    )
    head, tail = partition_table(size or needed, partitions, guid_of(content.identity, "disk"))
    esp = (extent.shifted(MIB) for extent in system_partition(content, esp_size))
    return Image(size or needed, (head, *esp, Extent(root_start, content.root), tail))


def write_raw(fd: int, image: Image) -> None:
    """Write image into the empty file fd; what is zero takes no room on disk. OSError."""
    os.ftruncate(fd, image.size)
    for extent in image.extents:
        put(fd, extent.content, extent.offset)


def _partition(content: Content, kind: str, name: str, start: int, size: int) -> Partition:
    return Partition(UUID(kind), guid_of(content.identity, name), name, start, size)
