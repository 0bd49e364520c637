"""Where file data lies: equal files share, large ones are aligned, and looks do not deceive."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

from tests.converter.flat import convert_layout, read_image
from tests.converter.sparse import sparse_layer
from tests.support.layers import f, layer, layout
from tests.support.memory import converted

#: Two contents of one size and one Adler-32.
ALIKE = (b"\5\5\5" + bytes(3000), b"\6\3\6" + bytes(3000))


def places(tmp_path: Path, *layers: bytes, rootfs_format: str = "erofs") -> dict[str, int]:
    """Return where the content of each file begins, in bytes."""
    image = tmp_path / "rootfs"
    convert_layout(layout(tmp_path / "layout", *layers), image, rootfs_format)
    return {path: seen.info.runs[0][0] for path, seen in read_image(image).items() if seen.content}


def test_equal_files_share_across_layers(tmp_path: Path) -> None:
    small, large = b"x" * 5000, b"y" * (3 << 20)
    at = places(
        tmp_path,
        layer(f("a", small), f("large", large), f("b", small), f("c", small[1:])),
        layer(f("top", small), f("large2", large)),
    )
    assert at["a"] == at["b"] == at["top"]
    assert at["large"] == at["large2"]
    assert len(set(at.values())) == 3
    assert (tmp_path / "rootfs").stat().st_size < 6 << 20
    subprocess.run(["fsck.erofs", tmp_path / "rootfs"], check=True, capture_output=True)


def test_files_that_only_look_alike_do_not_share(tmp_path: Path) -> None:
    assert zlib.adler32(ALIKE[0]) == zlib.adler32(ALIKE[1])
    at = places(tmp_path, layer(f("a", ALIKE[0]), f("b", ALIKE[1]), f("c", ALIKE[1])))
    assert at["a"] not in (at["b"], at["c"])
    seen = read_image(tmp_path / "rootfs")
    assert [seen[name].content for name in "abc"] == [ALIKE[0], ALIKE[1], ALIKE[1]]


def test_large_files_that_only_look_alike_do_not_share(tmp_path: Path) -> None:
    rest = bytes(2 << 20)
    at = places(tmp_path, layer(f("a", ALIKE[0] + rest), f("b", ALIKE[1] + rest), f("end", b"1")))
    assert at["b"] - at["a"] == at["end"] - at["b"]
    assert read_image(tmp_path / "rootfs")["b"].content[:3] == ALIKE[1][:3]


def test_what_was_shared_leaves_no_bytes_behind(tmp_path: Path) -> None:
    large = b"y" * (2 << 20)
    places(tmp_path, layer(f("a", b"1")), layer(f("large", large), f("large2", large + b"")))
    content = (tmp_path / "rootfs").read_bytes()
    assert content.count(b"y") == len(large)


def test_ext4_shares_nothing(tmp_path: Path) -> None:
    at = places(tmp_path, layer(f("a", b"x"), f("b", b"x")), rootfs_format="ext4")
    assert at["a"] != at["b"]
    subprocess.run(["e2fsck", "-fn", tmp_path / "rootfs"], check=True, capture_output=True)


def test_a_file_with_holes_is_not_shared(tmp_path: Path) -> None:
    sparse = sparse_layer(5000, [(0, b"z" * 100)])
    at = places(tmp_path, sparse, layer(f("plain", b"z" * 100 + bytes(4900))))
    assert len(set(at.values())) == 2


def test_large_files_are_aligned_on_demand() -> None:
    from hyperbuild.converter.convert import FORMATS
    from hyperbuild.converter.verify import verify_tree

    tar = layer(f("a", b"1"), f("large", b"2" * (2 << 20)), f("b", b"3"), f("less", b"4" * 2097151))
    for rootfs_format in FORMATS:
        with converted([tar], rootfs_format, aligns=True) as rootfs:
            verify_tree(rootfs.fd, rootfs.tree.root)
            blocks = {
                name: inode.block for name, inode in (rootfs.tree.root.children or {}).items()
            }
        assert blocks[b"large"] % 512 == 0
        assert blocks[b"b"] == blocks[b"large"] + 512
        assert blocks[b"less"] == blocks[b"b"] + 1
