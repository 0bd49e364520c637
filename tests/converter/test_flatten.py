"""The flattening contract, row by row, as docs/flattening.md has it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from hyperbuild.converter.errors import ContentError, VerificationError
from tests.converter.flat import Seen, flat
from tests.support import tarball
from tests.support.layers import TIME, E, d, f, h, layer, layout, s

CREATED = 1_704_164_645


def contents(seen: dict[str, Seen]) -> dict[str, bytes]:
    return {path: item.content for path, item in seen.items() if item.type in "-l"}


def test_whiteout_hides_a_file_and_a_whole_directory(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(f("keep", "k"), f("gone", "g"), d("dir/"), f("dir/deep/file", "x")),
        layer(f(".wh.gone"), f(".wh.dir"), f(".wh.never-was")),
    )
    assert set(seen) == {"", "keep"}


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_whiteouts_spare_what_their_own_layer_adds(tmp_path: Path, whiteout_first: bool) -> None:
    hidden = [f("dir/.wh..wh..opq"), f(".wh.file")]
    added = [d("dir/"), f("dir/new", "n"), f("file", "upper")]
    seen = flat(
        tmp_path,
        layer(d("dir/"), f("dir/old", "o"), f("file", "lower")),
        layer(*(hidden + added if whiteout_first else added + hidden)),
    )
    assert contents(seen) == {"dir/new": b"n", "file": b"upper"}


def test_a_path_implied_over_its_own_whiteout_starts_afresh(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(d("dir/", mode=0o700, uid=5), f("dir/old")),
        layer(f("dir/new"), f(".wh.dir")),
    )
    assert set(seen) == {"", "dir", "dir/new"}
    assert (seen["dir"].info.mode & 0o7777, seen["dir"].info.uid) == (0o755, 0)


def test_opaque_directory_keeps_itself_and_hides_its_children(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(d("a/", mode=0o711, uid=9), f("a/x"), d("a/sub/"), f("a/sub/y")),
        layer(f("a/.wh..wh..opq")),
    )
    assert set(seen) == {"", "a"}
    assert (seen["a"].info.mode & 0o7777, seen["a"].info.uid) == (0o711, 9)


def test_directory_that_replaces_a_symlink_does_not_open_its_target(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(d("real/"), f("real/precious", "p"), s("link", "real")),
        layer(d("link/"), f("link/.wh..wh..opq"), f("link/.wh.precious"), f("link/own", "o")),
    )
    assert contents(seen) == {"real/precious": b"p", "link/own": b"o"}
    assert seen["link"].type == "d"


def test_whiteout_through_a_symlinked_parent_hides_the_target(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(d("usr/lib/"), f("usr/lib/a"), f("usr/lib/b"), s("lib", "/usr/lib")),
        layer(f("lib/.wh.a")),
    )
    assert set(seen) == {"", "usr", "usr/lib", "usr/lib/b", "lib"}


def test_writes_through_symlinks_stay_inside_the_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    seen = flat(
        tmp_path,
        layer(
            d("target/"), s("absolute", "/target"), s("up", "../../../target"),
            s("escape", str(outside)), s("dangling", "made/later"),
        ),
        layer(
            f("absolute/1", "1"), f("up/2", "2"), f("escape/3", "3"), f("dangling/4", "4"),
        ),
    )  # fmt: skip
    assert not outside.exists()
    inside = str(outside).lstrip("/")
    assert {p: c for p, c in contents(seen).items() if seen[p].type == "-"} == {
        "target/1": b"1",
        "target/2": b"2",
        f"{inside}/3": b"3",
        "made/later/4": b"4",
    }
    assert seen["up"].content == b"../../../target"


def test_symlink_loop_as_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="too many symbolic links"):
        flat(tmp_path, layer(s("a", "b"), s("b", "a"), f("a/file")))


@pytest.mark.parametrize("count", [40, 41])
def test_40_links_on_the_way_to_a_parent_and_not_one_more(tmp_path: Path, count: int) -> None:
    links = [s(f"l{n}", f"l{n + 1}") for n in range(count)]
    image = layer(d(f"l{count}"), *links, f("l0/file", "x"))
    if count > 40:
        with pytest.raises(ContentError, match="too many symbolic links"):
            flat(tmp_path, image)
    else:
        assert flat(tmp_path, image)[f"l{count}/file"].content == b"x"


def test_symlinks_are_open_to_all_whatever_the_archive_says(tmp_path: Path) -> None:
    link = E("link", tarfile.SYMTYPE, link="//a/./b/../c", mode=0o600)
    seen = flat(tmp_path, layer(link))["link"]
    assert (seen.info.mode & 0o7777, seen.content) == (0o777, b"//a/./b/../c")


def test_sockets_are_skipped(tmp_path: Path) -> None:
    """That they are told of is in test_reuse.py."""
    plug = tarball.member(tarball.Entry(b"plug", mode=0o140755))
    assert set(flat(tmp_path, plug + layer(f("kept")))) == {"", "kept"}


@pytest.mark.parametrize("kind", ["D", "M", "N", "V", "Z"])
def test_types_that_no_runtime_unpacks_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    odd = tarball.member(tarball.Entry(b"odd", kind=kind.encode()))
    with pytest.raises(ContentError, match=f"'odd' has the tar type '{kind}'"):
        flat(tmp_path, odd + layer(f("x")))


def test_the_last_of_duplicates_wins_and_the_first_leaves_no_bytes(tmp_path: Path) -> None:
    seen = flat(tmp_path, layer(f("f", "SECRET" * 999), f("g", "g"), f("f", "second")))
    assert contents(seen) == {"f": b"second", "g": b"g"}
    assert b"SECRET" not in (tmp_path / "rootfs.erofs").read_bytes()


def test_hidden_bytes_are_not_in_the_image(tmp_path: Path) -> None:
    flat(
        tmp_path,
        layer(f("dir/secret", "SECRET" * 999), s("link", "dir"), f("other", "o")),
        layer(f("link/.wh.secret"), f("link/secret2", "x")),
    )
    assert b"SECRET" not in (tmp_path / "rootfs.erofs").read_bytes()


def test_directory_over_directory_changes_it_and_keeps_its_children(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(d("dir/", xattrs={"user.old": b"1"}), f("dir/child", "c")),
        layer(d("dir/", mode=0o1777, uid=3, gid=4, mtime=99, xattrs={"user.new": b"2"})),
    )
    info = seen["dir"].info
    assert (info.mode & 0o7777, info.uid, info.gid, info.mtime) == (0o1777, 3, 4, 99)
    assert info.xattrs == {b"user.new": b"2"}
    assert seen["dir/child"].content == b"c"


def test_directory_that_only_has_new_children_keeps_all_it_had(tmp_path: Path) -> None:
    seen = flat(tmp_path, layer(d("dir/", mode=0o700, uid=3, mtime=99)), layer(f("dir/child", "c")))
    info = seen["dir"].info
    assert (info.mode & 0o7777, info.uid, info.mtime) == (0o700, 3, 99)


def test_file_replaces_a_directory_and_a_directory_a_file(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(d("a/"), f("a/child", "c"), f("b", "file")),
        layer(f("a", "now a file"), d("b/"), f("b/child", "d")),
    )
    assert contents(seen) == {"a": b"now a file", "b/child": b"d"}


def test_implied_parents_are_roots_and_dated_by_the_image(tmp_path: Path) -> None:
    info = flat(tmp_path, layer(f("a/b/c")))["a/b"].info
    assert (info.mode & 0o7777, info.uid, info.gid, info.mtime) == (0o755, 0, 0, CREATED)


def test_dot_describes_the_root(tmp_path: Path) -> None:
    info = flat(tmp_path, layer(d("./", mode=0o700, uid=1, mtime=5), f("./x")))[""].info
    assert (info.mode & 0o7777, info.uid, info.mtime) == (0o700, 1, 5)


def test_hard_links_keep_one_inode_across_layers(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(f("a", "data"), h("b", "a"), s("sym", "a"), h("symlink2", "sym")),
        layer(h("dir/c", "./a"), d("d/"), h("d/abs", "/b")),
    )
    assert len({seen[p].info.nid for p in ("a", "b", "dir/c", "d/abs")}) == 1
    assert seen["a"].info.links == 4
    assert seen["symlink2"].info.nid == seen["sym"].info.nid


def test_hard_links_bind_when_they_are_made(tmp_path: Path) -> None:
    seen = flat(
        tmp_path,
        layer(f("a", "first"), h("b", "a")),
        layer(f("a", "second")),
    )
    assert (seen["a"].content, seen["b"].content) == (b"second", b"first")
    assert seen["b"].info.links == 1


def test_hard_link_to_a_file_that_an_upper_layer_hides(tmp_path: Path) -> None:
    seen = flat(
        tmp_path, layer(f("a", "data")), layer(h("b", "a")), layer(f(".wh.a")), layer(f("c", "c"))
    )
    assert contents(seen) == {"b": b"data", "c": b"c"}


@pytest.mark.parametrize("target", ["missing", "dir", "missing/deeper"])
def test_hard_link_to_nothing_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ContentError, match="hard link target"):
        flat(tmp_path, layer(d("dir/"), h("x", target)))


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../x", "a/..", "", ".wh.", "dir/.wh..", ".wh..."]
)
def test_names_that_lead_astray_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ContentError, match="refused"):
        flat(tmp_path, layer(E(name, data=b"x")))


@pytest.mark.parametrize("target", ["../../etc/passwd", ".."])
def test_hard_link_targets_that_lead_astray_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ContentError, match="refused"):
        flat(tmp_path, layer(h("x", target)))


def test_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="not a directory"):
        flat(tmp_path, layer(f("a", "file")), layer(f("a/b")))


def test_absolute_and_dotted_names_are_the_same_path(tmp_path: Path) -> None:
    seen = flat(tmp_path, layer(f("/abs", "1"), f("./dot", "2"), f("a//b/./c", "3"), d("e//")))
    assert contents(seen) == {"abs": b"1", "dot": b"2", "a/b/c": b"3"}
    assert seen["e"].type == "d"


def test_attributes_and_special_files_survive(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    acl = bytes.fromhex(
        "0200000001000700ffffffff040005 00ffffffff20000500ffffffff".replace(" ", "")
    )
    seen = flat(
        tmp_path,
        layer(
            f("cap", "x", xattrs={"security.capability": capability, "user.long": b"v" * 3000,
                                  "trusted.overlay.opaque": b"y"}),
            d("acl/", xattrs={"system.posix_acl_default": acl}),
            E("null", tarfile.CHRTYPE, device=(1, 3), mode=0o666),
            E("disk", tarfile.BLKTYPE, device=(259, 70_000)),
            E("pipe", tarfile.FIFOTYPE),
            f("setuid", "x", mode=0o6755, uid=4_000_000_000, gid=4_294_967_294),
            f("nanos", "x", mtime=1.5), f("before-1970", "x", mtime=-3),
        ),
    )  # fmt: skip
    assert seen["cap"].info.xattrs == {
        b"security.capability": capability, b"user.long": b"v" * 3000
    }  # fmt: skip
    assert seen["acl"].info.xattrs == {b"system.posix_acl_default": acl}
    assert (seen["null"].type, seen["null"].info.device) == ("c", (1, 3))
    assert (seen["disk"].type, seen["disk"].info.device) == ("b", (259, 70_000))
    assert seen["pipe"].type == "p"
    info = seen["setuid"].info
    assert (info.mode & 0o7777, info.uid, info.gid) == (0o6755, 4_000_000_000, 4_294_967_294)
    assert (seen["nanos"].info.mtime, seen["nanos"].info.mtime_ns) == (1, 500_000_000)
    assert seen["before-1970"].info.mtime == -3
    assert seen["pipe"].info.mtime == TIME


def test_attributes_that_linux_does_not_have_are_dropped(tmp_path: Path) -> None:
    odd = {"com.apple.quarantine": b"1", "system.nfs4_acl": b"2", "user.": b"3", "user.x": b"4"}
    seen = flat(tmp_path, layer(f("f", "x", xattrs=odd)))
    assert seen["f"].info.xattrs == {b"user.x": b"4"}


def test_paths_that_linux_cannot_open_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="bytes"):
        flat(tmp_path, layer(f("/".join(["d" * 200] * 21))))
    with pytest.raises(ContentError, match="component"):
        flat(tmp_path, layer(f("n" * 256)))


def test_aufs_metadata_is_skipped(tmp_path: Path) -> None:
    assert set(flat(tmp_path, layer(f(".wh..wh.aufs"), d(".wh..wh.plnk/"), f("x")))) == {"", "x"}


def test_sizes_around_buffers_and_blocks(tmp_path: Path) -> None:
    sizes = [0, 1, 511, 512, 4095, 4096, 4097, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 5_000_000]
    entries = [f(f"f{size}", os.urandom(size)) for size in sizes]
    seen = flat(tmp_path, layer(*entries))
    assert contents(seen) == {entry.name: entry.data for entry in entries}


def test_a_directory_of_many_names(tmp_path: Path) -> None:
    names = {f"many/{'n' * (number % 240)}{number}" for number in range(5000)}
    seen = flat(tmp_path, layer(*(f(name, name) for name in sorted(names, reverse=True))))
    assert {path for path in seen if seen[path].type == "-"} == names


def test_wrong_diff_id_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "layout"
    layout(directory, layer(f("a")), diff_ids=["sha256:" + "0" * 64])
    from tests.converter.flat import convert_layout

    with pytest.raises(VerificationError, match="unpacks to"):
        convert_layout(directory, tmp_path / "image")


def test_same_image_same_bytes(tmp_path: Path) -> None:
    layers = [layer(*(f(f"d{n % 7}/{n}", "x" * n) for n in range(200))), layer(f("d1/.wh.1"))]
    for name in ("one", "two"):
        flat(tmp_path / name, *layers)
    first, second = ((tmp_path / n / "rootfs.erofs").read_bytes() for n in ("one", "two"))
    assert first == second
    assert len(first) % (2 << 20) == 0
