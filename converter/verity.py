"""The writer of dm-verity hash trees: behind the file system, in the same file.

Source: Linux, Documentation/admin-guide/device-mapper/verity.rst (hash type 1), and the superblock
that cryptsetup's veritysetup(8) reads. Data and hash blocks have 4096 bytes, hashes are sha256 of
the salt and a block.

    data_size      superblock, a block of its own
    behind it      the tree, level by level: its top block first, the hashes of data blocks last
    end            padded to 2 MiB, as every image is

A level is made of the one below it, which is read back for that: a tree has a 128th of the data's
size, and no more than a few pieces of it are ever in memory.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from struct import Struct

from hyperbuild.converter.errors import UnavailableError
from hyperbuild.converter.extents import BLOCK_SIZE, write_failure
from hyperbuild.converter.ondisk import IMAGE_ALIGNMENT
from hyperbuild.converter.workers import Workers

_SUPERBLOCK = Struct("<8sII16s32sIIQH6x256s168x")
_SIGNATURE = b"verity\0\0"
_VERSION, _HASH_TYPE = 1, 1
_ALGORITHM = b"sha256"
_HASH_SIZE = 32
_HASHES_PER_BLOCK = BLOCK_SIZE // _HASH_SIZE
#: Blocks that are read and hashed in one go: their hashes fill whole blocks.
_PIECE = 2 * _HASHES_PER_BLOCK
#: OpenSSL hashes a block without Python's lock, so that a few threads are worth having.
_MOST_THREADS = 4
_ZEROS = bytes(BLOCK_SIZE)


@dataclass(frozen=True, slots=True)
class HashTree:
    """A tree: its root's hash, and the salt; it lies at offset data_size, the size of the data."""

    root_hash: bytes
    salt: bytes
    data_size: int


def append_tree(fd: int, data_size: int, identity: bytes) -> tuple[HashTree, int]:
    """Hash the data_size bytes that the file fd has, and write their tree behind them.

    data_size is a multiple of 4096, and not 0. The same data and identity, which salt and UUID are
    made of, give the same bytes. Returns the tree and the file's new size. UnavailableError: the
    disk's.
    """
    salt = hashlib.sha256(b"dm-verity salt\n" + identity).digest()
    uuid = hashlib.sha256(b"dm-verity uuid\n" + identity).digest()[:16]
    data_blocks = data_size // BLOCK_SIZE
    starts, end = _levels(data_blocks)
    size = end * BLOCK_SIZE
    size += -size % IMAGE_ALIGNMENT
    hasher = _Hasher(fd, salt)
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, _superblock(data_blocks, salt, uuid), data_size)
        below, count = 0, data_blocks
        for start in starts:
            hasher.write_level(below, count, start)
            below, count = start, _hash_blocks(count)
        return HashTree(hasher.hashes(below, 1), salt, data_size), size
    except OSError as error:
        raise write_failure(error) from error


def _hash_blocks(count: int) -> int:
    """Return how many blocks the hashes of count blocks fill."""
    return -(-count // _HASHES_PER_BLOCK)


def _levels(data_blocks: int) -> tuple[list[int], int]:
    """Return the block at which each level begins, the lowest first, and where the tree ends.

    A single block of data has no tree: its hash is the root's.
    """
    sizes = []
    count = data_blocks
    while count > 1:
        count = _hash_blocks(count)
        sizes.append(count)
    end = start = data_blocks + 1 + sum(sizes)
    starts = []
    for size in sizes:
        start -= size
        starts.append(start)
    return starts, end


def _superblock(data_blocks: int, salt: bytes, uuid: bytes) -> bytes:
    return _SUPERBLOCK.pack(
        _SIGNATURE, _VERSION, _HASH_TYPE, uuid, _ALGORITHM, BLOCK_SIZE, BLOCK_SIZE, data_blocks,
        len(salt), salt,
    )  # fmt: skip


class _Hasher:
    """Hashes blocks of a file, numbered from its beginning. Blocks of zeros are hashed once."""

    def __init__(self, fd: int, salt: bytes) -> None:
        self._fd = fd
        self._salted = hashlib.sha256(salt)
        self._of_zeros = self._hash(_ZEROS)

    def write_level(self, below: int, count: int, start: int) -> None:
        """Hash count blocks from the block below on; write their hashes from block start on."""
        threads = min(os.cpu_count() or 1, _MOST_THREADS, -(-count // _PIECE))
        workers = Workers(threads, "verity")

        def write_share(first: int) -> None:
            """Take every so many-th piece: all together read the file from front to back."""
            for index in range(first, count, threads * _PIECE):
                hashes = self.hashes(below + index, min(_PIECE, count - index))
                self._write(hashes, start * BLOCK_SIZE + index * _HASH_SIZE)

        try:
            shares = [
                workers.submit(partial(write_share, number * _PIECE)) for number in range(threads)
            ]
            for share in shares:
                share.result()
        finally:
            workers.close()

    def hashes(self, first: int, count: int) -> bytes:
        """Return the hashes of count blocks, one after the other."""
        data = os.pread(self._fd, count * BLOCK_SIZE, first * BLOCK_SIZE)
        if len(data) != count * BLOCK_SIZE:
            raise UnavailableError("the root file system has become shorter; check the disk")
        blocks = (data[start : start + BLOCK_SIZE] for start in range(0, len(data), BLOCK_SIZE))
        return b"".join(
            self._of_zeros if block == _ZEROS else self._hash(block) for block in blocks
        )

    def _hash(self, block: bytes) -> bytes:
        hashing = self._salted.copy()
        hashing.update(block)
        return hashing.digest()

    def _write(self, hashes: bytes, offset: int) -> None:
        done = 0
        while done < len(hashes):
            done += os.pwrite(self._fd, hashes[done:], offset + done)
