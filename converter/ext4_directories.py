"""Directories as ext4 keeps them: blocks of entries, and an index by hash over the big ones.

Source: fs/ext4/ext4.h, namei.c and hash.c of Linux (half MD4, bytes of names unsigned).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.extents import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: s_def_hash_version: half MD4.
HASH_VERSION = 1
#: Directories of more blocks than this are indexed; fewer are searched as fast without.
LINEAR_LIMIT = 4

_HEAD = Struct("<IHBB")
_DIRECTORY_TYPE = 2
_DOTS_SIZE = 24
_RECORD_LENGTH = Struct("<H")
_INDEX_INFO = Struct("<IBBBB")
_INDEX_ENTRY = Struct("<II")
_COUNT_LIMIT = Struct("<HH")
_ROOT_START = _DOTS_SIZE + _INDEX_INFO.size
_ROOT_LIMIT = (BLOCK_SIZE - _ROOT_START) // _INDEX_ENTRY.size
_NODE_START = _HEAD.size
_NODE_LIMIT = (BLOCK_SIZE - _NODE_START) // _INDEX_ENTRY.size
_MASK = 0xFFFFFFFF
_END_OF_HASHES = 0x7FFFFFFF << 1
_INITIAL_STATE = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)


@dataclass(frozen=True, slots=True)
class Directory:
    """How a directory's names fill its blocks; ``hashes`` has each leaf's first hash if indexed."""

    leaves: list[list[bytes]]
    hashes: list[int]

    @property
    def is_indexed(self) -> bool:
        """Whether there is an index over the leaves."""
        return bool(self.hashes)

    @property
    def nodes(self) -> int:
        """The number of index blocks between the root and the leaves."""
        count = len(self.hashes)
        return -(-count // _NODE_LIMIT) if count > _ROOT_LIMIT else 0

    @property
    def blocks(self) -> int:
        """The number of blocks in all."""
        return len(self.leaves) + (1 + self.nodes if self.is_indexed else 0)


def plan_directory(names: Iterable[bytes]) -> Directory:
    """Distribute names over blocks, in byte order, or by hash if they are many.

    ContentError if the index would be too deep.
    """
    ordered = sorted(names)
    leaves = _fill(ordered, BLOCK_SIZE - _DOTS_SIZE)
    if len(leaves) <= LINEAR_LIMIT:
        return Directory(leaves, [])
    by_name = {name: hash_name(name) for name in ordered}
    leaves = _fill(sorted(ordered, key=by_name.__getitem__), BLOCK_SIZE)
    hashes = []
    previous = -1
    for leaf in leaves:
        first = by_name[leaf[0]]
        # An odd hash: names of this hash begin in the block before.
        hashes.append(first | (first == previous))
        previous = by_name[leaf[-1]]
    if len(leaves) > _ROOT_LIMIT * _NODE_LIMIT:
        raise ContentError(f"{len(ordered)} names are more than an ext4 directory can index")
    return Directory(leaves, hashes)


def _fill(names: list[bytes], first_room: int) -> list[list[bytes]]:
    leaves: list[list[bytes]] = [[]]
    room = first_room
    for name in names:
        need = len(name) + 11 & ~3
        if need > room:
            leaves.append([])
            room = BLOCK_SIZE
        leaves[-1].append(name)
        room -= need
    return leaves


def encode_directory(
    directory: Directory, own: int, parent: int, entry: Callable[[bytes], tuple[int, int]]
) -> list[bytes]:
    """Return the blocks; entry gives a name's (inode number, file type)."""
    first, *others = directory.leaves
    if not directory.is_indexed:
        return [_leaf(first, entry, _dots(own, parent)), *(_leaf(leaf, entry) for leaf in others)]
    return [
        *_index(directory, own, parent),
        *(_leaf(leaf, entry) for leaf in directory.leaves),
    ]


def _dots(own: int, parent: int) -> bytes:
    return (
        _HEAD.pack(own, 12, 1, _DIRECTORY_TYPE)
        + b".\0\0\0"
        + _HEAD.pack(parent, 12, 2, _DIRECTORY_TYPE)
        + b"..\0\0"
    )


