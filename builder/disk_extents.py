"""A disk as what is on it: pieces at their places, and zeros everywhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hyperbuild.converter.files import copy_range

SECTOR = 512
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """The first ``size`` bytes of an open file, which are not read until they are written."""

    fd: int
    size: int

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Extent:
    """What lies at ``offset`` bytes from the beginning."""

    offset: int
    content: bytes | Stretch

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + len(self.content)

    def shifted(self, by: int) -> Extent:
        """Return it so many bytes further on."""
        return Extent(self.offset + by, self.content)


@dataclass(frozen=True, slots=True)
class Image:
    """A disk of ``size`` bytes; ``extents`` are in the order of their offsets, and apart."""

    size: int
    extents: tuple[Extent, ...]


def put(fd: int, content: bytes | Stretch, position: int) -> None:
    """Write content at position of the file fd, shared on disk where it can be; OSError."""
    if isinstance(content, Stretch):
        copy_range(content.fd, 0, fd, position, content.size)
        return
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written


def round_up(size: int, unit: int) -> int:
    """Return the least multiple of unit that is not below size."""
    return -(-size // unit) * unit
