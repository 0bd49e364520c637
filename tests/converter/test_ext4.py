"""The ext4 writer, judged by e2fsck, debugfs, the kernel and the independent reader."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError, VerificationError
from hyperbuild.converter.tree import Inode, walk
from hyperbuild.converter.verify import verify_tree
from tests.conftest import RunCli
from tests.converter.ext4_image import (
    BUILD_TIME,
    check,
    check_mounted,
    debugfs,
    directory,
    file,
    fsck,
    mounted,
    needs_mount,
    node,
    summary,
    symlink,
    write,
)
from tests.converter.flat import convert_layout, read_image
from tests.support.layers import f, layer, layout

#: What kernel 5.15 knows; none of it asks for a journal or checksums.
FEATURES = {
    "ext_attr", "dir_index", "sparse_super2", "filetype", "extent", "flex_bg",
    "large_file", "huge_file", "dir_nlink", "extra_isize",
}  # fmt: skip


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# Random trees

NAMES = (
    st.one_of(st.binary(min_size=1, max_size=12), st.binary(min_size=240, max_size=255))
    .map(lambda name: name.translate(bytes.maketrans(b"\0/", b"0:")))
    .filter(lambda name: name not in (b".", b".."))
)
ATTRIBUTES = st.dictionaries(
    st.one_of(st.just(b"security.capability"), NAMES.map(lambda name: b"user." + name[:200])),
    st.binary(max_size=700),
    max_size=4,
)
SIZES = st.sampled_from([0, 1, 60, 4095, 4096, 4097, 70_000])


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    kind = draw(
        st.sampled_from(
            [stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]
        )
    )
    is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Inode(
        mode=kind | draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, (1 << 32) - 1)),
        gid=draw(st.integers(0, (1 << 32) - 1)),
        mtime=draw(st.integers(-(1 << 32), 1 << 35)),
        mtime_ns=draw(st.integers(0, 999_999_999)),
        size=draw(SIZES) if kind == stat.S_IFREG else 0,
        device=draw(st.tuples(st.integers(0, 4095), st.integers(0, (1 << 20) - 1)))
        if is_device
        else (0, 0),
        target=b"t" * draw(st.sampled_from([1, 59, 60, 61, 4095])) if kind == stat.S_IFLNK else b"",
        xattrs=draw(ATTRIBUTES),
    )


@st.composite
def trees(draw: st.DrawFn) -> Inode:
    """Draw a root; directories and hard links land anywhere in what there is already."""
    root = directory(mtime=draw(st.integers(0, 1 << 31)), xattrs=draw(ATTRIBUTES))
    directories, files = [root], []
    for name in draw(st.lists(NAMES, max_size=40, unique=True)):
        parent = directories[draw(st.integers(0, len(directories) - 1))]
        assert parent.children is not None
        what = draw(st.sampled_from(["file", "file", "directory", "link"]))
        if what == "directory":
            child = directory(permissions=draw(st.integers(0, 0o7777)))
            directories.append(child)
        elif what == "link" and files:
            child = files[draw(st.integers(0, len(files) - 1))]
        else:
            child = draw(inodes())
            files.append(child)
        parent.children[name] = child
    return root


@settings(max_examples=60)
@given(trees())
def test_any_tree_passes_e2fsck_and_reads_back(root: Inode) -> None:
    with TemporaryDirectory() as place:
        path = Path(place) / "image"
        contents = {
            inode: bytes([entry % 251 + 1]) * inode.size
            for entry, (_, inode) in enumerate(walk(root))
            if inode.size
        }
        size = write(path, root, contents)
        assert size == path.stat().st_size
        assert size % (2 << 20) == 0
        check(path, root)


# Images as they come


@needs_mount
@pytest.mark.image
@pytest.mark.parametrize("name", ["nginx_layout", "torture_layout"])
def test_real_images_are_what_the_kernel_sees(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = tmp_path / "layout"
    source.symlink_to(request.getfixturevalue(name))
    tree = convert_layout(source, tmp_path / "image", "ext4")
    fsck(tmp_path / "image")
    check_mounted(tmp_path / "image", tree.root)


def test_debugfs_unpacks_it(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    plain = file()
    root = directory({b"dir": directory({b"file": plain}), b"link": symlink(b"x" * 100)})
    write(tmp_path / "image", root, {plain: content})
    (tmp_path / "out").mkdir()
    debugfs(tmp_path / "image", f"rdump / {tmp_path / 'out'}")
    assert (tmp_path / "out/dir/file").read_bytes() == content
    assert str((tmp_path / "out/link").readlink()) == "x" * 100


def test_it_holds_the_tree_alone_and_no_more_room_than_that(tmp_path: Path) -> None:
    root = directory({b"empty": file(), b"full": file(size=5000)})
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    said = summary(tmp_path / "image")
    assert set(said["Filesystem features"].split()) == FEATURES
    assert int(said["Free inodes"]) < 16
    assert int(said["Free blocks"]) < 512
    assert int(said["Reserved block count"]) == 0
    assert said["Filesystem state"] == "clean"
    assert said["Filesystem created"].endswith("2023")
    assert (tmp_path / "image").stat().st_size == 4 << 20


def test_an_empty_tree(tmp_path: Path) -> None:
    write(tmp_path / "image", directory())
    check(tmp_path / "image", directory())


def test_same_tree_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        root = directory({b"%d" % n: file(size=n * 99, mtime=n) for n in range(700)})
        write(tmp_path / name, root)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# Files


def test_65000_hard_links_and_not_one_more(tmp_path: Path) -> None:
    shared = file()
    children = {b"%d" % n: shared for n in range(65_000)}
    root = directory({b"dir": directory(children)})
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    children[b"one more"] = shared
    with pytest.raises(ContentError, match=r"^/dir/0: 65001 hard links; ext4 holds 65000"):
        write(tmp_path / "image", root)


@pytest.mark.parametrize("gibibytes", [5, 200])
def test_huge_sparse_files(tmp_path: Path, gibibytes: int) -> None:
    size = (gibibytes << 30) + 5
    huge = file(size=size)
    root = directory({b"huge": huge, b"after": file(size=1)})
    path = tmp_path / "image"
    write(path, root)
    places = (0, 128 << 20, (4 << 30) + 7, size - 5)
    with path.open("r+b") as image:
        for at in places:
            os.pwrite(image.fileno(), b"%05d" % (at % 99_999), huge.block * 4096 + at)
    check(path, root)
    assert path.stat().st_blocks * 512 < 64 << 20
    if os.geteuid() == 0:
        with mounted(path) as place, Path(os.fsdecode(place), "huge").open("rb") as opened:
            assert os.fstat(opened.fileno()).st_size == size
            for at in places:
                assert os.pread(opened.fileno(), 5, at) == b"%05d" % (at % 99_999)


def test_blocks_that_no_file_has_are_free(tmp_path: Path) -> None:
    first, second = file(size=1, block=600), file(size=9000, block=40_000)
    root = directory({b"first": first, b"second": second})
    path = tmp_path / "image"
    from hyperbuild.converter.ext4 import write_ext4

    with path.open("w+b") as image:
        write_ext4(
            image.fileno(), root, 40_003,
            uuid=bytes(16), build_time=BUILD_TIME, settled=lambda _: None,
        )  # fmt: skip
    check(path, root)


@needs_mount
def test_times_to_the_nanosecond_from_1901_to_2310(tmp_path: Path) -> None:
    earliest, latest = -(1 << 31), 5 * (1 << 31) - 1
    times = [earliest, -1, 0, (1 << 31) - 1, 1 << 31, (1 << 32) + 5, latest]
    root = directory({b"%d" % t: file(mtime=t, mtime_ns=999_999_999) for t in times})
    assert root.children is not None
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    check_mounted(tmp_path / "image", root)
    beyond = {b"before": file(mtime=earliest - 1, mtime_ns=5), b"after": file(mtime=latest + 1)}
    root.children = beyond
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    with mounted(tmp_path / "image") as place:
        assert os.lstat(place + b"/before").st_mtime_ns == earliest * 10**9
        assert os.lstat(place + b"/after").st_mtime_ns == latest * 10**9


@needs_mount
def test_special_files_ids_and_attributes(tmp_path: Path) -> None:
    entries = (
        (1, 7, 0xFFFFFFFF), (2, 5, 4_000_000_000), (4, 5, 0xFFFFFFFF), (8, 4, 17),
        (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF),
    )  # fmt: skip
    full = {
        b"user.\xc3\xa9": b"name beyond ASCII" * 9,
        b"user.big": b"v" * 3000,
        b"user.empty": b"",
        b"security.capability": bytes.fromhex("0100000200040000000000000000000000000000"),
        b"security.selinux": b"system_u:object_r:etc_t:s0\0",
    }
    small = {b"user.a": b"1"}
    root = directory({
        b"null": node(stat.S_IFCHR, 1, 3), b"disk": node(stat.S_IFBLK, 259, 70_000),
        b"edge": node(stat.S_IFBLK, 255, 255), b"pipe": node(stat.S_IFIFO),
        b"mode": Inode(stat.S_IFREG | 0o6755, uid=4_000_000_000, gid=4_294_967_294),
        b"acl": directory(permissions=0o770, xattrs={  # the group has the mask's bits
            b"system.posix_acl_access": acl(*entries), b"system.posix_acl_default": acl(*entries),
        }),
        b"full": file(size=1, xattrs=full), b"small": directory(xattrs=small),
        b"n" * 255: symlink(b"t" * 4095), b"short": symlink(b"t" * 59),
    })  # fmt: skip
    write(tmp_path / "image", root)
    check(tmp_path / "image", root)
    check_mounted(tmp_path / "image", root)


@pytest.mark.parametrize(
    ("culprit", "message"),
    [
        (file(xattrs={b"user.a": bytes(4100)}), "extended attributes where ext4 has room for"),
        (file(xattrs={b"user.a": bytes(2100), b"user.b": bytes(2100)}), "4240 bytes of extended"),
        (file(xattrs={b"system.posix_acl_access": b"nonsense"}), "POSIX ACL that is none"),
        (file(xattrs={b"system.posix_acl_access": acl((3, 0, 0))}), "POSIX ACL that is none"),
        (file(xattrs={b"trusted.x": b""}), "cannot hold the extended attribute"),
        (node(stat.S_IFCHR, 4096, 0), "device number 4096:0 is out of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, culprit: Inode, message: str) -> None:
    root = directory({b"dir": directory({b"cul\nprit": culprit})})
    with pytest.raises(ContentError, match=message) as caught:
        write(tmp_path / "image", root)
    assert str(caught.value).startswith("/dir/cul\\x0aprit: ")


# The reader


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 1),
        (2, 1),
        (16, 1),
        (26, 1),
        (40 + 2, 9),
        (40 + 20, 1),
        (128, 1),
        (136, 4),
        (165, 1),
        (168, 1),
    ],
    ids=[
        "mode",
        "uid",
        "time",
        "links",
        "extents",
        "place",
        "extra size",
        "nanos",
        "xattr",
        "xattr inode",
    ],
)
def test_the_reader_sees_a_changed_inode(tmp_path: Path, offset: int, value: int) -> None:
    root = directory({b"file": file(size=1, xattrs={b"user.a": b"1"})})
    path = tmp_path / "image"
    write(path, root)
    place = re.search(r"located at block (\d+), offset 0x(\w+)", debugfs(path, "imap /file"))
    assert place
    at = int(place[1]) * 4096 + int(place[2], 16) + offset
    with path.open("r+b") as image:
        old = os.pread(image.fileno(), 1, at)[0]
        os.pwrite(image.fileno(), bytes([old ^ value]), at)
        with pytest.raises(VerificationError):
            verify_tree(image.fileno(), root)


def test_the_reader_sees_a_name_too_many_and_one_missing(tmp_path: Path) -> None:
    path = tmp_path / "image"
    write(path, directory({b"a": file(), b"b": file()}))
    with path.open("rb") as image:
        with pytest.raises(VerificationError, match="not in its layers"):
            verify_tree(image.fileno(), directory({b"a": file()}))
        with pytest.raises(VerificationError, match="'c' is missing"):
            verify_tree(image.fileno(), directory({b"a": file(), b"b": file(), b"c": file()}))


# The command line


def test_the_format_is_an_option_of_convert(run_cli: RunCli, tmp_path: Path) -> None:
    source = layout(tmp_path / "small", layer(f("etc/passwd", "root:x:0:0::/root:\n")))
    out = tmp_path / "out"
    command = ("convert", "--no-kernel", f"oci:{source}", "-o", out)
    assert run_cli(*command).returncode == 0
    done = run_cli(*command, "--format", "ext4")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["bundle.json", "rootfs.ext4"]
    bundle = json.loads((out / "bundle.json").read_text())
    assert bundle["rootfs"]["format"] == "ext4"
    assert bundle["rootfs"]["size"] == (out / "rootfs.ext4").stat().st_size
    assert set(read_image(out / "rootfs.ext4")) == {"", "etc", "etc/passwd"}
    fsck(out / "rootfs.ext4")


def test_the_store_keeps_one_bundle_per_format(run_cli: RunCli, tmp_path: Path) -> None:
    source = layout(tmp_path / "small", layer(f("file", "x")))
    digests = [
        run_cli("convert", "--no-kernel", f"oci:{source}", "--format", name).stdout
        for name in ("erofs", "ext4", "erofs", "ext4")
    ]
    assert digests[:2] == digests[2:]
    assert digests[0] != digests[1]


def test_another_format_is_a_usage_error(run_cli: RunCli) -> None:
    done = run_cli("convert", "--format", "xfs", "oci:x")
    assert done.returncode == 2
    assert "'xfs' is not one of 'erofs', 'ext4'" in done.stderr
