"""Output of a pod's containers as people see it: whole lines, each behind its container's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.launcher.journal import NOTE, container_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes of a line that does not end: what is longer is cut there.
_LONGEST_LINE = 64 << 10


class Labels:
    """Labels the lines of a journal's streams; names are the containers', in their order."""

    def __init__(self, names: Sequence[str]) -> None:
        width = max(map(len, names), default=0)
        self._labels = [f"{name:{width}} | ".encode() for name in names]
        self._begun: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> bytes:
        """Return the lines of a stream that data completes, labelled; no data is its end."""
        *lines, rest = (self._begun.pop(stream, b"") + data).split(b"\n")
        if rest and (not data or len(rest) > _LONGEST_LINE):
            lines, rest = [*lines, rest], b""
        if rest:
            self._begun[stream] = rest
        label = b"" if stream == NOTE else self._labels[container_of(stream)]
        return b"".join(label + line + b"\n" for line in lines)

    def rest(self) -> bytes:
        """Return what of lines is there that were never completed."""
        return b"".join(self.feed(stream, b"") for stream in tuple(self._begun))
