"""A finished root file system, as an independent reader finds it: what it holds, and for DAX, how.

The image may be anybody's: whatever is wrong with it becomes its ``defect``.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hyperbuild.converter import verify_erofs, verify_ext4
from hyperbuild.converter.errors import VerificationError
from hyperbuild.converter.files import open_regular
from hyperbuild.converter.limits import DEFAULT_LIMITS
from hyperbuild.converter.survey import Contents, Name, survey_names
from hyperbuild.converter.verify import open_image
from hyperbuild.converter.verify_reader import walk_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.converter.verify_reader import FileInfo, ImageReader

BLOCK_SIZE = 4096
#: What one entry of a page table's middle level maps (x86: PMD).
HUGE_PAGE = 2 << 20


@dataclass(slots=True)
class Layout:
    """Where the data of regular files lies: how many have any, and how many of those are special.

    ``inlined`` files have a part of a block among the metadata; ``unaligned`` ones begin inside a
    block; ``large`` ones have 2 MiB or more, of which ``large_aligned`` begin at a multiple of it.
    ``example`` is the first that is inlined or unaligned.
    """

    files: int = 0
    inlined: int = 0
    unaligned: int = 0
    large: int = 0
    large_aligned: int = 0
    example: bytes = b""

    def add(self, path: bytes, info: FileInfo) -> None:
        """Count one regular file."""
        self.files += 1
        stray = [size for start, size in info.runs if start % BLOCK_SIZE]
        if stray and not self.example:
            self.example = path
        self.inlined += any(size < BLOCK_SIZE for size in stray)
        self.unaligned += any(size >= BLOCK_SIZE for size in stray)
        if info.size >= HUGE_PAGE:
            self.large += 1
            self.large_aligned += info.runs[0][0] % HUGE_PAGE == 0


@dataclass(frozen=True, slots=True)
class Examined:
    """A root file system as it was found: sizes in bytes, "" and 0 for what is not known.

    ``defect`` says why it could not be read to its end; then ``contents`` is None.
    """

    format: str
    size: int
    block_size: int
    layout: Layout = field(default_factory=Layout)
    contents: Contents | None = None
    defect: str = ""


def examine_rootfs(path: Path) -> Examined:
    """Read all inodes and directories of the file path; InputError if it is no regular file."""
    fd = open_regular(path)
    try:
        file_format, block_size = _superblock(fd)
        size = os.fstat(fd).st_size
        layout = Layout()
        if not file_format:
            return Examined("", size, 0, layout, defect="it is neither an EROFS nor an ext4")
        try:
            contents = _contents(fd, layout)
        except VerificationError as error:
            return Examined(file_format, size, block_size, layout, defect=str(error))
        return Examined(file_format, size, block_size, layout, contents)
    finally:
        os.close(fd)


def _superblock(fd: int) -> tuple[str, int]:
    """Return format and block size in bytes, ("", 0) if there is no superblock that is known."""
    if _at(fd, verify_ext4.MAGIC_OFFSET, 2) == verify_ext4.MAGIC:
        return "ext4", 1024 << min(int.from_bytes(_at(fd, 1048, 4), "little"), 16)
    if _at(fd, verify_erofs.MAGIC_OFFSET, 4) == verify_erofs.MAGIC:
        return "erofs", 1 << min(int.from_bytes(_at(fd, 1036, 1), "little"), 26)
    return "", 0


def _at(fd: int, offset: int, size: int) -> bytes:
    return os.pread(fd, size, offset)


def _contents(fd: int, layout: Layout) -> Contents:
    reader = open_image(fd)
    try:
        return survey_names(_names(reader, layout))
    finally:
        reader.close()


def _names(reader: ImageReader, layout: Layout) -> Iterator[Name]:
    seen: set[int] = set()
    for path, info in walk_once(reader, DEFAULT_LIMITS.entries):
        if stat.S_ISREG(info.mode) and info.size and info.nid not in seen:
            seen.add(info.nid)
            layout.add(path, info)
        yield Name(path, info.mode, info.size, info.nid)
