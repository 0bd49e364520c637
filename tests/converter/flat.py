"""What the converter makes of layers, read back from the image it wrote."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.tree import Tree
from hyperbuild.converter.verify import open_image, verify_tree
from hyperbuild.converter.verify_reader import FileInfo
from tests.support.layers import layout


@dataclass(frozen=True)
class Seen:
    info: FileInfo
    content: bytes

    @property
    def type(self) -> str:
        return stat.filemode(self.info.mode)[0]


def convert_layout(directory: Path, image: Path, rootfs_format: str = "erofs") -> Tree:
    """Convert the layout in directory to the file image and verify it against the tree."""
    reference = parse_reference(f"oci:{directory}")
    store = Store(directory.parent / "store")
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with open_source(reference, store=store, settings=RegistrySettings()) as source:
            resolved = source.resolve(Platform("linux", "amd64"), QUIET)
            rootfs = convert(
                resolved,
                source,
                fd,
                rootfs_format=FORMATS[rootfs_format],
                epoch=None,
                progress=QUIET,
            )
        assert rootfs.size == os.fstat(fd).st_size
        verify_tree(fd, rootfs.tree.root)
        return rootfs.tree
    finally:
        os.close(fd)


def read_image(image: Path) -> dict[str, Seen]:
    """Return every path of an EROFS or ext4 image with what it is."""
    with image.open("rb") as file:
        reader = open_image(file.fileno())
        try:
            return {
                os.fsdecode(path): Seen(
                    info,
                    b"" if stat.S_ISDIR(info.mode) else b"".join(map(bytes, reader.content(info))),
                )
                for path, info in reader.walk()
            }
        finally:
            reader.close()


def flat(tmp_path: Path, *layers: bytes) -> dict[str, Seen]:
    """Convert an image of these layer tars, the base first, and read the result."""
    image = tmp_path / "rootfs.erofs"
    convert_layout(layout(tmp_path / "layout", *layers), image)
    return read_image(image)
