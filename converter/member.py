"""What a tar archive says of one file, whatever dialect it is written in."""

from __future__ import annotations

from dataclasses import dataclass

from hyperbuild.converter.errors import ContentError, printable

#: Largest extended header or long name, in bytes (what Go's archive/tar accepts).
EXTENSION_LIMIT = 1 << 20
#: Most data segments of one sparse file.
SEGMENT_LIMIT = 1 << 16


@dataclass(slots=True)
class Member:
    """One archive member. Names are raw bytes as archived; ``size`` is the file's size in bytes.

    ``stored`` bytes of data follow the header in the stream: all of the file, or for a sparse file
    the ``segments`` (offset, length) of it that are not holes, one after the other.
    """

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    size: int
    stored: int
    link: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes] | None = None
    segments: list[tuple[int, int]] | None = None

    def set_segments(self, size: int, segments: list[tuple[int, int]], where: str) -> None:
        """Take the map of a sparse file of size bytes; ContentError if the data is not as long."""
        position = 0
        for offset, length in segments:
            if offset < position or length < 0:
                break
            position = offset + length
        else:
            if position <= size and sum(length for _, length in segments) == self.stored:
                self.size = size
                self.segments = [segment for segment in segments if segment[1]]
                return
        raise ContentError(f"{where}: {printable(self.name)!r} has an impossible sparse map")
