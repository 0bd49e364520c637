"""Sparse files in tar layers, by hand: PAX format 1.0, as GNU tar writes it."""

from __future__ import annotations

import io
import tarfile


def sparse_layer(size: int, segments: list[tuple[int, bytes]], name: str = "sparse") -> bytes:
    """Return a tar with one file of size bytes that is a hole but for segments (offset, data)."""
    numbers = [len(segments), *(n for offset, data in segments for n in (offset, len(data)))]
    sparse_map = "".join(f"{number}\n" for number in numbers).encode()
    stored = sparse_map.ljust(-(-len(sparse_map) // 512) * 512, b"\0")
    stored += b"".join(data for _, data in segments)
    info = tarfile.TarInfo(name)
    info.size = len(stored)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(stored))
    return buffer.getvalue()
