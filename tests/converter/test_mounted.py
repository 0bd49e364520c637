"""Converted images as the kernel shows them: mounted by a loop device, asked by outside tools."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperbuild.converter.convert import FORMATS
from hyperbuild.converter.limits import Limits
from tests.converter.sparse import sparse_layer
from tests.converter.test_model import Seeded, modelled
from tests.converter.test_umoci import unpacked
from tests.support import dice, tarball
from tests.support.memory import LIMITS, check_same, converted
from tests.support.model import Model
from tests.support.tarball import Entry

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
LABEL = b"system_u:object_r:bin_t:s0\0"
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, identity)
    for tag, permissions, identity in (
        (1, 7, 0xFFFFFFFF), (2, 5, 1000), (4, 5, 0xFFFFFFFF), (8, 4, 2000),
        (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF),
    )
)  # fmt: skip
SEEDS = range(200, 212)


@contextmanager
def mounted(
    tmp_path: Path, tars: list[bytes], rootfs_format: str, limits: Limits = LIMITS
) -> Iterator[Path]:
    """Convert layers and mount the result."""
    if rootfs_format not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel knows no {rootfs_format}")
    image, place = tmp_path / "image", tmp_path / "mounted"
    place.mkdir(exist_ok=True)
    with converted(tars, rootfs_format, limits) as rootfs:
        # cp keeps holes.
        subprocess.run(["cp", f"/proc/{os.getpid()}/fd/{rootfs.fd}", image], check=True)
    subprocess.run(["mount", "-t", rootfs_format, "-o", "loop,ro", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_what_guards_files_survives(tmp_path: Path, rootfs_format: str) -> None:
    """Owners, setuid, file capabilities, SELinux labels and POSIX ACLs, upper layers included."""
    guarded = {b"security.capability": CAPABILITY, b"security.selinux": LABEL}
    acls = {b"system.posix_acl_access": ACL, b"system.posix_acl_default": ACL}
    lower = [
        Entry(b"d", tarball.DIRECTORY, mode=0o2775, uid=7, gid=8, xattrs=acls),
        Entry(b"d/ping", data=b"\x7fELF", mode=0o755, xattrs=guarded),
        Entry(b"d/su", mode=0o4755, uid=(1 << 32) - 2),
        Entry(b"d/host", xattrs={b"trusted.overlay.origin": b"x", b"user.kept": b"1"}),
        Entry(b"d/acl", mode=0o674, xattrs={b"system.posix_acl_access": ACL}),
    ]
    upper = [
        Entry(b"d/ping2", tarball.HARD, link=b"d/ping"),
        Entry(b"d/new", xattrs={b"security.selinux": LABEL}),
    ]
    model = Model()
    for layer in (lower, upper):
        model.apply(layer)
    tars = [tarball.archive(*map(tarball.member, layer)) for layer in (lower, upper)]
    with mounted(tmp_path, tars, rootfs_format) as place:
        check_same(unpacked(place), model.tree)
        said = subprocess.run(
            ["getcap", place / "d/ping2"], capture_output=True, text=True, check=True
        )
        assert "cap_net_bind_service=ep" in said.stdout
        assert os.getxattr(place / "d", "system.posix_acl_default") == ACL


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_random_images(tmp_path: Path, rootfs_format: str) -> None:
    compared = 0
    for seed in SEEDS:
        chance = Seeded(seed)
        layers = dice.image(chance)
        model = modelled(layers)
        if model is None:
            continue
        tars = [dice.layer_tar(chance, layer) for layer in layers]
        with mounted(tmp_path, tars, rootfs_format) as place:
            check_same(unpacked(place), model.tree)
        compared += 1
    assert compared > len(SEEDS) // 2


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_large_numbers(tmp_path: Path, rootfs_format: str) -> None:
    """A file over 4 GiB, 65,000 names of one file, and 20,000 names of 200 bytes side by side."""
    size = (5 << 30) + 5
    names = {b"%0200d" % n for n in range(20_000)}
    links = [Entry(b"links/0", data=b"one"), *(
        Entry(b"links/%d" % n, tarball.HARD, link=b"links/0") for n in range(1, 65_000)
    )]  # fmt: skip
    entries = [*links, *(Entry(b"wide/" + name, mtime=1_700_000_000_123_456_789) for name in names)]
    tars = [
        tarball.archive(*map(tarball.member, entries)),
        sparse_layer(size, [(0, b"begin"), (4 << 30, b"above"), (size - 5, b"after")], "huge"),
    ]
    limits = Limits(unpacked=8 << 30, file=8 << 30, check_space=False)
    with mounted(tmp_path, tars, rootfs_format, limits) as place:
        assert (place / "links/64999").read_bytes() == b"one"
        seen = {os.lstat(entry.path).st_ino for entry in os.scandir(place / "links")}
        assert (len(seen), (place / "links/7").stat().st_nlink) == (1, 65_000)
        assert {os.fsencode(entry.name) for entry in os.scandir(place / "wide")} == names
        for name in list(names)[::100]:
            found = os.lstat(os.fsencode(place / "wide") + b"/" + name)
            assert found.st_mtime_ns == 1_700_000_000_123_456_789
        with (place / "huge").open("rb") as huge:
            assert os.fstat(huge.fileno()).st_size == size
            parts = [os.pread(huge.fileno(), 5, at) for at in (0, 4 << 30, size - 5, 3 << 30)]
        assert parts == [b"begin", b"above", b"after", bytes(5)]
