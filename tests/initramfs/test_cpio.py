"""The cpio writer against the cpio tool, and the rules by which the kernel unpacks."""

from __future__ import annotations

import re
import stat
import subprocess
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.initramfs.cpio import ARCHIVE_ALIGNMENT, CpioEntry, spec_segment, write_cpio

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = (
    *("ino", "mode", "uid", "gid", "nlink", "mtime", "size"),
    *("major", "minor", "rmajor", "rminor", "namesize", "check"),
)
NAMES = st.from_regex(re.compile(r"[a-z][a-z0-9._-]{0,40}", re.ASCII), fullmatch=True)
FILES = st.dictionaries(NAMES, st.binary(max_size=600), max_size=8)


def unpacked(archive: bytes) -> list[tuple[str, dict[str, int], bytes]]:
    """Return the entries as the kernel's init/initramfs.c would read them, trailer included."""
    found = []
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        header = archive[at + 6 : at + 110].decode()
        values = (int(header[field : field + 8], 16) for field in range(0, 104, 8))
        fields = dict(zip(FIELDS, values, strict=True))
        name = archive[at + 110 : at + 110 + fields["namesize"]]
        assert name.endswith(b"\0")
        data = (at + 110 + fields["namesize"] + 3) & ~3
        content = archive[data : data + fields["size"]]
        found.append((name[:-1].decode(), fields, content))
        at = (data + fields["size"] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert not any(archive[at:])
            return found


@given(FILES)
def test_the_kernel_reads_back_what_was_written(files: dict[str, bytes]) -> None:
    entries = [CpioEntry(name, stat.S_IFREG | 0o640, data) for name, data in files.items()]
    archive = write_cpio(entries)
    assert len(archive) % ARCHIVE_ALIGNMENT == 0
    *read, _ = unpacked(archive)
    assert [(name, content) for name, _, content in read] == list(files.items())
    assert [fields["ino"] for _, fields, _ in read] == list(range(1, len(files) + 1))
    for _, fields, _ in read:
        assert fields["mode"] == stat.S_IFREG | 0o640
        assert not any(fields[zero] for zero in ("uid", "gid", "mtime", "check"))


def test_the_cpio_tool_unpacks_it(tmp_path: Path) -> None:
    entries = (
        CpioEntry("directory", stat.S_IFDIR | 0o750),
        CpioEntry("directory/file", stat.S_IFREG | 0o600, b"content"),
        CpioEntry("directory/link", stat.S_IFLNK | 0o777, b"file"),
        CpioEntry("empty", stat.S_IFREG | 0o644),
    )
    archive = write_cpio(entries)
    argv = ("cpio", "--extract", "--quiet", "--no-preserve-owner")
    subprocess.run(argv, input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "directory/link").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "directory/file").stat().st_mode) == 0o600
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_device_node_keeps_its_numbers() -> None:
    archive = write_cpio([CpioEntry("console", stat.S_IFCHR | 0o600, device=(5, 1))])
    listing = subprocess.run(
        ("cpio", "--list", "--verbose", "--quiet"), input=archive, capture_output=True, check=True
    ).stdout.decode()
    assert listing.startswith("crw-------")
    assert re.search(r"\b5,\s+1\b", listing)


@given(FILES)
def test_a_spec_segment_is_for_root_alone_whatever_the_order(files: dict[str, bytes]) -> None:
    archive = spec_segment(files)
    assert archive == spec_segment(dict(reversed(files.items())))
    (name, fields, _), *rest, _ = unpacked(archive)
    assert (name, fields["mode"]) == ("spec", stat.S_IFDIR | 0o700)
    assert {name: content for name, _, content in rest} == {
        f"spec/{name}": content for name, content in files.items()
    }
    assert {fields["mode"] for _, fields, _ in rest} <= {stat.S_IFREG | 0o600}
