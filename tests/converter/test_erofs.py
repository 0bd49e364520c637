"""The EROFS writer at the borders of its format, judged by fsck.erofs and our own reader."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from hyperbuild.converter.erofs import write_erofs
from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.extents import ExtentWriter
from hyperbuild.converter.ondisk import EROFS_DATA_BLOCK
from hyperbuild.converter.tree import Inode, walk
from hyperbuild.converter.verify import open_image, verify_tree
from tests.converter.ext4_image import directory, file, node, symlink


def write(path: Path, root: Inode) -> list[int]:
    """Write root's tree to path, files as holes; return what was told to be settled, in order."""
    settled: list[int] = []
    with path.open("w+b") as image:
        extents = ExtentWriter(image.fileno(), EROFS_DATA_BLOCK)
        for _, inode in walk(root):
            if stat.S_ISREG(inode.mode) and inode.size and inode.block < 0:
                inode.block = extents.append_pieces(inode.size, [])
        extents.flush()
        size = write_erofs(
            image.fileno(), root, extents.next_block,
            uuid=bytes(16), build_time=0, settled=settled.append,
        )  # fmt: skip
        assert size == os.fstat(image.fileno()).st_size
    return settled


def check(path: Path, root: Inode) -> None:
    """Write root's tree to path; neither reader may find fault with it."""
    write(path, root)
    subprocess.run(["fsck.erofs", path], check=True, capture_output=True)
    with path.open("rb") as image:
        verify_tree(image.fileno(), root)


@pytest.mark.parametrize(("count", "width"), [(20_000, 1), (20_000, 200), (12_000, 255)])
def test_big_directories(tmp_path: Path, count: int, width: int) -> None:
    names = {(b"%d" % number).rjust(width, b"n"): file() for number in range(count)}
    check(tmp_path / "image", directory({b"big": directory(names)}))


def test_more_hard_links_than_16_bits_count(tmp_path: Path) -> None:
    shared = file(size=1)
    check(tmp_path / "image", directory({b"%d" % n: shared for n in range(70_000)}))


def test_more_subdirectories_than_16_bits_count(tmp_path: Path) -> None:
    check(tmp_path / "image", directory({b"%d" % n: directory() for n in range(66_000)}))


def test_a_file_over_4_gib(tmp_path: Path) -> None:
    size = (5 << 30) + 5
    huge = file(size=size)
    root = directory({b"huge": huge, b"after": file(size=1)})
    path = tmp_path / "image"
    write(path, root)
    with path.open("r+b") as image:
        os.pwrite(image.fileno(), b"at the end", huge.block * 4096 + size - 10)
        reader = open_image(image.fileno())
        found = dict(reader.walk())[b"huge"]
        assert found.size == size
        *_, last = reader.content(found)
        assert bytes(last[-10:]) == b"at the end"
        reader.close()
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("time", [-(1 << 63), -1, 0, 1 << 32, (1 << 63) - 1])
def test_times_of_64_bits_to_the_nanosecond(tmp_path: Path, time: int) -> None:
    check(tmp_path / "image", directory({b"f": file(mtime=time, mtime_ns=999_999_999)}))


def test_special_files_and_the_largest_ids(tmp_path: Path) -> None:
    largest = (1 << 32) - 1
    check(
        tmp_path / "image",
        directory({
            b"null": node(stat.S_IFCHR, 1, 3), b"disk": node(stat.S_IFBLK, 4095, (1 << 20) - 1),
            b"pipe": node(stat.S_IFIFO), b"socket": node(stat.S_IFSOCK),
            b"ids": Inode(stat.S_IFREG | 0o7777, uid=largest, gid=largest),
        }),
    )  # fmt: skip


@pytest.mark.parametrize("held", [0, 1, 3900, 3950, 3999, 4000, 4001, 4032, 8000, 60_000])
def test_no_tail_crosses_a_block_whatever_lies_before_it(tmp_path: Path, held: int) -> None:
    """What lies behind an inode, its attributes between, must end where its block does."""
    sizes = (1, 31, 32, 33, 63, 64, 65, 2000, 3999, 4000, 4031, 4032, 4033, 4064, 4094, 4095)
    links = {b"%04d" % size: symlink(b"t" * size) for size in sizes}
    folders = {b"d%04d" % size: directory({b"n" * min(size, 255): file()}) for size in sizes}
    for inode in (*links.values(), *folders.values()) if held else ():
        inode.xattrs = {b"user.held": b"v" * held}
    check(tmp_path / "image", directory({**links, **folders}))


def test_a_directory_that_fills_its_blocks(tmp_path: Path) -> None:
    # "." and ".." take 27 bytes, a name of 244 takes 256 with its entry: 4069 are left to fill.
    names = [bytes([letter]) * 244 for letter in range(0x61, 0x61 + 15)]
    names.append(b"z" * (4096 - 27 - 15 * 256 - 12))
    check(tmp_path / "image", directory({name: file() for name in names}))


@pytest.mark.parametrize(
    ("xattrs", "message"),
    [
        ({b"user.v": bytes(65_536)}, "of 65536 bytes"),
        ({b"user.%d" % n: bytes(65_000) for n in range(5)}, "EROFS holds 256 KiB"),
        ({b"other.v": b""}, "cannot hold the extended attribute"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, xattrs: dict[bytes, bytes], message: str
) -> None:
    with pytest.raises(ContentError, match=message):
        write(tmp_path / "image", directory({b"f": file(xattrs=xattrs)}))


def test_what_is_told_to_be_settled_does_not_change(tmp_path: Path) -> None:
    """First all before the metadata, then all: the digest begins with that."""
    root = directory({b"data": file(size=9000), b"d": directory({b"x": file()})})
    first, last = write(tmp_path / "image", root)
    assert first == 4 * 4096
    assert last == (tmp_path / "image").stat().st_size
