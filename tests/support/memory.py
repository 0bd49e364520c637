"""Images that never touch a disk: layers in memory, converted into a nameless file."""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hyperbuild.converter import oci
from hyperbuild.converter.convert import FORMATS, Rootfs, convert
from hyperbuild.converter.limits import Limits
from hyperbuild.converter.progress import QUIET, Progress
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.resolve import SourceImage
from hyperbuild.converter.verify import open_image
from tests.support.layers import LAYER
from tests.support.model import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AMD64 = oci.Platform("linux", "amd64")
#: Enough for a test, too little to wait for.
LIMITS = Limits(unpacked=64 << 20, file=16 << 20, entries=10_000, check_space=False)
_KINDS = {stat.S_IFREG: "-", stat.S_IFLNK: "l", stat.S_IFDIR: "d"}
_KINDS |= {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


class MemorySource:
    """An ImageSource of layer blobs by digest; ``opened`` are the digests of those asked for."""

    def __init__(self, blobs: Sequence[bytes]) -> None:
        self._blobs = {oci.digest_of(blob): blob for blob in blobs}
        self.opened: list[str] = []

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:
        raise NotImplementedError

    is_verified = True

    def prefetch(self, layers: object, progress: Progress) -> None:
        pass

    def is_near(self, layer: oci.Descriptor) -> bool:
        return layer.digest in self._blobs

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        self.opened.append(layer.digest)
        return io.BytesIO(self._blobs[layer.digest])  # type: ignore[return-value]

    def close(self) -> None:
        pass


def image_of(tars: Sequence[bytes]) -> SourceImage:
    """Describe an image of plain tar layers, the base first."""
    layers = tuple(oci.Descriptor(LAYER, oci.digest_of(tar), len(tar)) for tar in tars)
    config = oci.Descriptor(oci.OCI_CONFIG, oci.digest_of(b""), 1)
    diff_ids = tuple(oci.DiffID(layer.digest) for layer in layers)
    return SourceImage(
        parse_reference("oci:/memory"),
        oci.Manifest(b"", oci.OCI_MANIFEST, config, layers, {}),
        oci.ImageConfig(b"", AMD64, diff_ids, {}, ""),
        AMD64,
    )


@contextmanager
def converted(
    tars: Sequence[bytes], rootfs_format: str, limits: Limits = LIMITS, *, aligns: bool = False
) -> Iterator[Rootfs]:
    """Convert layers of plain tars by the real ``convert``; its file is gone at the end."""
    fd = os.memfd_create("image")
    try:
        yield convert(
            image_of(tars),
            MemorySource(tars),
            fd,
            rootfs_format=FORMATS[rootfs_format],
            epoch=0,
            progress=QUIET,
            limits=limits,
            aligns=aligns,
        )
    finally:
        os.close(fd)


def seen(fd: int) -> dict[bytes, Node]:
    """Return what the independent reader finds, in the model's words: one node for each inode."""
    reader = open_image(fd)
    found: dict[bytes, Node] = {}
    nodes: dict[int, Node] = {}
    try:
        for path, info in reader.walk():
            kind = _KINDS[stat.S_IFMT(info.mode)]
            content = b"".join(map(bytes, reader.content(info))) if kind in "-l" else b""
            node = Node(
                kind,
                content,
                info.mode & 0o7777,
                (info.uid, info.gid),
                info.mtime * 1_000_000_000 + info.mtime_ns,
                info.device,
                info.xattrs,
            )
            found[path] = nodes.setdefault(info.nid, node)
    finally:
        reader.close()
    return found


def check_same(found: dict[bytes, Node], meant: dict[bytes, Node]) -> None:
    """Fail for the first path that differs, and where names share an inode in one only."""
    assert sorted(found) == sorted(meant)
    for path, node in meant.items():
        assert _facts(found[path]) == _facts(node), path
    assert _groups(found) == _groups(meant)


def _facts(node: Node) -> tuple[object, ...]:
    return (
        node.kind, node.mode, node.owner, node.mtime, node.device, node.xattrs, node.content
    )  # fmt: skip


def _groups(tree: dict[bytes, Node]) -> set[frozenset[bytes]]:
    names: dict[int, set[bytes]] = {}
    for path, node in tree.items():
        names.setdefault(id(node), set()).add(path)
    return {frozenset(group) for group in names.values()}
