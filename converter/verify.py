"""The proof of fidelity: an image as an independent reader sees it, against the flattened tree."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from hyperbuild.converter import verify_erofs, verify_ext4
from hyperbuild.converter.errors import VerificationError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hyperbuild.converter.tree import Inode
    from hyperbuild.converter.verify_reader import FileInfo, ImageReader


def open_image(fd: int) -> ImageReader:
    """Return the reader for the root file system in fd, an EROFS or an ext4."""
    magic = verify_ext4.MAGIC
    if os.pread(fd, len(magic), verify_ext4.MAGIC_OFFSET) == magic:
        return verify_ext4.Ext4Reader(fd)
    return verify_erofs.ErofsReader(fd)


def verify_tree(fd: int, root: Inode) -> None:
    """Compare every path of the image in fd with the flattened tree, data positions included.

    VerificationError names the first path that differs.
    """
    reader = open_image(fd)
    try:
        _verify(reader, root, _is_in_place)
    finally:
        reader.close()


def verify_contents(fd: int, root: Inode, digests: Sequence[bytes]) -> None:
    """Compare every path of the image in fd with a tree read anew, contents included.

    A regular file's ``block`` is the place in digests of its content's sha256. VerificationError
    names the first path that differs.
    """
    reader = open_image(fd)
    done: set[Inode] = set()
    buffer = memoryview(bytearray(1 << 20))

    def has_content(info: FileInfo, inode: Inode) -> bool:
        if inode in done or not inode.size:
            return True
        done.add(inode)
        content = hashlib.sha256()
        for start, size in info.runs:
            # Not through the map: all pages of a large image would count as this process's memory.
            for position in range(start, start + size, len(buffer)):
                part = buffer[: min(len(buffer), start + size - position)]
                content.update(part[: os.preadv(fd, [part], position)])
        return content.digest() == digests[inode.block]

    try:
        _verify(reader, root, has_content)
    finally:
        reader.close()


def _is_in_place(info: FileInfo, inode: Inode) -> bool:
    return info.runs == (((inode.block * 4096, inode.size),) if inode.size else ())


def _verify(reader: ImageReader, root: Inode, has_data: Callable[[FileInfo, Inode], bool]) -> None:
    nids: dict[Inode, int] = {}
    links: dict[int, int] = {}
    declared: dict[int, int] = {}
    pending = {b"": root}
    for path, info in reader.walk():
        inode = pending.pop(path, None)
        if inode is None or nids.setdefault(inode, info.nid) != info.nid:
            raise VerificationError(f"{printable(path)!r} is in the image but not in its layers")
        links[info.nid] = links.get(info.nid, 0) + 1
        declared[info.nid] = info.links
        _compare(reader, path, info, inode, has_data)
        prefix = path + b"/" if path else b""
        for name, child in (inode.children or {}).items():
            pending[prefix + name] = child
        if inode.children is not None:
            links[info.nid] = _directory_links(reader, inode)
    missing = next(iter(pending), None)
    if missing is not None:
        raise VerificationError(f"{printable(missing)!r} is missing in the image")
    if links != declared:
        raise VerificationError("a link count in the image is wrong")


def _directory_links(reader: ImageReader, inode: Inode) -> int:
    """Return how many links the image has to declare for a directory."""
    links = 2 + sum(child.children is not None for child in (inode.children or {}).values())
    return links if links <= reader.directory_link_limit else 1


def _compare(
    reader: ImageReader,
    path: bytes,
    info: FileInfo,
    inode: Inode,
    has_data: Callable[[FileInfo, Inode], bool],
) -> None:
    seen = (info.mode, info.uid, info.gid, info.mtime, info.mtime_ns, info.device, info.xattrs)
    mtime = min(max(inode.mtime, reader.earliest), reader.latest)
    meant = (
        inode.mode, inode.uid, inode.gid, mtime, inode.mtime_ns if mtime == inode.mtime else 0,
        inode.device if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode) else (0, 0),
        inode.xattrs or {},
    )  # fmt: skip
    right = seen == meant
    if stat.S_ISREG(info.mode):
        if any(start % 4096 for start, _ in info.runs):
            raise VerificationError(f"{printable(path)!r} is inlined, and DAX cannot map it")
        right = right and info.size == inode.size and has_data(info, inode)
    elif stat.S_ISLNK(info.mode):
        right = right and info.size == len(inode.target)
        right = right and b"".join(reader.content(info)) == inode.target
    if not right:
        raise VerificationError(f"{printable(path)!r} differs between the image and its layers")
