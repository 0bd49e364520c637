"""How much an image may ask for before it is refused, and the count that is kept against it.

An image is a stranger's: a few kilobytes can declare exabytes. Every limit has an option of
``hyperbuild convert``, which the error names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, UnavailableError, printable
from hyperbuild.converter.oci import DOCUMENT_LIMIT
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.converter.oci import Descriptor

#: Below this many bytes, a layer's compression ratio is nobody's concern.
RATIO_FLOOR = 256 << 20
#: Largest zstd window accepted, in bytes: the decoder allocates what the frame header asks for.
ZSTD_WINDOW_LIMIT = 64 << 20

#: Most that documents may be allowed to have: bundle.json repeats the config, and is read whole.
LARGEST_DOCUMENT = 8 << 20


class Limits(Record):
    """The limits of one conversion; sizes in bytes.

    ``unpacked`` bounds what all layers unpack to, holes included; ``file`` one file; ``entries``
    the entries of all layers; ``depth`` the components of a path, symlinks followed; ``metadata``
    the names, link targets and extended attributes of all layers, which are held in memory;
    ``ratio`` what a layer unpacks to for each byte of it; ``document`` each index, manifest and
    config. ``check_space`` has free disk space compared with the layers' compressed sizes before
    anything is written.
    """

    unpacked: int = 256 << 30
    file: int = 64 << 30
    entries: int = 1_000_000
    depth: int = 256
    metadata: int = 256 << 20
    ratio: int = 200
    document: int = DOCUMENT_LIMIT
    check_space: bool = True


DEFAULT_LIMITS = Limits()


class LimitError(ContentError):
    """An image asks for more than a limit allows."""


class Budget:
    """What the layers read so far have used up of the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._unpacked = 0
        self._entries = 0
        self._metadata = 0

    def stream(self, where: str, count: int, total: int, packed: int) -> None:
        """Count count more bytes of the layer where, total so far, of packed compressed bytes."""
        self._grow(where, count)
        ratio = self.limits.ratio
        if total > RATIO_FLOOR and total > ratio * packed:
            raise LimitError(
                f"{where} unpacks to more than {ratio} times its {shown_size(packed)}: it may be a "
                "bomb; if you trust it, raise --max-ratio"
            )

    def holes(self, where: str, count: int) -> None:
        """Count count bytes of holes: what a sparse file has beyond its layer's bytes."""
        self._grow(where, count)

    def entry(self, where: str, path: bytes, size: int, held: int) -> None:
        """Count the entry path: a file's size, and the bytes that are held of it."""
        limits = self.limits
        self._entries += 1
        self._metadata += held
        if size > limits.file:
            raise LimitError(
                f"{where}: {printable(path[:256])} has {shown_size(size)}, over the limit of "
                f"{shown_size(limits.file)} for one file; if that is right, raise --max-file"
            )
        if path.count(b"/") >= limits.depth:
            raise too_deep(where, path, limits.depth)
        if self._entries > limits.entries:
            raise LimitError(
                f"{where}: the image has more than {limits.entries} entries; "
                "if that is right, raise --max-entries"
            )
        if self._metadata > limits.metadata:
            raise LimitError(
                f"{where}: the image's names and attributes take more than "
                f"{shown_size(limits.metadata)}; if that is right, raise --max-metadata"
            )

    def _grow(self, where: str, count: int) -> None:
        self._unpacked += count
        if self._unpacked > self.limits.unpacked:
            raise LimitError(
                f"{where}: the image unpacks to more than {shown_size(self.limits.unpacked)}; "
                "if that is right, raise --max-unpacked"
            )


def too_long(where: str, limit: int) -> LimitError:
    """Return the error for an index, manifest or config of more than limit bytes."""
    return LimitError(
        f"{where}: larger than {shown_size(limit)}, which documents of images are not; "
        "if that is right, raise --max-document"
    )


def too_deep(where: str, path: bytes, depth: int) -> LimitError:
    """Return the error for a path of more than depth components."""
    return LimitError(
        f"{where}: {printable(path[:64])}… lies more than {depth} directories deep; "
        "if that is right, raise --max-depth"
    )


def check_space(fd: int, layers: Iterable[Descriptor]) -> None:
    """Raise UnavailableError if fd's disk has less free space than layers have compressed bytes.

    No more is known before they are read. File systems that tell nothing of space pass.
    """
    disk = os.fstatvfs(fd)
    needed, free = sum(layer.size for layer in layers), disk.f_bavail * disk.f_frsize
    if disk.f_blocks and needed > free:
        raise UnavailableError(
            f"No space left for the root file system: its layers have {shown_size(needed)} even "
            f"compressed, and {shown_size(free)} are free; free some, or write elsewhere "
            "(--no-space-check tries in any case)"
        )


def shown_size(size: int) -> str:
    """Return size bytes for people: 640 KiB, 1.5 GiB."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
