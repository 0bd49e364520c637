"""A disk keeps what the guest writes, for the VMs of one image and one at a time."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import HyperbuildError, InputError, ToolError
from hyperbuild.launcher import disk
from hyperbuild.launcher.disk import open_disk
from hyperbuild.launcher.errors import BootError
from hyperbuild.launcher.machine import DiskFile, parse_disk
from tests.launcher.boots import boot, options

if TYPE_CHECKING:
    from hyperbuild.launcher.located import BundleFiles

IMAGE = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "fedcba9876543210" * 4
PATH = os.environ["PATH"]
MIB = 1 << 20

#: What is in /etc: the host's choice.
NAMES = (b"hostname", b"hosts", b"machine-id", b"resolv.conf")


def made(path: Path, size: int = 16, image: str = IMAGE) -> Path:
    os.close(open_disk(DiskFile(path, size), image, PATH))
    return path


def refused(kind: type[HyperbuildError], said: str, wanted: DiskFile, image: str = IMAGE) -> None:
    before = sorted(wanted.path.parent.iterdir()) if wanted.path.parent.is_dir() else []
    with pytest.raises(kind, match=said):
        open_disk(wanted, image, PATH)
    if wanted.path.parent.is_dir():
        assert sorted(wanted.path.parent.iterdir()) == before


def check(path: Path) -> None:
    # Its journal first, as the guest's kernel would.
    done = subprocess.run(["e2fsck", "-fp", path], capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stdout
    subprocess.run(["e2fsck", "-fn", path], capture_output=True, check=True)


def test_a_new_disk_is_sparse_private_and_sound(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    os.close(open_disk(DiskFile(path), IMAGE, PATH))
    found = path.stat()
    assert found.st_size == 10 << 30
    assert found.st_blocks * 512 < 8 * MIB
    assert found.st_mode & 0o777 == 0o600
    check(path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_disk_is_taken_as_it_is(tmp_path: Path) -> None:
    path = made(tmp_path / "old.img")
    before = path.read_bytes()
    for size in (None, 16):
        os.close(open_disk(DiskFile(path, size), IMAGE, PATH))
    assert path.read_bytes() == before


def test_what_is_no_disk_of_this_image_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "disk.img")
    refused(InputError, "disk of another image, .*; give this image", DiskFile(path), OTHER)
    refused(InputError, "is there already, with 16 MiB; drop the size", DiskFile(path, 32))
    os.truncate(path, 8 * MIB)
    refused(InputError, "was cut short; restore it", DiskFile(path))
    os.truncate(path, 512)
    refused(InputError, "has no ext4 file system; give a file", DiskFile(path))
    path.write_bytes(b"notes of mine\n" * 1000)
    refused(InputError, "has no ext4 file system; give a file", DiskFile(path))
    assert path.read_bytes().startswith(b"notes of mine")


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "dangling"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.img"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    refused(HyperbuildError, "is not a regular file|cannot open", DiskFile(path))


def test_a_disk_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(InputError, "is no directory", DiskFile(tmp_path / "none/disk.img"))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mkfs.ext4").write_text("#!/bin/sh\necho mkfs.ext4: no luck >&2; exit 1\n")
    (programs / "mkfs.ext4").chmod(0o755)
    with pytest.raises(ToolError, match=r"could not make .*disk\.img: mkfs.ext4: no luck"):
        open_disk(DiskFile(tmp_path / "disk.img"), IMAGE, str(programs))
    assert list(tmp_path.iterdir()) == [programs]
    monkeypatch.setattr(disk, "_SYSTEM_PATH", "")
    with pytest.raises(ToolError, match="apt install e2fsprogs"):
        open_disk(DiskFile(tmp_path / "disk.img"), IMAGE, str(tmp_path))


def test_a_disk_is_one_vms_at_a_time(tmp_path: Path) -> None:
    path = made(tmp_path / "disk.img")
    held = open_disk(DiskFile(path), IMAGE, PATH)
    refused(InputError, "is in use by another VM; stop that one", DiskFile(path))
    os.close(held)
    os.close(open_disk(DiskFile(path), IMAGE, PATH))


def test_one_that_others_make_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "disk.img")
    inode = path.stat().st_ino
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    os.close(open_disk(DiskFile(path), IMAGE, PATH))
    assert path.stat().st_ino == inode
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_as_users_write_it() -> None:
    assert parse_disk("a/b.img") == DiskFile(Path("a/b.img"))
    assert parse_disk("a:b.img:2G") == DiskFile(Path("a:b.img"), 2048)
    for size in ("large", "", "5K", "0M", "8M", "99999999G"):
        with pytest.raises(InputError, match=r"is no size of a disk: give 16M to 16384G"):
            parse_disk(f"b.img:{size}")
    with pytest.raises(InputError):
        parse_disk(":2G")


@pytest.mark.boot
@pytest.mark.parametrize("dax", [True, False])
def test_what_is_written_is_there_the_next_time(
    busybox: BundleFiles, tmp_path: Path, dax: bool
) -> None:
    disk = DiskFile(tmp_path / "disk.img", 64)
    script = "echo mine > /www/index.html; echo > /new; chmod 700 /"
    assert boot(busybox, options("sh", "-c", script, disk=disk, dax=dax)).result.status == 0
    check(disk.path)
    script = "cat /www/index.html /new; busybox ls -ld / | head -c 10; echo; busybox ls /etc"
    ran = boot(busybox, options("busybox", "sh", "-c", script,
                                disk=disk, dax=dax))  # fmt: skip
    assert ran.stdout.split() == [b"mine", b"drwx------", *NAMES]
    # Others see the image as it is.
    assert boot(busybox, options("cat", "/www/index.html")).stdout == b"<h1>It works</h1>"


@pytest.mark.boot
def test_a_boot_that_is_refused_makes_no_disk(busybox: BundleFiles, tmp_path: Path) -> None:
    disk = DiskFile(tmp_path / "disk.img", 16)
    with pytest.raises(InputError, match="memory of 33 MiB is too small"):
        boot(busybox, options("true", disk=disk, memory=33))
    assert not disk.path.exists()


@pytest.mark.boot
def test_what_is_deleted_is_given_back(busybox: BundleFiles, tmp_path: Path) -> None:
    disk = DiskFile(tmp_path / "disk.img", 128)
    fill = "head -c 50000000 /dev/zero > /big"
    boot(busybox, options("sh", "-c", fill, disk=disk))
    full = disk.path.stat().st_blocks
    boot(busybox, options("sh", "-c", "busybox rm /big; busybox sync; sleep 5", disk=disk))
    assert (full - disk.path.stat().st_blocks) * 512 > 45_000_000


@pytest.mark.boot
def test_a_full_disk_is_the_applications_to_see(busybox: BundleFiles, tmp_path: Path) -> None:
    disk = DiskFile(tmp_path / "disk.img", 16)
    script = "cat /dev/zero > /big || exit 7"
    ran = boot(busybox, options("sh", "-c", script, disk=disk))
    assert ran.result.status == 7
    assert b"No space left" in ran.stderr
    check(disk.path)


@pytest.mark.boot
def test_a_damaged_file_system_is_told_of(busybox: BundleFiles, tmp_path: Path) -> None:
    path = made(tmp_path / "disk.img", 16, busybox.bundle.image.manifest_digest)
    content = bytearray(path.read_bytes())
    content[1024 + 0x78 : 1024 + 0x80] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(BootError, match=r"mount the disk /dev/vda \(ext4\): "):
        boot(busybox, options("true", disk=DiskFile(path)))


@pytest.mark.boot
def test_a_vm_that_is_killed_leaves_a_sound_disk(busybox: BundleFiles, tmp_path: Path) -> None:
    chosen = options(
        "sh",
        "-c",
        "echo kept > /kept; busybox sync; echo ready; while :; do date >> /log; done",
        disk=DiskFile(tmp_path / "disk.img", 64),
    )
    texts = [pickle.dumps(each).hex() for each in (busybox, chosen)]
    argv = [sys.executable, "-m", "tests.launcher.launch", *texts]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        refused(InputError, "is in use", chosen.disk, busybox.bundle.image.manifest_digest)
        process.send_signal(signal.SIGKILL)
    # QEMU's end comes a moment later.
    fd = os.open(chosen.disk.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.close(fd)
    ran = boot(busybox, options("cat", "/kept", disk=chosen.disk))
    assert ran.stdout == b"kept\n"
    check(chosen.disk.path)
