"""ext4 images of trees made by hand, as e2fsck, debugfs, the kernel and our reader see them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperbuild.converter.ext4 import write_ext4
from hyperbuild.converter.extents import BLOCK_SIZE, ExtentWriter
from hyperbuild.converter.ondisk import EXT4_DATA_BLOCK
from hyperbuild.converter.tree import Inode, walk
from hyperbuild.converter.verify import verify_tree

UUID = bytes(range(16))
BUILD_TIME = 1_700_000_000

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def directory(
    children: dict[bytes, Inode] | None = None, *, permissions: int = 0o755, **more: Any
) -> Inode:
    return Inode(stat.S_IFDIR | permissions, children={} if children is None else children, **more)


def file(**more: Any) -> Inode:
    return Inode(stat.S_IFREG | 0o644, **more)


def symlink(target: bytes) -> Inode:
    return Inode(stat.S_IFLNK | 0o777, target=target)


def node(kind: int, major: int = 0, minor: int = 0) -> Inode:
    return Inode(kind | 0o600, device=(major, minor))


def write(path: Path, root: Inode, contents: dict[Inode, bytes] | None = None) -> int:
    """Write root's tree to path as ext4; files without content but with a size become holes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        extents = ExtentWriter(fd, EXT4_DATA_BLOCK, shares=False)
        for _, inode in walk(root):
            content = (contents or {}).get(inode)
            if content and inode.block < 0:
                inode.size = len(content)
                inode.block = extents.append(memoryview(content))
            elif inode.size and inode.block < 0:
                inode.block = extents.append_pieces(inode.size, [])
        extents.flush()
        return write_ext4(
            fd, root, extents.next_block,
            uuid=UUID, build_time=BUILD_TIME, settled=lambda _: None,
        )  # fmt: skip
    finally:
        os.close(fd)


def check(path: Path, root: Inode) -> None:
    """Let e2fsck find nothing to complain about, and our reader no difference from the tree."""
    fsck(path)
    with path.open("rb") as image:
        verify_tree(image.fileno(), root)


def fsck(path: Path) -> None:
    done = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True, check=False)
    passes = [line for line in done.stdout.splitlines() if not line.startswith("Pass ")]
    assert (done.returncode, len(passes)) == (0, 1), done.stdout + done.stderr


def debugfs(path: Path, *requests: str) -> str:
    done = subprocess.run(
        ["debugfs", "-f", "-", path], input="\n".join(requests),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def summary(path: Path) -> dict[str, str]:
    """Return what dumpe2fs says of the superblock."""
    done = subprocess.run(["dumpe2fs", "-h", path], capture_output=True, text=True, check=True)
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in pairs}


@contextmanager
def mounted(path: Path) -> Iterator[bytes]:
    """Mount the image read-only by a loop device while the block runs; gives where."""
    place = path.with_name(path.name + ".mounted")
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "ext4", "-o", "loop,ro", path, place], check=True)
        try:
            yield os.fsencode(place)
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)
    finally:
        place.rmdir()


def check_mounted(path: Path, root: Inode) -> None:
    """Compare every file as the kernel sees it, contents included, with the tree."""
    with mounted(path) as place, path.open("rb") as image:
        pending = dict(walk(root))
        inode_numbers: dict[Inode, int] = {}
        for where in _names(place):
            inode = pending.pop(where)
            full = place + b"/" + where
            seen = os.lstat(full)
            assert inode_numbers.setdefault(inode, seen.st_ino) == seen.st_ino
            assert _attributes(full, seen) == _meant(inode), where
            if stat.S_ISREG(inode.mode):
                assert seen.st_size == inode.size
                _compare_content(full, image.fileno(), inode)
            elif stat.S_ISLNK(inode.mode):
                assert os.readlink(full) == inode.target  # noqa: PTH115 - a path of bytes
        assert not pending


def _names(place: bytes) -> Iterator[bytes]:
    yield b""
    for base, directories, files in os.walk(place):
        for name in directories + files:
            yield (base + b"/" + name).removeprefix(place + b"/")


def _attributes(full: bytes, seen: os.stat_result) -> tuple[Any, ...]:
    xattrs = {
        os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
        for name in os.listxattr(full, follow_symlinks=False)
    }
    is_device = stat.S_ISCHR(seen.st_mode) or stat.S_ISBLK(seen.st_mode)
    device = (os.major(seen.st_rdev), os.minor(seen.st_rdev)) if is_device else (0, 0)
    return seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, device, xattrs


def _meant(inode: Inode) -> tuple[Any, ...]:
    time = inode.mtime * 1_000_000_000 + inode.mtime_ns
    return inode.mode, inode.uid, inode.gid, time, inode.device, inode.xattrs or {}


def _compare_content(full: bytes, image: int, inode: Inode) -> None:
    with open(full, "rb") as opened:  # noqa: PTH123 - a path of bytes
        at = 0
        while piece := opened.read(1 << 20):
            assert piece == os.pread(image, len(piece), inode.block * BLOCK_SIZE + at), full
            at += len(piece)
    assert at == inode.size
