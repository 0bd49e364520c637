"""Directories of ext4 images, looked through by the kernel, debugfs and e2fsck."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperbuild.converter.ext4_directories import hash_name
from hyperbuild.converter.tree import Inode
from tests.converter.ext4_image import check, debugfs, directory, file, mounted, symlink, write


def lookup(path: Path, root: Inode, names: list[bytes]) -> None:
    """Find names with the kernel and with debugfs, and miss one that is not there."""
    children = root.children or {}
    if os.geteuid() == 0:
        with mounted(path) as place:
            for name in names:
                assert os.lstat(place + b"/" + name).st_uid == children[name].uid
            with pytest.raises(FileNotFoundError):
                os.lstat(place + b"/missing")
            assert {entry.name for entry in os.scandir(place)} == set(children)
    for name in names[:: max(1, len(names) // 20)]:
        said = debugfs(path, f"stat /{name.decode()}")
        assert f"User: {children[name].uid:5d} " in said


@pytest.mark.parametrize(
    ("count", "width"),
    [(300, 1), (1000, 20), (20_000, 1), (20_000, 200), (12_000, 255)],
    ids=["linear", "small index", "20,000", "20,000 long ones", "two levels"],
)
def test_big_directories_are_searched_by_name(tmp_path: Path, count: int, width: int) -> None:
    names = [b"%d" % n + b"x" * (width - len(b"%d" % n)) for n in range(count)]
    root = directory({name: file(uid=n) for n, name in enumerate(names)})
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    lookup(tmp_path / "image", root, names)
    is_indexed = "Flags: 0x81000" in debugfs(tmp_path / "image", "stat /")
    assert is_indexed == (count > 300)


def test_names_of_one_hash_on_both_sides_of_a_block_border(tmp_path: Path) -> None:
    twins = [b"%024d" % n for n in (54_891, 77_158)]
    border = hash_name(twins[0])
    assert hash_name(twins[1]) == border
    others = [name for n in range(4000) if (name := b"%024d" % n) not in twins]
    below = [name for name in others if hash_name(name) < border]
    above = [name for name in others if hash_name(name) > border]
    names = [*below[:127], *twins, *above[:600]]  # 128 names of 24 bytes fill a block
    root = directory({name: file(uid=n) for n, name in enumerate(names)})
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    lookup(tmp_path / "image", root, [*twins, *names[::50]])


def test_more_subdirectories_than_a_link_count_holds(tmp_path: Path) -> None:
    root = directory({b"%d" % n: directory() for n in range(65_000)})
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)


def test_many_inodes_without_data_make_a_small_image(tmp_path: Path) -> None:
    root = directory({b"%d" % n: directory({b"%d" % m: symlink(b"t") for m in range(700)})
                      for n in range(150)})  # fmt: skip
    size = write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    assert size < 40 << 20
