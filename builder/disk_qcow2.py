"""QEMU's disk format (docs/interop/qcow2.txt there), version 3: what is zero is not in the file.

header | refcount table | refcount blocks | L1 table | L2 tables | data      in clusters
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.disk_extents import put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.builder.disk_extents import Image

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
#: Clusters that a refcount block counts (16 bits each), and that an L2 table points to.
_COUNTED, _POINTED = _CLUSTER // 2, _CLUSTER // 8
#: In an entry of L1 and L2: nobody else uses the cluster.
_ONE_USER = 1 << 63
_HEADER_SIZE = 104


@dataclass(frozen=True, slots=True)
class _Shape:
    """How many clusters each part takes, in their order, and of all."""

    refcount_table: int
    refcount_blocks: int
    l1: int
    l2: int
    data: int

    @property
    def metadata(self) -> int:
        """The number of clusters before the data."""
        return 1 + self.refcount_table + self.refcount_blocks + self.l1 + self.l2


def write_qcow2(fd: int, image: Image) -> None:
    """Write image into the empty file fd; OSError."""
    used = _used_clusters(image)
    tables = sorted({cluster // _POINTED for cluster in used})
    shape = _shape(image.size, len(tables), len(used))
    os.ftruncate(fd, (shape.metadata + shape.data) * _CLUSTER)
    position = 0
    for part, clusters in _metadata(image.size, used, tables, shape):
        put(fd, part, position)
        position += clusters * _CLUSTER
    places = {cluster: shape.metadata + index for index, cluster in enumerate(used)}
    for extent in image.extents:
        # All clusters of an extent are used, so those that follow each other do so in the file.
        cluster, inside = divmod(extent.offset, _CLUSTER)
        put(fd, extent.content, places[cluster] * _CLUSTER + inside)


def _used_clusters(image: Image) -> list[int]:
    used = set[int]()
    for extent in image.extents:
        used.update(range(extent.offset // _CLUSTER, -(-extent.end // _CLUSTER)))
    return sorted(used)


def _shape(size: int, tables: int, data: int) -> _Shape:
    pointers = -(-size // (_CLUSTER * _POINTED))
    l1 = max(-(-pointers * 8 // _CLUSTER), 1)
    blocks = 1
    while True:
        table = -(-blocks * 8 // _CLUSTER)
        shape = _Shape(table, blocks, l1, tables, data)
        if blocks * _COUNTED >= shape.metadata + data:
            return shape
        blocks += 1


def _metadata(
    size: int, used: Sequence[int], tables: Sequence[int], shape: _Shape
) -> tuple[tuple[bytes, int], ...]:
    """Return each part, and how many clusters it takes."""
    block_start = 1 + shape.refcount_table
    l1_start = block_start + shape.refcount_blocks
    l2_start = l1_start + shape.l1
    pointers = -(-size // (_CLUSTER * _POINTED))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        0,
        0,
        _CLUSTER_BITS,
        size,
        0,
        pointers,
        l1_start * _CLUSTER,
        _CLUSTER,
        shape.refcount_table,
        0,
        0,
        0,
        0,
        0,
        4,
        _HEADER_SIZE,
    )
    blocks = (number * _CLUSTER for number in range(block_start, l1_start))
    l1 = [0] * pointers
    for index, table in enumerate(tables):
        l1[table] = (l2_start + index) * _CLUSTER | _ONE_USER
    rows = {table: [0] * _POINTED for table in tables}
    for index, cluster in enumerate(used):
        place = (shape.metadata + index) * _CLUSTER
        rows[cluster // _POINTED][cluster % _POINTED] = place | _ONE_USER
    l2 = [entry for table in tables for entry in rows[table]]
    return (
        (header, 1),
        (_quads(tuple(blocks)), shape.refcount_table),
        (struct.pack(">H", 1) * (shape.metadata + shape.data), shape.refcount_blocks),
        (_quads(l1), shape.l1),
        (_quads(l2), shape.l2),
    )


def _quads(numbers: Sequence[int]) -> bytes:
    return struct.pack(f">{len(numbers)}Q", *numbers)
