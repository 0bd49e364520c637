"""Tar dialects, against archives that Python's tarfile and GNU tar write."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter import tar
from hyperbuild.converter.errors import ContentError, HyperbuildError
from hyperbuild.converter.member import Member
from hyperbuild.converter.oci import Descriptor, DiffID
from hyperbuild.converter.stream import LayerStream
from tests.support import tarball
from tests.support.layers import E, digest, layer


def read(content: bytes, *, with_data: bool = True) -> list[tuple[Member, bytes]]:
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", digest(content), len(content))
    found = []
    with LayerStream(
        io.BytesIO(content),
        descriptor,
        DiffID(digest(content)),
        before_reuse=lambda: None,
        where="test layer",
    ) as stream:
        for member in tar.members(stream):
            data = bytearray(member.size)
            if with_data and member.segments is None:
                data[:] = stream.read(member.stored)
            elif with_data:
                for offset, length in member.segments or ():
                    data[offset : offset + length] = stream.read(length)
            found.append((member, bytes(data)))
        stream.finish()
    return found


DIALECTS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_says_the_same(dialect: int) -> None:
    entries = (
        E("dir/", tarfile.DIRTYPE, mode=0o1777, uid=7, gid=8),
        E("dir/file", data=b"x" * 70_000, mode=0o4755),
        E("p" * 90 + "/" + "n" * 99, data=b"prefix or long name"),
        E("dir/link", tarfile.SYMTYPE, link="../target"),
        E("dir/hard", tarfile.LNKTYPE, link="dir/file"),
        E("dev/sda", tarfile.BLKTYPE, device=(8, 16)),
        E("empty"),
    )
    found = read(layer(*entries, dialect=dialect))
    assert [m.name.rstrip(b"/") for m, _ in found] == [e.name.rstrip("/").encode() for e in entries]
    assert [m.type for m, _ in found] == [e.kind for e in entries]
    assert [data for _, data in found] == [e.data for e in entries]
    assert (found[0][0].mode, found[0][0].uid, found[0][0].gid) == (0o1777, 7, 8)
    assert found[3][0].link == b"../target"
    assert found[5][0].device == (8, 16)
    assert {m.mtime for m, _ in found} == {1_700_000_000}


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_ustar_cannot_hold(dialect: int) -> None:
    entries = (
        E("a" * 200 + "/" + "b" * 250, uid=3_000_000_000, gid=2**21 + 1),
        E("link", tarfile.SYMTYPE, link="t" * 3000),
        E("old", mtime=-12345),
        E("naïve-\udcff", data=b"names that are not UTF-8"),
    )
    found = [member for member, _ in read(layer(*entries, dialect=dialect))]
    assert found[0].name == b"a" * 200 + b"/" + b"b" * 250
    assert (found[0].uid, found[0].gid) == (3_000_000_000, 2**21 + 1)
    assert found[1].link == b"t" * 3000
    assert found[2].mtime == -12345
    assert found[3].name == "naïve-\udcff".encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("time", "expected"),
    [(1.5, (1, 500_000_000)), (-1.5, (-2, 500_000_000)), (-0.25, (-1, 750_000_000))],
)
def test_fractional_times_are_floored(time: float, expected: tuple[int, int]) -> None:
    ((member, _),) = read(layer(E("f", mtime=time)))
    assert (member.mtime, member.mtime_ns) == expected


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    expected = bytearray(3 << 20)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(len(expected))
        for number in range(40):  # more than the old header holds
            offset = number * 65536 + 4096
            file.seek(offset)
            file.write(b"%05d" % number * 100)
            expected[offset : offset + 500] = b"%05d" % number * 100
    (tmp_path / "after").write_bytes(b"next entry")
    archive = tmp_path / "a.tar"
    subprocess.run(
        ["tar", "-cSf", archive, *options, "-C", tmp_path, "sparse", "after"], check=True
    )
    found = read(archive.read_bytes())
    assert [(m.name, m.type) for m, _ in found] == [(b"sparse", b"0"), (b"after", b"0")]
    assert found[0][1] == expected
    assert found[0][0].stored < len(expected)
    assert found[1][1] == b"next entry"


@pytest.mark.parametrize("options", [["--format=v7"], ["--format=oldgnu"], ["--format=ustar"]])
def test_old_archives_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(b"content")
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "-cf", archive, *options, "-C", tmp_path, "dir"], check=True)
    found = read(archive.read_bytes())
    assert [(m.name, m.type) for m, _ in found] == [(b"dir/", b"5"), (b"dir/file", b"0")]
    assert found[1][1] == b"content"


def test_extended_attributes_of_both_keywords() -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {
        "SCHILY.xattr.user.both": "schily wins",
        "LIBARCHIVE.xattr.user.both": "b3RoZXI=",
        "LIBARCHIVE.xattr.user.%3Dodd%20name": "AAEC/w",
        "SCHILY.xattr.user.empty": "",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    ((member, _),) = read(buffer.getvalue())
    assert member.xattrs == {
        b"user.both": b"schily wins",
        b"user.=odd name": b"\x00\x01\x02\xff",
        b"user.empty": b"",
    }


def test_global_headers_hold_until_overridden() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "42.5"}
    ) as archive:
        first = tarfile.TarInfo("first")
        first.mtime = 42
        archive.addfile(first)
        second = tarfile.TarInfo("second")
        second.mtime = 7.25
        archive.addfile(second)
    members = [member for member, _ in read(buffer.getvalue())]
    assert [(m.mtime, m.mtime_ns) for m in members] == [(42, 500_000_000), (7, 250_000_000)]


def test_global_headers_name_what_follows_and_a_value_taken_back_counts_as_none() -> None:
    said = {b"path": b"p" * 120, b"uid": b"7", b"gid": b"8", b"comment": b"a commit"}
    records = b"".join(tarball.record(key, value) for key, value in said.items())
    own = tarball.record(b"path", b"own") + tarball.record(b"uid", b"")
    found = read(
        tarball.archive(
            tarball.extension(b"g", records),
            tarball.member(tarball.Entry(b"a", uid=5), "ustar"),
            tarball.extension(b"x", own) + tarball.member(tarball.Entry(b"b", uid=5), "ustar"),
            tarball.extension(b"g", tarball.record(b"path", b"")),
            tarball.member(tarball.Entry(b"c"), "ustar"),
        )
    )
    assert [(m.name, m.uid, m.gid) for m, _ in found] == [
        (b"p" * 120, 7, 8), (b"own", 5, 8), (b"c", 7, 8)
    ]  # fmt: skip


@pytest.mark.parametrize("key", [b"SCHILY.xattr.user.a", b"LIBARCHIVE.xattr.user.a"])
def test_a_global_header_with_attributes_is_refused(key: bytes) -> None:
    with pytest.raises(ContentError, match="global header with extended attributes"):
        read(tarball.archive(tarball.extension(b"g", tarball.record(key, b"MQ"))))


def test_sizes_ids_and_times_of_pax_stand_above_those_of_the_header() -> None:
    records = {
        b"size": b"700",
        b"uid": b"3000000000",
        b"gid": b"2097152",
        b"mtime": b"-3.0000000019",
    }
    body = b"".join(tarball.record(key, value) for key, value in records.items())
    entry = tarball.header(b"f", tarball.FILE, 0) + tarball.padded(b"x" * 700)
    after = tarball.member(tarball.Entry(b"after", data=b"y"))
    (member, data), (_, rest) = read(tarball.archive(tarball.extension(b"x", body) + entry, after))
    assert (data, rest) == (b"x" * 700, b"y")
    assert (member.uid, member.gid) == (3_000_000_000, 2_097_152)
    assert (member.mtime, member.mtime_ns) == (-4, 999_999_999)


def test_numbers_in_base_256() -> None:
    entry = tarball.header(
        b"f", tarball.FILE, 3, numbers=(0o644, 1 << 40, (1 << 32) - 2, -1), magic=b"ustar  \0"
    )
    sized = _summed(entry, {124: b"\x80" + bytes(10) + b"\3"})
    ((member, data),) = read(sized + tarball.padded(b"abc"))
    assert (member.uid, member.gid, member.mtime) == (1 << 40, (1 << 32) - 2, -1)
    assert data == b"abc"


def test_old_types() -> None:
    """v7 has no directories, but names that end in a slash; 7 is a file that was contiguous."""
    found = read(
        tarball.archive(
            tarball.header(b"dir/", b"\0", 0, magic=b""),
            tarball.header(b"old", b"\0", 1, magic=b"") + tarball.padded(b"o"),
            tarball.header(b"contiguous", b"7", 1) + tarball.padded(b"c"),
        )
    )
    assert [(m.name, m.type, data) for m, data in found] == [
        (b"dir/", b"5", b""), (b"old", b"0", b"o"), (b"contiguous", b"0", b"c")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_what_has_no_data_says_so_in_vain(kind: bytes) -> None:
    """Some writers give a hard link its file's size; Go's archive/tar takes none of these."""
    odd = tarball.header(b"odd", kind, 1000, link=b"target")
    found = read(tarball.archive(odd, tarball.member(tarball.Entry(b"after"))))
    assert [(m.name, m.size) for m, _ in found] == [(b"odd", 0), (b"after", 0)]


def _summed(block: bytes, changes: dict[int, bytes], *, signed: bool = False) -> bytes:
    """Change a header at some offsets and give it its checksum, of signed bytes as old tars did."""
    changed = bytearray(block)
    for at, value in changes.items():
        changed[at : at + len(value)] = value
    changed[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in changed)
    changed[148:156] = b"%06o\0 " % total
    return bytes(changed)


def test_checksums_of_signed_bytes() -> None:
    block = tarball.header(b"\xc3\xa9", tarball.FILE, 0)
    assert [m.name for m, _ in read(_summed(block, {}, signed=True))] == [b"\xc3\xa9"]


def test_stars_times_are_no_part_of_the_name() -> None:
    block = tarball.header(b"f", tarball.FILE, 0, prefix=b"p" * 131)
    star = {345 + 131: b"14524770100 14524770100 ", 508: b"tar\0"}
    assert [m.name for m, _ in read(_summed(block, star))] == [b"p" * 131 + b"/f"]


def test_an_archive_without_its_end_and_one_with_garbage_behind() -> None:
    whole = layer(E("f", data=b"data"))
    assert [m.name for m, _ in read(whole[:1024])] == [b"f"]
    assert [data for _, data in read(whole[:516])] == [b"data"]
    assert [m.name for m, _ in read(whole + b"garbage" * 1000)] == [b"f"]


def test_data_may_be_left_unread() -> None:
    entries = [E(f"f{n}", data=bytes(n * 300_001)) for n in range(8)]
    assert [m.name for m, _ in read(layer(*entries), with_data=False)] == [
        e.name.encode() for e in entries
    ]


def _with(header_offset: int, value: bytes) -> bytes:
    content = bytearray(layer(E("f", data=b"data")))
    content[header_offset : header_offset + len(value)] = value
    checksum = sum(content[:148]) + 8 * 32 + sum(content[156:512])
    content[148:156] = b"%06o\0 " % checksum
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (layer(E("f", data=b"x" * 5000))[:3000], "truncated"),
        (b"\x01" * 1024, "no number|not a tar header"),
        (layer(E("f"))[:100], "truncated"),
        (_with(124, b"-0000000001\0"), "no number"),
        (_with(124, b"\xff" * 12), "negative size"),
        (layer(E("f"))[:512] + bytes(512) + layer(E("g")), "lone zero block"),
    ],
)
def test_broken_archives_are_refused(content: bytes, text: str) -> None:
    with pytest.raises(ContentError, match=text):
        read(content)


@pytest.mark.parametrize(
    "record",
    [
        "x",
        "99 path=a\n",
        "12 path=a\0b\n",
        "13 mtime=1.x\n",
        "10 size=-1\n",
        "0 a=b\n",
        "25 GNU.sparse.map=5,1,2,1\n22 GNU.sparse.size=10\n",
    ],
)
def test_malformed_pax_headers_are_refused(record: str) -> None:
    body = record.encode()
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    content = info.tobuf() + body.ljust(512, b"\0") + layer(E("f"))
    with pytest.raises(ContentError, match=r"malformed pax|impossible sparse"):
        read(content)


def test_a_sparse_map_without_end_is_refused() -> None:
    """Of the old form: each block has 21 holes, and says that one more follows."""
    more = b"".join(b"%011o\0" % number for number in (0, 0)) * 21 + b"\1"
    head = _summed(tarball.header(b"f", b"S", 0, magic=b"ustar  \0"), {482: b"\1"})
    with pytest.raises(ContentError, match="'f' has too many holes"):
        read(head + more.ljust(512, b"\0") * 4000)


def test_declared_sizes_allocate_nothing() -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(ContentError, match="refused"):
        read(info.tobuf(tarfile.GNU_FORMAT))


@given(st.binary(max_size=3000))
def test_noise_is_refused_or_empty(noise: bytes) -> None:
    try:
        read(noise)
    except HyperbuildError as error:
        assert str(error).isprintable()


@given(st.integers(0, 511), st.integers(0, 255))
def test_one_changed_byte_in_a_header_is_noticed(position: int, value: int) -> None:
    content = bytearray(layer(E("some/name", data=b"data")))
    changed = content[position] != value
    content[position] = value
    try:
        found = read(bytes(content))
    except HyperbuildError:
        assert changed
    else:
        # What passes differs nowhere that counts: the checksum field has slack (spaces, NULs).
        assert (found[0][0].name, found[0][1]) == (b"some/name", b"data")
