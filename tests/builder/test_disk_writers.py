"""Disks as other programs read them: table, system partition, and the files that hold them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.builder.disk_extents import MIB, Extent, Image, Stretch
from hyperbuild.builder.disk_fat import fat_volume, least_size
from hyperbuild.builder.disk_qcow2 import write_qcow2
from hyperbuild.builder.disk_raw import BOOT_PATH, Content, disk_image, guid_of, write_raw
from hyperbuild.builder.disk_uki import unified_kernel
from hyperbuild.builder.disk_vhd import write_vhd
from hyperbuild.converter.errors import ContentError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
MOMENT = 1_700_000_000


def said(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(path: Path, write: Callable[[int], None]) -> Path:
    with path.open("w+b") as file:
        write(file.fileno())
    return path


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    """Give a program of 9 MB and a root of 5 MiB."""
    root = tmp_path / "root"
    root.write_bytes(os.urandom(5 * MIB))
    with root.open("rb") as file:
        yield Content(os.urandom(9_000_000), Stretch(file.fileno(), 5 * MIB), "x", MOMENT)


def test_a_raw_disk_is_what_it_should_be(content: Content, tmp_path: Path) -> None:
    image = disk_image(content)
    disk = written(tmp_path / "raw", lambda fd: write_raw(fd, image))
    assert "No problems found" in said("sgdisk", "-v", disk)
    printed = said("sgdisk", "-p", disk)
    rows = re.findall(r"^ +\d +(\d+) +(\d+) .* (\w{4})  (\w+)$", printed, re.MULTILINE)
    assert [row[2:] for row in rows] == [("EF00", "esp"), ("8304", "root")]
    esp, root = (int(row[0]) * 512 for row in rows)
    assert esp % MIB == root % MIB == 0
    raw = disk.read_bytes()
    assert raw[root : root + 5 * MIB] == (tmp_path / "root").read_bytes()
    (tmp_path / "esp").write_bytes(raw[esp:root])
    said("fsck.vfat", "-n", tmp_path / "esp")
    said("mcopy", "-i", tmp_path / "esp", f"::{BOOT_PATH}", tmp_path / "program")
    assert (tmp_path / "program").read_bytes() == content.program
    # What is zero takes no room: the system partition is much larger than what is in it.
    assert disk.stat().st_blocks * 512 < len(raw) // 3


def test_the_formats_hold_the_same_disk(content: Content, tmp_path: Path) -> None:
    image = disk_image(content, 700 * MIB)
    raw = written(tmp_path / "raw", lambda fd: write_raw(fd, image))
    qcow2 = written(tmp_path / "qcow2", lambda fd: write_qcow2(fd, image))
    vhd = written(tmp_path / "vhd", lambda fd: write_vhd(fd, image, guid_of("x", "vhd"), MOMENT))
    assert "No errors" in said("qemu-img", "check", qcow2)
    for path, kind in ((qcow2, "qcow2"), (vhd, "vpc")):
        compared = said("qemu-img", "compare", "-f", "raw", "-F", kind, raw, path)
        assert "Images are identical" in compared
    assert qcow2.stat().st_size < 20 * MIB
    assert "virtual size: 700 MiB" in said("qemu-img", "info", "-f", "vpc", vhd)


def test_a_large_qcow2_with_little_in_it(tmp_path: Path) -> None:
    """Several tables of each kind, and pieces that cross the borders of clusters."""
    places = (0, 65535, (512 << 20) - 3, (3 << 30) + 5, (9 << 30) - 10)
    image = Image(9 << 30, tuple(Extent(place, bytes(range(1, 11))) for place in places))
    raw = written(tmp_path / "raw", lambda fd: write_raw(fd, image))
    qcow2 = written(tmp_path / "qcow2", lambda fd: write_qcow2(fd, image))
    assert "No errors" in said("qemu-img", "check", qcow2)
    assert "identical" in said("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2)


@pytest.mark.parametrize("size", [20, 700, 40_000, 200_000])
def test_a_vhd_says_how_large_it_is(size: int, tmp_path: Path) -> None:
    image = Image(size * MIB, ())
    vhd = written(tmp_path / "vhd", lambda fd: write_vhd(fd, image, guid_of("x", "vhd"), MOMENT))
    told = said("qemu-img", "info", "--output=json", "-f", "vpc", vhd)
    assert f'"virtual-size": {size * MIB}' in told
    assert vhd.stat().st_size == size * MIB + 512


def test_a_disk_that_is_too_small(content: Content) -> None:
    needed = disk_image(content).size
    assert disk_image(content, needed).size == needed
    with pytest.raises(InputError, match=rf"give at least {needed // MIB}M by --disk-size"):
        disk_image(content, needed - MIB)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 3_000_000, 40_000_000])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_fat_volume_holds_its_files(size: int, is_large: bool, tmp_path: Path) -> None:
    files = {"EFI/BOOT/A.EFI": os.urandom(size), "B": b"b", "EFI/C.TXT": b"c" * 600}
    room = 64 * MIB if is_large else least_size(files)
    volume = fat_volume(files, room, label="HERE", serial=0x1234ABCD, moment=MOMENT)
    path = written(tmp_path / "fat", lambda fd: write_raw(fd, Image(room, volume)))
    said("fsck.vfat", "-n", path)
    for name, content in files.items():
        target = tmp_path / "got"
        said("mcopy", "-n", "-o", "-i", path, f"::{name}", target)
        assert target.read_bytes() == content
    listed = said("mdir", "-i", path, "::")
    assert "Volume in drive : is HERE" in listed
    assert "1234-ABCD" in listed
    assert "2023-11-14" in listed


@pytest.mark.parametrize(
    ("files", "size", "told"),
    [
        ({"lower": b""}, 20, "lower is not a name"),
        ({"TOOLONGNAME": b""}, 20, "TOOLONGNAME is not a name"),
        ({"A": bytes(30 * MIB)}, 20, "too small"),
        ({"A": b""}, 1, "no FAT volume"),
        ({"A": b"", "A/B": b""}, 20, "A is a file and a directory"),
        ({f"F{number}": b"" for number in range(20)}, 20, "too many files"),
    ],
)
def test_what_no_fat_volume_can_hold(files: dict[str, bytes], size: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fat_volume(files, size * MIB, label="X", serial=1, moment=MOMENT)


def test_a_unified_kernel_has_its_sections(tmp_path: Path) -> None:
    sections = {".cmdline": b"quiet", ".linux": os.urandom(100_001), ".initrd": b"i" * 512}
    path = tmp_path / "uki"
    path.write_bytes(unified_kernel(STUB.read_bytes(), sections))
    for name, content in sections.items():
        target = tmp_path / "section"
        said("objcopy", "-O", "binary", f"--only-section={name}", path, target)
        assert target.read_bytes() == content
        target.unlink()
    own = tmp_path / "own"
    for name in (".text", ".data", ".sbat"):
        said("objcopy", "-O", "binary", f"--only-section={name}", STUB, own)
        said("objcopy", "-O", "binary", f"--only-section={name}", path, tmp_path / "kept")
        assert (tmp_path / "kept").read_bytes() == own.read_bytes()


@pytest.mark.parametrize("stub", [b"", b"MZ", b"MZ" + bytes(200), b"\x7fELF" * 100])
def test_a_stub_that_is_none(stub: bytes) -> None:
    with pytest.raises(ContentError, match="reinstall systemd-boot-efi"):
        unified_kernel(stub, {".linux": b"x"})
    whole = STUB.read_bytes()
    with pytest.raises(ContentError, match="is cut off"):
        unified_kernel(whole[:300], {".linux": b"x"})
