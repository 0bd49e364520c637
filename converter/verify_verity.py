"""The reader that proves a dm-verity hash tree: from the root hash down, as a guest's kernel does.

Sources: as of the writer, with which it shares no code. The file may be anybody's: whatever is
wrong with it is a VerificationError.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256

from hyperbuild.converter.errors import VerificationError

_BLOCK = 4096
_DIGEST = 32
_FANOUT = _BLOCK // _DIGEST


def verify_hash_tree(fd: int, *, root_hash: bytes, salt: bytes, data_size: int) -> None:
    """Check that the hash tree in fd at data_size is that of all data before it, and root_hash its.

    So is what a superblock says, and that nothing but zeros is behind the tree. VerificationError
    names the first block that differs.
    """
    proof = _Proof(fd, salt, data_size)
    proof.check_superblock()
    depth = proof.depth()
    proof.check(depth, 0, root_hash)
    proof.check_rest(depth)


class _Proof:
    """Blocks are counted from the file's beginning; level 0 is the data, level 1 their hashes."""

    def __init__(self, fd: int, salt: bytes, data_size: int) -> None:
        self._fd = fd
        self._salt = salt
        self._data_size = data_size
        self._data_blocks = data_size // _BLOCK
        if data_size <= 0 or data_size % _BLOCK:
            raise VerificationError("the hash tree does not begin at a block of 4096 bytes")

    def check_superblock(self) -> None:
        """Find in the superblock what is meant, and nothing else."""
        block = self._read(self._data_blocks, 1)
        numbers = struct.unpack_from("<II", block, 8), struct.unpack_from("<IIQH", block, 64)
        meant = (1, 1), (_BLOCK, _BLOCK, self._data_blocks, len(self._salt))
        salt, name = block[88 : 88 + len(self._salt)], block[32:64].rstrip(b"\0")
        rest = block[82:88] + block[88 + len(self._salt) :]
        if (
            block[:8] != b"verity\0\0"
            or (numbers, name, salt) != (meant, b"sha256", self._salt)
            or rest.strip(b"\0")
        ):
            raise VerificationError("the superblock of the hash tree is not what it should be")

    def depth(self) -> int:
        """Return how many levels of hashes there are."""
        levels = 0
        while self._width(levels) > 1:
            levels += 1
        return levels

    def check(self, level: int, index: int, expected: bytes) -> None:
        """Check the block index of level, and all that hang on it."""
        block = self._read(self._start(level) + index, 1)
        self._compare(level, index, block, expected)
        if level == 0:
            return
        count = min(_FANOUT, self._width(level - 1) - index * _FANOUT)
        hashes = [block[at : at + _DIGEST] for at in range(0, count * _DIGEST, _DIGEST)]
        if block[count * _DIGEST :].strip(b"\0"):
            raise VerificationError(f"hash block {index} of level {level} has more than its hashes")
        if level > 1:
            for number, inner in enumerate(hashes):
                self.check(level - 1, index * _FANOUT + number, inner)
            return
        first = index * _FANOUT
        data = memoryview(self._read(first, count))
        for number, inner in enumerate(hashes):
            self._compare(0, first + number, data[number * _BLOCK : (number + 1) * _BLOCK], inner)

    def check_rest(self, depth: int) -> None:
        """See that behind the tree there are zeros alone."""
        position = (self._start(1) + self._width(1) if depth else self._data_blocks + 1) * _BLOCK
        while data := os.pread(self._fd, 1 << 20, position):
            if data.strip(b"\0"):
                raise VerificationError("there is something behind the hash tree")
            position += len(data)

    def _compare(self, level: int, index: int, block: bytes | memoryview, expected: bytes) -> None:
        salted = sha256(self._salt)
        salted.update(block)
        if salted.digest() != expected:
            what = f"hash block {index} of level {level}" if level else f"block {index}"
            raise VerificationError(f"{what} of the root file system is not what its hash says")

    def _width(self, level: int) -> int:
        """Return how many blocks a level has."""
        width = self._data_blocks
        for _ in range(level):
            width = -(-width // _FANOUT)
        return width

    def _start(self, level: int) -> int:
        """Return the first block of a level: the highest comes first, behind the superblock."""
        if level == 0:
            return 0
        above = range(level + 1, self.depth() + 1)
        return self._data_blocks + 1 + sum(map(self._width, above))

    def _read(self, first: int, count: int) -> bytes:
        data = os.pread(self._fd, count * _BLOCK, first * _BLOCK)
        if len(data) != count * _BLOCK:
            raise VerificationError(f"the image ends before its block {first + count}")
        return data
