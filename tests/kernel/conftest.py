"""Kernels and trees that several tests of this room use."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.progress import QUIET
from hyperbuild.kernel.build import build_kernel
from hyperbuild.kernel.source import find_source, unpack
from tests.kernel.tiny import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.kernel.build import Kernel


@pytest.fixture(scope="session")
def kernel(shared_cache: Path) -> Kernel:
    """Give the HyperKernel, built if this user's cache lacks it (minutes)."""
    cache = shared_cache / "hyperbuild"
    source = find_source(cache, None, progress=QUIET)
    return build_kernel(cache, source, jobs=os.cpu_count() or 1, progress=QUIET)


@pytest.fixture(scope="session")
def linux_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give Debian's kernel source, unpacked."""
    directory = tmp_path_factory.mktemp("linux")
    tree = directory / "tree"
    tree.mkdir()
    unpack(find_source(directory, None, progress=QUIET), tree, directory, QUIET)
    yield tree
    # A gigabyte: pytest would keep it for three sessions.
    shutil.rmtree(tree)


@pytest.fixture(scope="session")
def tiny_vmlinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an ELF file with a PVH note and a Linux banner, of a few KB."""
    directory = tmp_path_factory.mktemp("tiny")
    (directory / "program.S").write_text(PROGRAM)
    link = ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext-segment=0x100000"]
    subprocess.run(["gcc", *link, "-o", "vmlinux", "program.S"], cwd=directory, check=True)
    return directory / "vmlinux"
