"""A deterministic writer of cpio archives in the "newc" format, which the kernel unpacks.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Several archives may
follow one another in an initramfs, each from a multiple of four bytes.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
#: The size of an archive is a multiple of this, as the cpio tool writes it.
ARCHIVE_ALIGNMENT = 512
SPEC_DIRECTORY = "spec"


class CpioEntry(Record):
    """One file: name relative to the root, st_mode, content, device numbers, uid and gid."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    owner: tuple[int, int] = (0, 0)


def write_cpio(entries: Iterable[CpioEntry]) -> bytes:
    """Return an archive of entries in their order (a directory stands before what is in it).

    Times are zero and inode numbers count up, so that equal entries give equal bytes.
    """
    archive = bytearray()
    for number, entry in enumerate(entries, 1):
        archive += _encode(entry, number)
    archive += _encode(CpioEntry(_TRAILER, 0), 0)
    return bytes(archive) + bytes(-len(archive) % ARCHIVE_ALIGNMENT)


def spec_segment(files: Mapping[str, bytes], more: Iterable[CpioEntry] = ()) -> bytes:
    """Return the archive of a boot spec: the directory "spec" and files in it, for root alone.

    A name may be that of a file in a directory of its own (``1/environ``). more are entries beside
    them.
    """
    inner = sorted({name.partition("/")[0] for name in files if "/" in name})
    directories = (SPEC_DIRECTORY, *(f"{SPEC_DIRECTORY}/{name}" for name in inner))
    return write_cpio(
        (
            *(CpioEntry(name, stat.S_IFDIR | 0o700) for name in directories),
            *(
                CpioEntry(f"{SPEC_DIRECTORY}/{name}", stat.S_IFREG | 0o600, content)
                for name, content in sorted(files.items())
            ),
            *more,
        )
    )


def _encode(entry: CpioEntry, number: int) -> bytes:
    name = entry.name.encode() + b"\0"
    fields = (
        number,
        entry.mode,
        *entry.owner,
        2 if stat.S_ISDIR(entry.mode) else 1,
        0,
        len(entry.data),
        0,
        0,
        *entry.device,
        len(name),
        0,
    )
    header = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.data)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
