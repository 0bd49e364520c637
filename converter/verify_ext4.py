"""An ext4 reader that shares no code with the writer.

Source: the ext4 data structures as Linux documents them (Documentation/filesystems/ext4). It reads
what a DAX image may hold (4 KiB blocks, extents, data in one run) and refuses the rest, so that a
slip of the writer shows.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import VerificationError
from hyperbuild.converter.verify_reader import FileInfo, ImageReader

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC_OFFSET, MAGIC = 1080, b"\x53\xef"

_KNOWN_COMPAT, _KNOWN_INCOMPAT, _KNOWN_RO_COMPAT = 0x228, 0x242, 0x6A
_XATTR_NAMES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_XATTR_MAGIC = 0xEA020000
_EXTENT_DEPTH_LIMIT = 5


class Ext4Reader(ImageReader):
    """An ext4 image, mapped read-only. VerificationError for anything malformed."""

    earliest, latest = -0x80000000, 0x27FFFFFFF
    directory_link_limit = 65_000
    root_nid = 2

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        if self.image[MAGIC_OFFSET : MAGIC_OFFSET + 2] != MAGIC:
            raise VerificationError("no ext4 superblock; convert the image again")
        unknown = (
            self.number(1116, 4) & ~_KNOWN_COMPAT
            or self.number(1120, 4) & ~_KNOWN_INCOMPAT
            or self.number(1124, 4) & ~_KNOWN_RO_COMPAT
        )
        self._inodes_per_group = self.number(1064, 4)
        sizes = (self.number(1048, 4), self.number(1112, 2))
        if unknown or sizes != (2, 256) or not self._inodes_per_group:
            raise VerificationError("an ext4 with features that this reader does not know")
        if self.number(1082, 2) != 1:
            raise VerificationError("the ext4 is not marked clean; convert the image again")
        self.inodes = self.number(1024, 4)
        self._blocks = self.number(1028, 4)
        self.made = self.number(1288, 4) | self.number(1654, 1) << 32
        if self._blocks * 4096 > len(self.image):
            raise VerificationError("the ext4 is larger than its image; convert the image again")

    def stat(self, nid: int) -> FileInfo:
        """Read the inode nid."""
        at = self._inode(nid)
        mode, size = self.number(at, 2), self.number(at + 4, 4) | self.number(at + 108, 4) << 32
        mtime, extra = self.number(at + 16, 4), self.number(at + 136, 4)
        if mtime >> 31:
            mtime -= 1 << 32
        return FileInfo(
            nid=nid,
            mode=mode,
            links=self.number(at + 26, 2),
            uid=self.number(at + 2, 2) | self.number(at + 120, 2) << 16,
            gid=self.number(at + 24, 2) | self.number(at + 122, 2) << 16,
            mtime=mtime + ((extra & 3) << 32),
            mtime_ns=extra >> 2,
            size=size,
            device=self._device(at) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else (0, 0),
            xattrs=self._xattrs(at),
            runs=self._runs(nid, at, mode, size),
        )

    def _inode(self, nid: int) -> int:
        """Return where the inode nid lies, once its bitmap says that it is in use."""
        if not 0 < nid <= self.inodes:
            raise VerificationError(f"there is no inode {nid}; convert the image again")
        group, index = divmod(nid - 1, self._inodes_per_group)
        descriptor = 4096 + group * 32
        bitmap = self.number(descriptor + 4, 4) * 4096
        if not self.number(bitmap + index // 8, 1) >> index % 8 & 1:
            raise VerificationError(f"inode {nid} is not marked as used; convert the image again")
        at = self.number(descriptor + 8, 4) * 4096 + index * 256
        if self.number(at + 20, 4) or self.number(at + 128, 2) != 32:
            raise VerificationError(f"inode {nid} is deleted or of an unknown size")
        return at

    def _device(self, at: int) -> tuple[int, int]:
        old, new = self.number(at + 40, 4), self.number(at + 44, 4)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00

    def _runs(self, nid: int, at: int, mode: int, size: int) -> tuple[tuple[int, int], ...]:
        if not size or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            return ()
        if not self.number(at + 32, 4) & 0x80000:
            if not stat.S_ISLNK(mode) or size >= 60:
                raise VerificationError(f"inode {nid} has no extents")
            return ((at + 40, size),)
        needed = -(-size // 4096)
        first = blocks = 0
        for logical, count, physical in self._extents(nid, at + 40, self.number(at + 46, 2)):
            if not blocks:
                first = physical
            if not count or logical != blocks or physical != first + blocks:
                raise VerificationError(f"the data of inode {nid} is not in one run")
            blocks += count
            # Told at once: a broken tree may lead through the same nodes without end.
            if blocks > needed or first + blocks > self._blocks:
                break
        if blocks != needed or first + blocks > self._blocks:
            raise VerificationError(f"the extents of inode {nid} do not fit its size")
        return ((first * 4096, size),)

    def _extents(self, nid: int, at: int, depth: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first block in the file, number of blocks, first block in the image)."""
        count = self.number(at + 2, 2)
        if self.number(at, 2) != 0xF30A or self.number(at + 6, 2) != depth or not count:
            raise VerificationError(f"the extent tree of inode {nid} is broken")
        if depth > _EXTENT_DEPTH_LIMIT:
            raise VerificationError(f"the extent tree of inode {nid} is too deep")
        for entry in range(at + 12, at + 12 + 12 * count, 12):
            logical = self.number(entry, 4)
            if not depth:
                start = self.number(entry + 8, 4) | self.number(entry + 6, 2) << 32
                yield logical, self.number(entry + 4, 2), start
                continue
            node = self.number(entry + 4, 4) | self.number(entry + 8, 2) << 32
            for place, extent in enumerate(self._extents(nid, node * 4096, depth - 1)):
                if not place and extent[0] != logical:
                    raise VerificationError(f"the extent tree of inode {nid} is out of order")
                yield extent

    def _xattrs(self, at: int) -> dict[bytes, bytes]:
        found = {}
        if self.number(at + 160, 4) == _XATTR_MAGIC:
            found.update(self._xattr_table(at + 164, at + 164))
        block = self.number(at + 104, 4) * 4096
        if block:
            if self.number(block, 4) != _XATTR_MAGIC:
                raise VerificationError("a block of extended attributes is none")
            found.update(self._xattr_table(block + 32, block))
        return found

    def _xattr_table(self, at: int, base: int) -> dict[bytes, bytes]:
        found = {}
        while self.number(at, 4):
            name_size, index = self.number(at, 1), self.number(at + 1, 1)
            if index not in _XATTR_NAMES or self.number(at + 4, 4):
                raise VerificationError("an extended attribute of an unknown kind")
            name = _XATTR_NAMES[index] + bytes(self.image[at + 16 : at + 16 + name_size])
            start = base + self.number(at + 2, 2)
            value = bytes(self.image[start : start + self.number(at + 8, 4)])
            found[name] = self._acl(value) if index in (2, 3) else value
            at += 16 + (name_size + 3) // 4 * 4
        return found

    def _acl(self, value: bytes) -> bytes:
        """Give an ACL the form in which it is got and set: ids everywhere, version 2."""
        result = bytearray(b"\2\0\0\0")
        at = 4
        while at < len(value):
            has_id = value[at] in (2, 8)
            result += value[at : at + 4] + (value[at + 4 : at + 8] if has_id else b"\xff" * 4)
            at += 8 if has_id else 4
        return bytes(result)

    def entries(self, info: FileInfo) -> list[tuple[bytes, int, int]]:
        """Return a directory's (name, inode, type code); blocks of an index hold none."""
        found = []
        for run in self.content(info):
            content = bytes(run)
            if len(content) % 4096:
                raise VerificationError(f"the directory of inode {info.nid} is broken")
            at = 0
            while at < len(content):
                nid = int.from_bytes(content[at : at + 4], "little")
                length = int.from_bytes(content[at + 4 : at + 6], "little")
                size = content[at + 6]
                if length < 8 + size or length % 4 or at % 4096 + length > 4096:
                    raise VerificationError(f"the directory of inode {info.nid} is broken")
                if nid:
                    found.append((content[at + 8 : at + 8 + size], nid, content[at + 7]))
                at += length
        return found
