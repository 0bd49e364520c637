"""A root file system under dm-verity: what the guest's kernel is told, and what that excludes.

The kernel checks each block that it reads by a tree of hashes, whose root's hash stands on its
command line; a block that is another ends the VM. Sources: Linux,
Documentation/admin-guide/device-mapper/verity.rst and dm-init.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.machine import block_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.launcher.bundle import HashTreeInfo
    from hyperbuild.launcher.machine import Disk

#: What the kernel must have to make the verified device before there is any process.
OPTIONS = ("CONFIG_DM_VERITY", "CONFIG_DM_INIT")

_BLOCK = 4096
_SECTOR = 512
#: Several devices of a pod have to fit on x86's command line of 2048 bytes, with all its words.
_MOST = 5


def verity_table(verity: HashTreeInfo, device: str) -> str:
    """Return the table of the device mapper that has what is read from device verified.

    device is as in ``root=``: "/dev/vda" or "PARTUUID=…", with file system and tree at the offsets
    that they have in the rootfs file.
    """
    blocks = verity.hash_offset // _BLOCK
    # Of the tree's superblock, a block of its own, the kernel knows nothing.
    return (
        f"0 {verity.hash_offset // _SECTOR} verity 1 {device} {device} {_BLOCK} {_BLOCK} "
        f"{blocks} {blocks + 1} sha256 {verity.root_hash} {verity.salt} 1 panic_on_corruption"
    )


def mapping_word(tables: Sequence[str]) -> str:
    """Return the word of a kernel command line that makes /dev/dm-0, dm-1, … of tables."""
    devices = (f"root{number},,{number},ro,{table}" for number, table in enumerate(tables))
    return f'dm-mod.create="{";".join(devices)}"'


def verity_word(disks: Sequence[Disk]) -> str:
    """Return the word for those of disks that are verified; InputError if they are too many."""
    tables = [
        verity_table(disk.verity, block_device(disks, index))
        for index, disk in enumerate(disks)
        if disk.verity
    ]
    if len(tables) > _MOST:
        raise InputError(
            f"{len(tables)} root file systems under dm-verity do not fit on the kernel's command "
            f"line, but {_MOST}; convert others without --verity"
        )
    return mapping_word(tables)


def check_kernel(known: tuple[str, ...] | None) -> None:
    """Raise InputError for a kernel that is known to lack what dm-verity needs."""
    missing = [name for name in OPTIONS if known is not None and name not in known]
    if missing:
        raise InputError(
            f"the bundle's kernel has no {missing[0]}, which its dm-verity root file system needs; "
            "convert the image again with --verity --profile disk"
        )


def no_dax(what: str) -> InputError:
    """Return the error of what, which asks for a root file system under dm-verity to be mapped."""
    return InputError(
        f"{what} and dm-verity exclude each other: what is mapped is read past the kernel's check; "
        f"drop {what}, or convert the image without --verity"
    )
