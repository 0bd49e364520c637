"""Bundles that boot: busybox as the image, and a guest that misbehaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.progress import QUIET
from hyperbuild.initramfs.build import build_initramfs
from hyperbuild.initramfs.cpio import CpioEntry, write_cpio
from tests.launcher.support import MIB, make_files

if TYPE_CHECKING:
    from hyperbuild.launcher.located import BundleFiles

APPLETS = (
    "cat",
    "date",
    "echo",
    "grep",
    "head",
    "hostname",
    "httpd",
    "id",
    "ip",
    "kill",
    "od",
    "pwd",
    "sh",
    "sleep",
    "true",
    "wc",
    "yes",
)


@pytest.fixture(scope="session")
def busybox(
    tmp_path_factory: pytest.TempPathFactory, kernel: Path, shared_cache: Path
) -> BundleFiles:
    """Give a bundle whose image is busybox and a few files."""
    directory = tmp_path_factory.mktemp("busybox")
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "bin/text").write_text("not a program")
    (root / "bin/text").chmod(0o644)
    (root / "etc").mkdir()
    (root / "etc/machine-id").touch()
    (root / "www").mkdir()
    (root / "www/index.html").write_text("<h1>It works</h1>")
    image = directory / "rootfs.erofs"
    subprocess.run(
        ["mkfs.erofs", "--quiet", "-E", "noinline_data", image, root],
        check=True,
        capture_output=True,
    )
    size = -(-image.stat().st_size // (2 * MIB)) * 2 * MIB
    os.truncate(image, size)
    initramfs = build_initramfs(shared_cache / "hyperbuild", progress=QUIET)
    files = make_files(directory, size=size, entrypoint=(), args=("/bin/true",))
    return files.replace(kernel=kernel, initramfs=initramfs.path)


@pytest.fixture(scope="session")
def rogue(tmp_path_factory: pytest.TempPathFactory, busybox: BundleFiles) -> BundleFiles:
    """Give a bundle whose /init breaks the protocol as its first argument says."""
    directory = tmp_path_factory.mktemp("rogue")
    init = directory / "init"
    source = Path(__file__).with_name("rogue.c")
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", init, source], check=True)
    archive = directory / "initramfs.cpio"
    archive.write_bytes(write_cpio([CpioEntry("init", 0o100755, init.read_bytes())]))
    return busybox.replace(initramfs=archive)