def _leaf(
    names: list[bytes], entry: Callable[[bytes], tuple[int, int]], start: bytes = b""
) -> bytes:
    block = bytearray(start.ljust(BLOCK_SIZE, b"\0"))
    at = len(start)
    last = at - 12
    for name in names:
        size = len(name)
        number, file_type = entry(name)
        last = at
        at += size + 11 & ~3
        _HEAD.pack_into(block, last, number, at - last, size, file_type)
        block[last + 8 : last + 8 + size] = name
    _RECORD_LENGTH.pack_into(block, last + 4, BLOCK_SIZE - last)
    return bytes(block)


def _index(directory: Directory, own: int, parent: int) -> list[bytes]:
    """Return the root of the index and the nodes below it, if the leaves need any."""
    nodes = directory.nodes
    pointers = list(enumerate(directory.hashes, 1 + nodes))
    node_blocks = []
    if nodes:
        parts = [pointers[at : at + _NODE_LIMIT] for at in range(0, len(pointers), _NODE_LIMIT)]
        head = _HEAD.pack(0, BLOCK_SIZE, 0, 0)
        node_blocks = [head + _pointers(part, _NODE_LIMIT) for part in parts]
        pointers = [(number, part[0][1]) for number, part in enumerate(parts, 1)]
    dots = bytearray(_dots(own, parent))
    _RECORD_LENGTH.pack_into(dots, 16, BLOCK_SIZE - 12)
    info = _INDEX_INFO.pack(0, HASH_VERSION, _INDEX_INFO.size, 1 if nodes else 0, 0)
    root = bytes(dots) + info + _pointers(pointers, _ROOT_LIMIT)
    return [block.ljust(BLOCK_SIZE, b"\0") for block in (root, *node_blocks)]


def _pointers(pointers: Sequence[tuple[int, int]], limit: int) -> bytes:
    """Encode (block, first hash) pairs; limit and count stand in place of the first's hash."""
    encoded = bytearray().join(_INDEX_ENTRY.pack(first, block) for block, first in pointers)
    _COUNT_LIMIT.pack_into(encoded, 0, limit, len(pointers))
    return bytes(encoded)


def hash_name(name: bytes) -> int:
    """Return the major hash of name, an even number below 2^32, where s_hash_seed is zero."""
    state = _INITIAL_STATE
    for at in range(0, len(name), 32):
        state = _half_md4(state, _words(name[at:], len(name) - at))
    result = state[1] & ~1
    return result if result != _END_OF_HASHES else result - 2


def _words(rest: bytes, length: int) -> tuple[int, ...]:
    """Return eight words of rest, big-endian, padded with its length."""
    pad = (length & 0xFF) * 0x01010101
    words = []
    for at in range(0, 32, 4):
        word = pad
        for byte in rest[at : at + 4]:
            word = word << 8 | byte
        words.append(word & _MASK)
    return tuple(words)


def _half_md4(
    state: tuple[int, int, int, int], words: tuple[int, ...]
) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for order, constant, shifts, mix in _ROUNDS:
        for at, shift in zip(order, shifts, strict=True):
            total = a + mix(b, c, d) + words[at] + constant & _MASK
            a, b, c, d = d, (total << shift | total >> 32 - shift) & _MASK, b, c
    return (
        state[0] + a & _MASK, state[1] + b & _MASK, state[2] + c & _MASK, state[3] + d & _MASK
    )  # fmt: skip


_ROUNDS: tuple[
    tuple[tuple[int, ...], int, tuple[int, ...], Callable[[int, int, int], int]], ...
] = (
    ((0, 1, 2, 3, 4, 5, 6, 7), 0, (3, 7, 11, 19) * 2, lambda x, y, z: z ^ x & (y ^ z)),
    (
        (1, 3, 5, 7, 0, 2, 4, 6), 0x5A827999, (3, 5, 9, 13) * 2,
        lambda x, y, z: (x & y) + ((x ^ y) & z),
    ),
    ((3, 7, 2, 6, 1, 5, 0, 4), 0x6ED9EBA1, (3, 9, 11, 15) * 2, lambda x, y, z: x ^ y ^ z),
)  # fmt: skip
