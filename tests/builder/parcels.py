"""Bundles to send about: made of an image in a registry, but for a kernel that is none."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.builder import artifact
from hyperbuild.converter import oci
from hyperbuild.launcher.bundle import ImageInfo, KernelInfo, RootfsInfo
from tests.launcher.support import make_files
from tests.support.layers import f, layer, layout
from tests.support.registry import push

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.launcher.bundle import Bundle
    from tests.conftest import RunCli

#: Three chunks and a bit; the second is a hole.
SIZE = 3 * artifact.CHUNK + (2 << 20)
KERNEL = random.Random(1).randbytes(300_000)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A bundle in a directory, and the image in a registry that it was made from."""

    directory: Path
    image: str
    digest: str
    bundle: Bundle

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs.erofs"


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def make_parcel(directory: Path, image: str, seed: int = 0) -> Parcel:
    """Push an image as image (HOST/NAME:TAG), and make a bundle of it in directory."""
    source = layout(directory / "image", layer(f("seed", str(seed).encode())))
    push(source, image)
    index = json.loads((source / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    return write_parcel(directory / "bundle", image, digest, seed)


def write_parcel(directory: Path, image: str, digest: str, seed: int = 0) -> Parcel:
    """Write a bundle into directory that says it was made from image, whose digest is given."""
    directory.mkdir()
    dice = random.Random(seed)
    content = bytearray(SIZE)
    for start in (0, 2 * artifact.CHUNK, 3 * artifact.CHUNK):
        content[start : start + 100_000] = dice.randbytes(100_000)
    (directory / "rootfs.erofs").write_bytes(content)
    (directory / "vmlinux").write_bytes(KERNEL)
    (directory / "initramfs.cpio").write_bytes(b"cpio" * 100)
    bundle = make_files().bundle
    kernel = digest_of(directory / "vmlinux")
    bundle = bundle.replace(
        image=ImageInfo(image, digest, digest, "linux/amd64"),
        rootfs=RootfsInfo("erofs", SIZE, digest_of(directory / "rootfs.erofs"), ()),
        kernel=KernelInfo("6.1", kernel, kernel),
        initramfs=digest_of(directory / "initramfs.cpio"),
    )
    (directory / "bundle.json").write_bytes(bundle.to_json())
    return Parcel(directory, image, digest, bundle)


def push_cli(run_cli: RunCli, *args: Any, **options: Any) -> dict[str, Any]:
    """Push by the command line; return what it says of it."""
    done = run_cli("push", "--json", *args, **options)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def pulled(run_cli: RunCli, name: str, **options: Any) -> str:
    done = run_cli("pull", name, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(run_cli: RunCli, said: str, *args: Any, **options: Any) -> None:
    done = run_cli(*args, **options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: "), done.stderr
    assert said in done.stderr.splitlines()[-1], done.stderr


def in_store(home: Path) -> dict[str, bytes]:
    """Return the blobs of the store of the test whose home that is, checking each by its name."""
    blobs = {}
    for path in (home / "data/hyperbuild/blobs/sha256").glob("*"):
        content = path.read_bytes()
        assert oci.matches(f"sha256:{path.name}", content)
        blobs[f"sha256:{path.name}"] = content
    return blobs
