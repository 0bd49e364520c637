"""What is fuzzed: each target takes any bytes and may raise HyperbuildError alone."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from hyperbuild.builder.lint import lint
from hyperbuild.converter import oci, tar
from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.converter.examine import examine_rootfs
from hyperbuild.converter.limits import Limits
from hyperbuild.converter.progress import QUIET, Progress
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.resolve import SourceImage
from hyperbuild.converter.stream import LayerStream
from hyperbuild.converter.verify import verify_tree
from hyperbuild.launcher.bundle import Bundle
from hyperbuild.launcher.channel import ControlDecoder, StreamDecoder
from tests.support.layers import LAYER, E, d, f, h, layer, s

BLOCK = 512
LIMITS = Limits(unpacked=64 << 20, file=16 << 20, entries=10_000, check_space=False)


@dataclass(frozen=True)
class Target:
    """One entry point, and what its inputs begin from; tars have their checksums mended."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    is_tar: bool = False


class _Memory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:
        raise NotImplementedError

    def prefetch(self, layers: object, progress: Progress) -> None:
        pass

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        return io.BytesIO(self._content)  # type: ignore[return-value]

    def close(self) -> None:
        pass


def check(target: Target, data: bytes) -> None:
    """Run target on data; an error must be one of ours, on one printable line."""
    try:
        target.run(data)
    except HyperbuildError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        text.encode()


def mend(data: bytes) -> bytes:
    """Put right the checksum of each block that calls itself a tar header."""
    content = bytearray(data)
    for at in range(0, len(content) - BLOCK + 1, BLOCK):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + BLOCK])
    return bytes(content)


def _stream(data: bytes) -> LayerStream:
    digest = oci.digest_of(data)
    return LayerStream(
        io.BytesIO(data),  # type: ignore[arg-type]
        oci.Descriptor(LAYER, digest, len(data)),
        oci.DiffID(digest),
        before_reuse=lambda: None,
        where="layer",
    )


def _tar(data: bytes) -> None:
    with _stream(data) as stream:
        for _ in tar.members(stream):
            pass
        stream.finish()


def _layer(data: bytes) -> None:
    with _stream(data) as stream:
        stream.finish()


def _convert(data: bytes, rootfs_format: str) -> bytes:
    """Convert the layer data, verify the image and return its first 64 KiB."""
    digest = oci.digest_of(data)
    platform = oci.Platform("linux", "amd64")
    image = SourceImage(
        parse_reference("oci:/fuzz"),
        oci.Manifest(
            b"",
            oci.OCI_MANIFEST,
            oci.Descriptor(oci.OCI_CONFIG, digest, 1),
            (oci.Descriptor(LAYER, digest, len(data)),),
            {},
        ),
        oci.ImageConfig(b"", platform, (oci.DiffID(digest),), {}, ""),
        platform,
    )
    fd = os.memfd_create("fuzz")
    try:
        rootfs = convert(
            image, _Memory(data), fd,
            rootfs_format=FORMATS[rootfs_format], epoch=0, progress=QUIET, limits=LIMITS,
        )  # fmt: skip
        try:
            verify_tree(fd, rootfs.tree.root)
        except HyperbuildError as error:
            raise AssertionError(f"converted, but wrong: {error}") from error
        return os.pread(fd, 1 << 16, 0)
    finally:
        os.close(fd)


def _rootfs(data: bytes) -> None:
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        os.ftruncate(fd, max(len(data), 8 << 20))
        found = examine_rootfs(Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)
    assert (found.contents is None) == bool(found.defect)
    lint(found, None, None)


def _reference(data: bytes) -> None:
    parsed = parse_reference(data.decode("utf-8", "surrogateescape"))
    assert parse_reference(str(parsed)) == parsed


def _documents(data: bytes) -> None:
    for kind in (oci.Index, oci.Manifest, oci.ImageConfig):
        try:
            document = kind.read(data, "fuzz")
            if isinstance(document, oci.ImageConfig):
                document.created_by()
        except HyperbuildError as error:
            str(error).encode()


def _bundle(data: bytes) -> None:
    bundle = Bundle.from_json(data, "fuzz")
    assert Bundle.from_json(bundle.to_json(), "fuzz").to_json() == bundle.to_json()


def _channel(data: bytes) -> None:
    for decoder in (ControlDecoder(), StreamDecoder()):
        try:
            for at in range(0, len(data), 7):
                for _ in decoder.feed(data[at : at + 7]):
                    pass
        except HyperbuildError as error:
            str(error).encode()


_ENTRIES = (
    d("etc/"), f("etc/a", "text", xattrs={"user.x": b"1"}), s("l", "etc"), h("b", "etc/a"),
    E("n" * 90 + "/" + "m" * 99, data=b"x" * 600), E("dev/sda", tarfile.BLKTYPE, device=(8, 1)),
    f("etc/.wh.b"), f("etc/.wh..wh..opq"), f("l/through", "y", mtime=-1.5),
)  # fmt: skip
_PLAIN = tuple(E(e.name, e.kind, e.data, e.link, device=e.device) for e in _ENTRIES)
TARS = (
    layer(*_ENTRIES),
    layer(*_PLAIN, dialect=tarfile.GNU_FORMAT),
    layer(*_PLAIN[:4], dialect=tarfile.USTAR_FORMAT),
)
_HEX = "sha256:" + "0" * 64
_DESCRIPTOR = {"mediaType": oci.OCI_MANIFEST, "digest": _HEX, "size": 7}
_OS = {"os": "linux", "architecture": "amd64"}
_DOCUMENTS = (
    {"schemaVersion": 2, "manifests": [_DESCRIPTOR | {"platform": _OS}]},
    {"schemaVersion": 2, "config": _DESCRIPTOR, "layers": [_DESCRIPTOR]},
    _OS | {"rootfs": {"diff_ids": [_HEX]}, "config": {"Cmd": ["a"]}, "history": [{}]},
)

TARGETS = {
    "tar": Target(_tar, TARS, is_tar=True),
    "stream": Target(
        _layer,
        (TARS[0], gzip.compress(TARS[0]), zstandard.compress(TARS[0])),
    ),
    "erofs": Target(lambda data: _convert(data, "erofs"), TARS, is_tar=True),
    "ext4": Target(lambda data: _convert(data, "ext4"), TARS, is_tar=True),
    "rootfs": Target(_rootfs, tuple(_convert(TARS[0], name) for name in FORMATS)),
    "reference": Target(
        _reference, (b"nginx", b"docker://h:5/a/b:t@" + _HEX.encode(), b"oci:d:t", b"oci-archive:f")
    ),
    "documents": Target(_documents, tuple(json.dumps(x).encode() for x in _DOCUMENTS)),
    "bundle": Target(_bundle, (b'{"schemaVersion": 2, "image": {"reference": "\\ud800"}}',)),
    "channel": Target(
        _channel,
        (
            b"\0\0\0\x03\0\0\0\x04\0\0\0\x07",
            b"\0\0\0\0\0\0\0\x01\0\0\0\x02hi",
            b"\0\0\0\x01\0\0\0\x04\0\0\0\x01",
        ),
    ),
}
