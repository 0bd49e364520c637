"""The proof of a conversion: every byte that is not the layers' is found, and not published."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.errors import VerificationError
from hyperbuild.converter.limits import DEFAULT_LIMITS
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.proof import prove
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.verify import open_image
from tests.conftest import RunCli
from tests.support.layers import E, d, f, h, layer, layout, s

LAYERS = (
    layer(
        d("dir/", mode=0o700, xattrs={"user.a": b"1"}),
        f("dir/file", b"MARK" + b"x" * 10_000),
        f("big", os.urandom(3 << 20)),
        f("gone", b"LOSER" * 100),
        h("hard", "dir/file"),
        s("sym", "dir/file"),
        f("empty"),
    ),
    layer(f(".wh.gone"), f("dir/file2", b"second"), s("into", "dir"), f("into/three", b"3")),
)


def prove_changed(tmp_path: Path, rootfs_format: str, change: object = None) -> None:
    """Convert LAYERS, let change (a function of fd) spoil the image, and prove it."""
    directory = layout(tmp_path / "layout", *LAYERS)
    fd = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    settings, store = RegistrySettings(), Store(tmp_path / "store")
    try:
        with open_source(
            parse_reference(f"oci:{directory}"), store=store, settings=settings
        ) as source:
            image = source.resolve(Platform("linux", "amd64"), QUIET)
            convert(
                image, source, fd, rootfs_format=FORMATS[rootfs_format], epoch=None, progress=QUIET
            )
            if callable(change):
                change(fd)
            prove(image, source, fd, epoch=None, limits=DEFAULT_LIMITS, progress=QUIET)
    finally:
        os.close(fd)


def data_at(fd: int, path: bytes) -> int:
    reader = open_image(fd)
    try:
        return next(info for name, info in reader.walk() if name == path).runs[0][0]
    finally:
        reader.close()


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_a_right_image_passes(tmp_path: Path, rootfs_format: str) -> None:
    prove_changed(tmp_path, rootfs_format)


@pytest.mark.parametrize("rootfs_format", FORMATS)
@pytest.mark.parametrize(
    ("path", "offset"), [(b"dir/file", 0), (b"big", (3 << 20) - 1), (b"into/three", 0)]
)
def test_one_wrong_byte_of_content_is_found(
    tmp_path: Path, rootfs_format: str, path: bytes, offset: int
) -> None:
    path = path.replace(b"into", b"dir")

    def spoil(fd: int) -> None:
        at = data_at(fd, path) + offset
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1]), at)

    with pytest.raises(VerificationError, match=path.decode()):
        prove_changed(tmp_path, rootfs_format, spoil)


@pytest.mark.parametrize("field", [4, 24, 32, 40])
def test_wrong_metadata_is_found(tmp_path: Path, field: int) -> None:
    """Offsets in an EROFS inode: mode, uid, mtime, nanoseconds."""

    def spoil(fd: int) -> None:
        reader = open_image(fd)
        nid = next(info for name, info in reader.walk() if name == b"hard").nid
        start = reader.number(1064, 4) * 4096 + nid * 32 + field
        reader.close()
        os.pwrite(fd, bytes([os.pread(fd, 1, start)[0] ^ 1]), start)

    with pytest.raises(VerificationError, match=r"dir/file|hard"):
        prove_changed(tmp_path, "erofs", spoil)


def test_sparse_files_are_proved_with_their_holes(tmp_path: Path) -> None:
    from tests.converter.sparse import sparse_layer

    directory = layout(tmp_path / "layout", sparse_layer(5 << 20, [(1 << 20, b"middle")]))
    image_path = tmp_path / "image"
    fd = os.open(image_path, os.O_RDWR | os.O_CREAT)
    with open_source(
        parse_reference(f"oci:{directory}"),
        store=Store(tmp_path / "store"),
        settings=RegistrySettings(),
    ) as source:
        image = source.resolve(Platform("linux", "amd64"), QUIET)
        convert(image, source, fd, rootfs_format=FORMATS["erofs"], epoch=None, progress=QUIET)
        prove(image, source, fd, epoch=None, limits=DEFAULT_LIMITS, progress=QUIET)
        os.pwrite(fd, b"x", data_at(fd, b"sparse") + (3 << 20))
        with pytest.raises(VerificationError, match="sparse"):
            prove(image, source, fd, epoch=None, limits=DEFAULT_LIMITS, progress=QUIET)
    os.close(fd)


#: Runs the command line with a writer that gets one byte wrong.
BROKEN = """
import os, sys
from hyperbuild.converter import extents
write = extents.ExtentWriter._write
def broken(self, pieces, offset):
    write(self, pieces, offset)
    os.pwrite(self._fd, b"#", offset)
extents.ExtentWriter._write = broken
from hyperbuild.builder.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("place", ["directory", "store"])
def test_what_fails_the_proof_is_not_published(
    tmp_path: Path, hyperbuild_env: dict[str, str], place: str
) -> None:
    import subprocess

    directory = layout(tmp_path / "layout", *LAYERS)
    out = tmp_path / "out"
    where = ["-o", str(out)] if place == "directory" else []
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, "convert", "--no-kernel", "--verify", f"oci:{directory}",
         *where],
        env=hyperbuild_env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "differs between the image and its layers" in done.stderr
    assert done.stdout == ""
    assert not out.exists()
    assert not list((tmp_path / "data").rglob("blobs/sha256/*"))


def test_a_stored_bundle_that_was_spoilt_is_withdrawn(
    tmp_path: Path, run_cli: RunCli, hyperbuild_env: dict[str, str]
) -> None:
    directory = layout(tmp_path / "layout", *LAYERS)
    command = ("convert", "--no-kernel", "--verify", f"oci:{directory}")
    digest = run_cli(*command).stdout
    assert run_cli(*command).stdout == digest
    blobs = tmp_path / "data/hyperbuild/blobs/sha256"
    rootfs = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    content = rootfs.read_bytes()
    rootfs.chmod(0o644)
    rootfs.write_bytes(content.replace(b"MARK", b"mark"))
    done = run_cli(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "dir/file" in done.stderr
    assert run_cli(*command).stdout == digest
    assert rootfs.read_bytes() == content


def test_entries_of_special_files_are_proved(tmp_path: Path) -> None:
    import tarfile

    tar = layer(E("null", tarfile.CHRTYPE, device=(1, 3)), E("pipe", tarfile.FIFOTYPE))
    directory = layout(tmp_path / "layout", tar)
    fd = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    with open_source(
        parse_reference(f"oci:{directory}"),
        store=Store(tmp_path / "store"),
        settings=RegistrySettings(),
    ) as source:
        image = source.resolve(Platform("linux", "amd64"), QUIET)
        convert(image, source, fd, rootfs_format=FORMATS["ext4"], epoch=None, progress=QUIET)
        prove(image, source, fd, epoch=None, limits=DEFAULT_LIMITS, progress=QUIET)
    os.close(fd)
