"""An EROFS reader that shares no code with the writer.

Source: fs/erofs/erofs_fs.h of Linux. It reads what a DAX image may hold (plain and inline layouts,
extended inodes) and refuses the rest, so that a slip of the writer shows.
"""

from __future__ import annotations

import stat
from itertools import pairwise

from hyperbuild.converter.errors import VerificationError
from hyperbuild.converter.verify_reader import FileInfo, ImageReader

MAGIC_OFFSET, MAGIC = 1024, b"\xe2\xe1\xf5\xe0"

_XATTR_NAMES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}


class ErofsReader(ImageReader):
    """An EROFS image, mapped read-only. VerificationError for anything malformed."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        if self.image[MAGIC_OFFSET : MAGIC_OFFSET + 4] != MAGIC:
            raise VerificationError("no EROFS superblock; convert the image again")
        if self.number(1036, 1) != 12 or self.number(1104, 4):
            raise VerificationError("an EROFS with features that this reader does not know")
        self._verify_checksum()
        self._meta = self.number(1064, 4) * 4096
        self.root_nid = self.number(1038, 2)
        self.inodes = self.number(1040, 8)
        self.made = self.number(1048, 8)

    def _verify_checksum(self) -> None:
        block = bytearray(self.image[1024:4096])
        block[4:8] = bytes(4)
        remainder = 0xFFFFFFFF
        for byte in block:
            for bit in range(8):
                feedback = (remainder ^ byte >> bit) & 1
                remainder = remainder >> 1 ^ 0x82F63B78 * feedback
        if remainder != self.number(1028, 4):
            raise VerificationError("the superblock's checksum is wrong; convert the image again")

    def stat(self, nid: int) -> FileInfo:
        """Read the inode nid."""
        at = self._meta + nid * 32
        layout = self.number(at, 2)
        if layout not in (1, 5):
            raise VerificationError(f"inode {nid} has the layout {layout}, which is not for DAX")
        count, mode = self.number(at + 2, 2), self.number(at + 4, 2)
        size, word = self.number(at + 8, 8), self.number(at + 16, 4)
        tail = at + 64 + (12 + 4 * (count - 1) if count else 0)
        mtime = self.number(at + 32, 8)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return FileInfo(
            nid=nid,
            mode=mode,
            links=self.number(at + 44, 4),
            uid=self.number(at + 24, 4),
            gid=self.number(at + 28, 4),
            mtime=mtime - (1 << 64) if mtime >> 63 else mtime,
            mtime_ns=self.number(at + 40, 4),
            size=size,
            device=((word >> 8) & 0xFFF, word & 0xFF | word >> 12 & 0xFFF00)
            if is_device
            else (0, 0),
            xattrs=self._xattrs(at + 64, tail),
            runs=self._runs(nid, size, word * 4096, tail if layout == 5 else 0),
        )

    def _runs(self, nid: int, size: int, start: int, tail: int) -> tuple[tuple[int, int], ...]:
        """Return the full blocks at start, and the inlined rest at tail (0: there is none)."""
        if not tail:
            return ((start, size),) if size else ()
        rest = size % 4096
        if tail // 4096 != (tail + rest - 1) // 4096:
            raise VerificationError(f"the tail of inode {nid} crosses a block")
        whole = ((start, size - rest),) if size > rest else ()
        return (*whole, (tail, rest))

    def _xattrs(self, at: int, end: int) -> dict[bytes, bytes]:
        found = {}
        at += 12
        while at < end:
            name_size, index = self.number(at, 1), self.number(at + 1, 1)
            if index not in _XATTR_NAMES:
                raise VerificationError("an extended attribute of an unknown kind")
            value_size = self.number(at + 2, 2)
            name = bytes(self.image[at + 4 : at + 4 + name_size])
            value = bytes(self.image[at + 4 + name_size : at + 4 + name_size + value_size])
            found[_XATTR_NAMES[index] + name] = value
            at += -(-(4 + name_size + value_size) // 4) * 4
        return found

    def entries(self, info: FileInfo) -> list[tuple[bytes, int, int]]:
        """Return a directory's (name, nid, type code); they must be in byte order."""
        content = b"".join(self.content(info))
        found = []
        for base in range(0, len(content), 4096):
            block = content[base : base + 4096]
            count = int.from_bytes(block[8:10], "little") // 12
            offsets = [
                int.from_bytes(block[12 * i + 8 : 12 * i + 10], "little") for i in range(count)
            ]
            offsets.append(len(block))
            if not count or 12 * count > len(block) or offsets != sorted(offsets):
                raise VerificationError(f"the directory of inode {info.nid} is broken")
            for i, (start, end) in enumerate(pairwise(offsets)):
                nid = int.from_bytes(block[12 * i : 12 * i + 8], "little")
                found.append((block[start:end].rstrip(b"\0"), nid, block[12 * i + 10]))
        names = [name for name, _, _ in found]
        if names != sorted(names):
            raise VerificationError(f"the directory of inode {info.nid} is out of order")
        return found
