"""What the programs in an image's root file system say of what they need.

Nothing is unpacked: an ELF file is read where it lies in the image, and only its headers.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

from hyperbuild.converter.errors import printable
from hyperbuild.converter.extents import BLOCK_SIZE

if TYPE_CHECKING:
    from typing import IO

    from hyperbuild.converter.convert import Rootfs
    from hyperbuild.converter.tree import Inode

_TAG_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Program:
    """What an ELF file says: its machine ("EM_X86_64"), its loader ("" if static), libraries.

    ``paths`` are where it wants its libraries looked for (DT_RPATH, DT_RUNPATH).
    """

    machine: str
    loader: str
    needed: tuple[str, ...]
    paths: tuple[str, ...]


class _Window(io.RawIOBase):
    """A file of the root file system as a seekable stream; nothing is read ahead."""

    def __init__(self, rootfs: Rootfs, inode: Inode) -> None:
        self._fd = rootfs.fd
        self._start = inode.block * BLOCK_SIZE
        self._size = inode.size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._size)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._fd, count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def read_head(rootfs: Rootfs, inode: Inode, size: int) -> bytes:
    """Return up to size bytes from the start of a regular file."""
    return _Window(rootfs, inode).read(min(size, inode.size)) or b"" if inode.size else b""


def read_program(rootfs: Rootfs, inode: Inode) -> Program | None:
    """Read headers and dynamic section of an ELF file; None if it is damaged or none."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    if not stat.S_ISREG(inode.mode) or not inode.size:
        return None
    stream = io.BufferedReader(_Window(rootfs, inode), BLOCK_SIZE)
    loader, needed, paths = "", [], []
    try:
        elf = ELFFile(cast("IO[bytes]", stream))
        for segment in islice(elf.iter_segments(), _TAG_LIMIT):
            if isinstance(segment, InterpSegment):
                loader = printable(segment.get_interp_name())
            elif isinstance(segment, DynamicSegment):
                for tag in islice(segment.iter_tags(), _TAG_LIMIT):
                    if tag.entry.d_tag == "DT_NEEDED":
                        needed.append(str(getattr(tag, "needed")))  # noqa: B009 - made by the tag's kind
                    elif tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                        kind = tag.entry.d_tag.removeprefix("DT_").lower()
                        text = str(getattr(tag, kind))
                        paths += text.split(":")
        machine = str(elf["e_machine"])
    except (
        ELFError, ConstructError, ValueError, OverflowError, AttributeError, TypeError, KeyError,
        AssertionError, MemoryError, RecursionError, OSError,
    ):  # fmt: skip
        # A hostile file may be wrong in any way that the library did not foresee.
        return None
    return Program(machine, loader, tuple(needed), tuple(paths))
