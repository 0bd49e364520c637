"""What the tests of this room share: the initramfs, images with the probe, and a machine."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from hyperbuild.converter.progress import QUIET
from hyperbuild.initramfs.build import build_initramfs
from tests.initramfs.host import Board, Machine, microvm

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBE_SOURCE = Path(__file__).parent / "guest/probe.c"
ALIGNMENT = 2 << 20


class PowerOn(Protocol):
    """Starts a VM with a boot spec: a microvm with the probe's image unless board is given."""

    def __call__(
        self,
        files: Mapping[str, bytes],
        *,
        board: Board | None = None,
        ports: bool = True,
        netdev: bool = False,
    ) -> Machine: ...


@pytest.fixture(scope="session")
def initramfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the template initramfs."""
    return build_initramfs(tmp_path_factory.mktemp("cache"), progress=QUIET).path


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of an image: a scratch image but for the probe and files to trip over."""
    root = tmp_path_factory.mktemp("tree")
    root.chmod(0o755)
    for name in ("bin", "etc", "bin/directory", "usr/bin"):
        (root / name).mkdir(parents=True)
    flags = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Os", "-static", "-s")
    subprocess.run(["musl-gcc", *flags, "-o", root / "bin/probe", PROBE_SOURCE], check=True)
    (root / "etc/machine-id").touch()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "etc/resolv.conf").symlink_to("/run/nowhere/resolv.conf")
    (root / "usr/bin/plain").write_text("not a program\n")
    (root / "usr/bin/both").write_text("not a program\n")
    shutil.copy(root / "bin/probe", root / "bin/both")
    for name, content in (("garbage", b"\0garbage"), ("orphan-script", b"#!/no/such/shell\n")):
        (root / "bin" / name).write_bytes(content)
        (root / "bin" / name).chmod(0o755)
    (root / "private").mkdir(mode=0o700)
    return root


@pytest.fixture(scope="session")
def erofs(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give tree as EROFS, padded to a multiple of 2 MiB."""
    path = tmp_path_factory.mktemp("erofs") / "rootfs.erofs"
    argv = ("mkfs.erofs", "-E", "noinline_data", "--all-root", path, tree)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return _padded(path)


@pytest.fixture(scope="session")
def ext4(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give tree as ext4 with blocks of a page, which DAX needs."""
    path = tmp_path_factory.mktemp("ext4") / "rootfs.ext4"
    argv = (
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "^has_journal",
        "-d",
        tree,
        path,
        "8M",
    )
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return _padded(path)


@pytest.fixture
def power_on(kernel: Path, initramfs: Path, erofs: Path, tmp_path: Path) -> PowerOn:
    """Give a function that starts a VM."""
    numbers = itertools.count()

    def start(
        files: Mapping[str, bytes],
        *,
        board: Board | None = None,
        ports: bool = True,
        netdev: bool = False,
    ) -> Machine:
        initrd = tmp_path / f"initrd-{next(numbers)}"
        shutil.copyfile(initramfs, initrd)
        return Machine(kernel, initrd, board or microvm(erofs), files, ports=ports, netdev=netdev)

    return start


def _padded(path: Path) -> Path:
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // ALIGNMENT) * ALIGNMENT)
    return path
