"""A bundle to vary, and the machine it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperbuild.converter.oci import digest_of
from hyperbuild.launcher.bundle import (
    Bundle,
    ImageInfo,
    KernelInfo,
    Process,
    RootfsInfo,
    Signal,
    User,
)
from hyperbuild.launcher.identity import Identity
from hyperbuild.launcher.located import BundleFiles

IDENTITY = Identity("host", "0123456789abcdef" * 2, "52:54:00:01:02:03", 15, b"\1\0")
DIGEST = digest_of(b"")
MIB = 1 << 20


def make_process(**changes: Any) -> Process:
    process = Process(
        args=("/entry", "default"),
        entrypoint=("/entry",),
        env=(),
        cwd="/",
        home="/root",
        user=User(),
        stop_signal=Signal("SIGTERM", 15),
        healthcheck=None,
        exposed_ports=(),
        volumes=(),
        labels={},
    )
    return process.replace(**changes)


def make_files(
    directory: Path = Path("/bundle"), *, size: int = 4 * MIB, **changes: Any
) -> BundleFiles:
    """Return a located bundle; its files need not exist. changes go to its process."""
    bundle = Bundle(
        image=ImageInfo("test", DIGEST, DIGEST, "linux/amd64"),
        config={},
        process=make_process(**changes),
        rootfs=RootfsInfo("erofs", size, DIGEST, ()),
        kernel=KernelInfo("6.1", DIGEST, DIGEST),
        initramfs=DIGEST,
    )
    return BundleFiles(
        bundle,
        directory / "rootfs.erofs",
        directory / "vmlinux",
        directory / "initramfs.cpio",
        bundle.to_json(),
    )
