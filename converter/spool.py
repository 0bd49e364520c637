"""A stream that has to be read more than once: copied to a nameless file on the store's disk."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import files
from hyperbuild.converter.errors import ContentError, UnavailableError
from hyperbuild.converter.limits import ZSTD_WINDOW_LIMIT, Budget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.store import Store

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 20


def uncompressed(fd: int, path: Path, store: Store, limits: Limits) -> int:
    """Return fd, or if the file is compressed as a whole, a nameless file with its content.

    LimitError if that is more than limits allow. fd is closed unless it is returned.
    """
    magic = os.pread(fd, 4, 0)
    if not magic.startswith(GZIP) and magic != ZSTD:
        return fd
    with os.fdopen(fd, "rb") as packed, _opened(packed, magic) as content:

        def read(size: int) -> bytes:
            try:
                piece: bytes = content.read(size)
            except Exception as error:  # each library has errors of its own
                raise ContentError(
                    f"{path}: its compressed stream is damaged; save the image again"
                ) from error
            return piece

        return spool(read, path, store, limits, packed=os.fstat(fd).st_size)


def _opened(packed: BinaryIO, magic: bytes) -> Any:
    if magic == ZSTD:
        import zstandard

        decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_LIMIT)
        return decoder.stream_reader(packed, read_across_frames=True)
    from isal import igzip

    return igzip.IGzipFile(fileobj=packed)  # type: ignore[no-untyped-call]


def spool(
    read: Callable[[int], bytes],
    where: object,
    store: Store,
    limits: Limits,
    *,
    packed: int | None = None,
) -> int:
    """Copy what read gives into a nameless file in the store, and return its descriptor.

    packed is the size it was compressed to, None if it was not. LimitError beyond limits.
    """
    budget, total = Budget(limits), 0
    with tempfile.TemporaryFile(dir=store.workspace(), buffering=0) as file:
        while piece := read(_PIECE):
            total += len(piece)
            budget.stream(str(where), len(piece), total, total if packed is None else packed)
            try:
                files.write_all(file.fileno(), piece)
            except OSError as error:
                raise UnavailableError(
                    f"cannot unpack {where} into {store.root}: {error.strerror}; free space there"
                ) from error
        return os.dup(file.fileno())
