"""Disks that fill up at any point, and places that cannot be written."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.builder.test_convert_cli import PLAIN, check_failure
from tests.conftest import RunCli
from tests.support.layers import f, layer, layout

needs_mount = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 2 MB in 200 files, and the same as a compressed archive beside it."""
    directory = tmp_path_factory.mktemp("image")
    small = layout(directory / "image", layer(*(f(f"f{n}", os.urandom(9000)) for n in range(200))))
    with tarfile.open(directory / "image.tar", "w") as archive:
        archive.add(small, ".")
    packed = gzip.compress((directory / "image.tar").read_bytes(), 1)
    (directory / "image.tar.gz").write_bytes(packed)
    return small


@pytest.fixture
def hyperbuild_env(hyperbuild_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Give an environment that knows no layer yet: each has to be read."""
    return hyperbuild_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


@contextmanager
def mounted(disk: Path, options: str) -> Iterator[Path]:
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def used(directory: Path) -> int:
    """Return the KiB that the files in directory take on a disk."""
    return sum(path.lstat().st_blocks for path in directory.rglob("*")) // 2


@needs_mount
@pytest.mark.parametrize("place", ["output", "store", "archive"])
def test_a_disk_that_fills_up_at_any_point(
    image: Path, tmp_path: Path, run_cli: RunCli, place: str
) -> None:
    source = f"oci-archive:{image}.tar.gz" if place == "archive" else f"oci:{image}"

    def convert(disk: Path) -> subprocess.CompletedProcess[str]:
        where = ["-o", disk / "out"] if place == "output" else []
        env = {} if place == "output" else {"XDG_DATA_HOME": str(disk)}
        return run_cli("-q", *PLAIN, "--no-space-check", source, *where, env=env)

    with mounted(tmp_path / "whole", "size=64m") as disk:
        whole = convert(disk)
        assert whole.returncode == 0, whole.stderr
        need = used(disk)
    failures = 0
    for size in (4, 16, need // 2, *range(need - 24, need + 24, 8)):
        with mounted(tmp_path / "disk", f"size={size}k") as disk:
            done = convert(disk)
            if done.returncode == 0:
                assert done.stdout.replace(str(disk), "") == whole.stdout.replace(
                    str(tmp_path / "whole"), ""
                )
                continue
            failures += 1
            errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
            assert len(errors) == 1
            assert "space" in errors[0]
            assert str(disk) in errors[0] or "root file system" in errors[0]
            left = [path.name for path in disk.rglob("*") if path.is_file()]
            assert not [name for name in left if name.startswith((".hyperbuild", "rootfs"))]
            if place == "output":
                assert left == []
    assert failures > 3


@needs_mount
@pytest.mark.parametrize("place", ["output", "store"])
def test_places_that_are_read_only(
    image: Path, tmp_path: Path, run_cli: RunCli, place: str
) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        where = ["-o", disk] if place == "output" else []
        env = {} if place == "output" else {"XDG_DATA_HOME": str(disk)}
        done = run_cli(*PLAIN, f"oci:{image}", *where, env=env, timeout=60)
        check_failure(done, str(disk))


def test_nothing_is_written_into_tmpdir_nor_into_the_store(
    image: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    env = {"TMPDIR": "/nowhere", "XDG_DATA_HOME": str(tmp_path / "store")}
    done = run_cli(*PLAIN, f"oci:{image}", "-o", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "store").exists()
