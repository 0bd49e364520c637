"""An EROFS reader that shares no code with the writer, and the proof of fidelity built on it.

Source: fs/erofs/erofs_fs.h of Linux. It reads what a DAX image may hold (plain and inline layouts,
extended inodes) and refuses the rest, so that a slip of the writer shows.
"""

from __future__ import annotations

import mmap
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import VerificationError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.converter.tree import Inode

_XATTR_NAMES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a guest would see of one inode; ``start`` is where plain data begins, in bytes."""

    nid: int
    mode: int
    links: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    size: int
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    start: int
    inline: int


class ErofsReader:
    """An EROFS image, mapped read-only. VerificationError for anything malformed."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        self.image = memoryview(self._map)
        if self._number(1024, 4) != 0xE0F5E1E2:
            raise VerificationError("no EROFS superblock; convert the image again")
        if self._map[1036] != 12 or self._number(1104, 4):
            raise VerificationError("an EROFS with features that this reader does not know")
        self._verify_checksum()
        self._meta = self._number(1064, 4) * 4096
        self.root_nid = self._number(1038, 2)
        self.inodes = self._number(1040, 8)

    def close(self) -> None:
        """Unmap the image."""
        self.image.release()
        self._map.close()

    def _number(self, offset: int, size: int) -> int:
        if offset + size > len(self.image):
            raise VerificationError(f"the image ends before byte {offset + size}")
        return int.from_bytes(self.image[offset : offset + size], "little")

    def _verify_checksum(self) -> None:
        block = bytearray(self.image[1024:4096])
        block[4:8] = bytes(4)
        remainder = 0xFFFFFFFF
        for byte in block:
            for bit in range(8):
                feedback = (remainder ^ byte >> bit) & 1
                remainder = remainder >> 1 ^ 0x82F63B78 * feedback
        if remainder != self._number(1028, 4):
            raise VerificationError("the superblock's checksum is wrong; convert the image again")

    def stat(self, nid: int) -> FileInfo:
        """Read the inode nid."""
        at = self._meta + nid * 32
        layout = self._number(at, 2)
        if layout not in (1, 5):
            raise VerificationError(f"inode {nid} has the layout {layout}, which is not for DAX")
        count, mode = self._number(at + 2, 2), self._number(at + 4, 2)
        xattr_size = 12 + 4 * (count - 1) if count else 0
        size, word = self._number(at + 8, 8), self._number(at + 16, 4)
        is_inline = layout == 5
        if is_inline and stat.S_ISREG(mode):
            raise VerificationError(f"inode {nid} is an inlined file, which DAX cannot map")
        tail = at + 64 + xattr_size
        if is_inline and tail // 4096 != (tail + size % 4096 - 1) // 4096:
            raise VerificationError(f"the tail of inode {nid} crosses a block")
        mtime = self._number(at + 32, 8)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return FileInfo(
            nid=nid,
            mode=mode,
            links=self._number(at + 44, 4),
            uid=self._number(at + 24, 4),
            gid=self._number(at + 28, 4),
            mtime=mtime - (1 << 64) if mtime >> 63 else mtime,
            mtime_ns=self._number(at + 40, 4),
            size=size,
            device=((word >> 8) & 0xFFF, word & 0xFF | word >> 12 & 0xFFF00)
            if is_device
            else (0, 0),
            xattrs=self._xattrs(at + 64, at + 64 + xattr_size),
            start=word * 4096,
            inline=tail if is_inline else 0,
        )

    def _xattrs(self, at: int, end: int) -> dict[bytes, bytes]:
        found = {}
        at += 12
        while at < end:
            name_size, index, value_size = self._map[at], self._map[at + 1], self._number(at + 2, 2)
            name = bytes(self.image[at + 4 : at + 4 + name_size])
            value = bytes(self.image[at + 4 + name_size : at + 4 + name_size + value_size])
            found[_XATTR_NAMES[index] + name] = value
            at += -(-(4 + name_size + value_size) // 4) * 4
        return found

    def content(self, info: FileInfo) -> Iterator[memoryview]:
        """Yield the content of a file, symlink or directory as views of the image."""
        whole = info.size - info.size % 4096 if info.inline else info.size
        if info.start + whole > len(self.image) and whole:
            raise VerificationError(f"inode {info.nid} has data beyond the image's end")
        if whole:
            yield self.image[info.start : info.start + whole]
        if info.inline:
            yield self.image[info.inline : info.inline + info.size - whole]

    def entries(self, info: FileInfo) -> list[tuple[bytes, int, int]]:
        """Return a directory's (name, nid, file type) in their order on disk."""
        content = b"".join(self.content(info))
        found = []
        for base in range(0, len(content), 4096):
            block = content[base : base + 4096]
            count = int.from_bytes(block[8:10], "little") // 12
            offsets = [
                int.from_bytes(block[12 * i + 8 : 12 * i + 10], "little") for i in range(count)
            ]
            for i, (start, end) in enumerate(zip(offsets, [*offsets[1:], len(block)], strict=True)):
                nid = int.from_bytes(block[12 * i : 12 * i + 8], "little")
                found.append((block[start:end].rstrip(b"\0"), nid, block[12 * i + 10]))
        return found

    def walk(self) -> Iterator[tuple[bytes, FileInfo]]:
        """Yield (path, info) of everything, checking each directory's order and dots."""
        pending = [(b"", self.root_nid, self.root_nid)]
        while pending:
            path, nid, parent = pending.pop()
            info = self.stat(nid)
            yield path, info
            if not stat.S_ISDIR(info.mode):
                continue
            entries = self.entries(info)
            names = [name for name, _, _ in entries]
            if names != sorted(set(names)) or (b".", nid, 2) not in entries:
                raise VerificationError(f"the directory {printable(path)!r} is out of order")
            if (b"..", parent, 2) not in entries:
                raise VerificationError(f"'..' of {printable(path)!r} leads astray")
            for name, child, _ in reversed(entries):
                if name not in (b".", b".."):
                    pending.append((path + b"/" + name if path else name, child, nid))


def verify_tree(fd: int, root: Inode) -> None:
    """Compare every path of the image in fd with the flattened tree, data positions included.

    VerificationError names the first path that differs.
    """
    reader = ErofsReader(fd)
    try:
        nids: dict[Inode, int] = {}
        links: dict[int, int] = {}
        declared: dict[int, int] = {}
        pending = {b"": root}
        for path, info in reader.walk():
            inode = pending.pop(path, None)
            if inode is None or nids.setdefault(inode, info.nid) != info.nid:
                raise VerificationError(
                    f"{printable(path)!r} is in the image but not in its layers"
                )
            links[info.nid] = links.get(info.nid, 0) + 1
            declared[info.nid] = info.links
            _compare(reader, path, info, inode)
            prefix = path + b"/" if path else b""
            for name, child in (inode.children or {}).items():
                pending[prefix + name] = child
                if child.children is not None:
                    links[info.nid] += 1
            links[info.nid] += inode.children is not None
        missing = next(iter(pending), None)
        if missing is not None:
            raise VerificationError(f"{printable(missing)!r} is missing in the image")
        if links != declared:
            raise VerificationError("a link count in the image is wrong")
    finally:
        reader.close()


def _compare(reader: ErofsReader, path: bytes, info: FileInfo, inode: Inode) -> None:
    seen = (info.mode, info.uid, info.gid, info.mtime, info.mtime_ns, info.device, info.xattrs)
    meant = (
        inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns,
        inode.device if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode) else (0, 0),
        inode.xattrs or {},
    )  # fmt: skip
    right = seen == meant
    if stat.S_ISREG(info.mode):
        right &= info.size == inode.size and (not info.size or info.start == inode.block * 4096)
    elif stat.S_ISLNK(info.mode):
        right &= b"".join(reader.content(info)) == inode.target
    if not right:
        raise VerificationError(f"{printable(path)!r} differs between the image and its layers")
