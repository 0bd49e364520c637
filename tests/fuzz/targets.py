"""What is fuzzed: each target takes any bytes and may raise HyperbuildError alone."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import zstandard

from hyperbuild.builder.cataloguing import Catalogue, read_os_release
from hyperbuild.builder.installed_apk import read_apk
from hyperbuild.builder.installed_dpkg import read_dpkg
from hyperbuild.builder.installed_elf import read_program
from hyperbuild.builder.installed_java import read_archive
from hyperbuild.builder.installed_languages import read_composer, read_gem, read_npm, read_python
from hyperbuild.builder.installed_rpm import read_ndb, read_sqlite
from hyperbuild.builder.lint import lint
from hyperbuild.builder.sbom import write_sbom
from hyperbuild.converter import files, oci, tar
from hyperbuild.converter.convert import FORMATS
from hyperbuild.converter.errors import ContentError, HyperbuildError, VerificationError
from hyperbuild.converter.examine import examine_rootfs
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.proof import prove
from hyperbuild.converter.reference import Reference, parse_reference
from hyperbuild.converter.resolve import resolve
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.stream import LayerStream
from hyperbuild.converter.tree import Inode
from hyperbuild.converter.verify import open_image, verify_tree
from hyperbuild.launcher.bundle import Bundle
from hyperbuild.launcher.channel import Command, ControlDecoder, InputWindow, Window
from hyperbuild.launcher.lines import Lines
from tests.fuzz import hostile
from tests.support.dice import Bytes, image, layer_tar, one_of
from tests.support.layers import LAYER, E, d, f, h, layer, s
from tests.support.memory import (
    AMD64,
    LIMITS,
    MemorySource,
    check_same,
    converted,
    image_of,
    seen,
)
from tests.support.model import Model, RefusedError

BLOCK = 512


@dataclass(frozen=True)
class Target:
    """One entry point, and what its inputs begin from; tars have their checksums mended."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    is_tar: bool = False


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


def _convert(tar: bytes, rootfs_format: str) -> None:
    with converted([tar], rootfs_format) as rootfs:
        try:
            prove(
                image_of([tar]), MemorySource([tar]), rootfs.fd,
                epoch=0, limits=LIMITS, progress=QUIET,
            )  # fmt: skip
        except HyperbuildError as error:
            raise AssertionError(f"converted, but wrong: {error}") from error


def _hostile(data: bytes) -> None:
    choices = Bytes(data)
    rootfs_format = one_of(choices, list(FORMATS))
    _convert(hostile.archive(choices), rootfs_format)


def _merge(data: bytes) -> None:
    choices = Bytes(data)
    layers = image(choices)
    tars = [layer_tar(choices, entries) for entries in layers]
    model = Model()
    try:
        for entries in layers:
            model.apply(entries)
    except RefusedError:
        model = None  # type: ignore[assignment]
    try:
        with converted(tars, one_of(choices, list(FORMATS))) as rootfs:
            found = seen(rootfs.fd)
    except ContentError:
        assert model is None
    else:
        assert model is not None
        check_same(found, model.tree)


@cache
def _readable(rootfs_format: str) -> tuple[bytes, list[int], Inode]:
    """Return a good image, where its metadata are, and its tree."""
    with converted([layer(*_ENTRIES)], rootfs_format) as rootfs:
        content = os.pread(rootfs.fd, rootfs.size, 0)
    words = range(0, len(content), 16)
    places = [at for at in words if len(set(content[at : at + 16])) > 1]
    return content, places, rootfs.tree.root


def _reader(data: bytes, rootfs_format: str) -> None:
    """Read a spoilt image: VerificationError is all that may come of it."""
    good, places, root = _readable(rootfs_format)
    spoilt = hostile.patched(Bytes(data), good, places)
    fd = os.memfd_create("spoilt")
    try:
        files.write_all(fd, spoilt)
        with suppress(VerificationError):
            verify_tree(fd, root)
        with suppress(VerificationError):
            _look_at_all(fd)
    finally:
        os.close(fd)


def _look_at_all(fd: int) -> None:
    """Read what the image holds, up to as much as a good one has a hundred times."""
    reader = open_image(fd)
    try:
        for _, info in islice(reader.walk(), 1000):
            for piece in reader.content(info):
                bytes(piece[:1])
    finally:
        reader.close()


def _archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "a.tar"
        path.write_bytes(data)
        for transport in ("oci-archive", "docker-archive"):
            with suppress(HyperbuildError):
                _resolve(parse_reference(f"{transport}:{path}"), Store(Path(work) / "store"))


def _resolve(reference: Reference, store: Store) -> None:
    with open_source(reference, store=store, settings=RegistrySettings()) as source:
        found = source.resolve(AMD64, QUIET)
        for descriptor in found.manifest.layers:
            source.open_layer(descriptor, QUIET).close()


def _image(data: bytes) -> None:
    offered, known = hostile.documents(Bytes(data))
    descriptors = [oci.Descriptor.read(entry, "fuzz") for entry in offered]
    resolve(
        parse_reference("oci:fuzz"),
        descriptors,
        AMD64,
        lambda wanted: known.get(wanted.digest, b""),
    )


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
    """Take the same bytes for each port, of a guest that was asked for two processes."""
    lines = Lines()
    room = InputWindow()
    for _ in range(2):
        lines.exec(Command((b"true",)))
    control = ControlDecoder()
    seen: dict[int, int] = {}
    for at in range(0, len(data), 7):
        with suppress(HyperbuildError):
            for message in control.feed(data[at : at + 7]):
                lines.check(message)
                if isinstance(message, Window):
                    room.widen(message.size)
                    room.spend(room.left)
        with suppress(HyperbuildError):
            for frame in lines.frames(data[at : at + 7]):
                size = len(frame.data)
                seen[frame.sequence] = seen.get(frame.sequence, 0) + size
                lines.release(frame.sequence, size)
    assert set(seen) <= {0, 1, 2, 3, 4, 5, 6}


def _packages(data: bytes) -> None:
    """Read data as each kind of database in turn: what one refuses another may take."""
    rest = [
        read_apk(data), read_dpkg(data), read_ndb(data), read_sqlite(data), read_python(data, ""),
        read_npm(data, ""), read_gem(data, "a-1.gemspec"), read_composer(data, ""),
        (package for _, package in read_archive(io.BytesIO(data), "a.jar", lambda _: None)),
        read_program(io.BytesIO(data)),  # type: ignore[arg-type]
    ]  # fmt: skip
    for packages in rest:
        with suppress(HyperbuildError):
            found = tuple((package, ("a",)) for package in islice(packages, 1000))
            listed = Catalogue(read_os_release(data), found, (), len(data))
            json.loads(
                write_sbom(Bundle.from_json(_BUNDLE_JSON, ""), listed, version="0", epoch=None)
            )


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

_PROCESS = {
    "args": ["/bin/a", "b"], "entrypoint": ["/bin/a"], "env": ["A=b"], "cwd": "/", "home": "/root",
    "user": {"uid": 1, "gid": 2, "groups": [3]}, "stopSignal": {"name": "SIGTERM", "number": 15},
    "healthcheck": {"Test": ["NONE"]}, "exposedPorts": ["80/tcp"], "volumes": ["/v"],
    "labels": {"a": "b"}, "findings": [{"name": "user", "text": "none", "status": 125}],
}  # fmt: skip
_BUNDLE = {
    "schemaVersion": 2,
    "image": {
        "reference": "a:b", "manifestDigest": _HEX, "configDigest": _HEX, "platform": "linux/amd64",
    },
    "config": {"Cmd": ["a"]},
    "process": _PROCESS,
    "rootfs": {"format": "erofs", "size": 1, "digest": _HEX, "diffIds": [_HEX]},
    "kernel": {"version": "6", "digest": _HEX, "configDigest": _HEX, "options": ["CONFIG_SMP"]},
    "initramfs": {"digest": _HEX},
    "commandLine": ["quiet"],
}  # fmt: skip

_BUNDLE_JSON = json.dumps(_BUNDLE).encode()
_STANZAS = b"Package: a\nVersion: 1\nP:a\nV:1\nName: a\nLicense: MIT OR (ISC)\n\nID=x\n"
_NPM = b'{"name": "@a/b", "version": "1", "packages": [{"name": "v/n", "license": ["x"]}]}'

#: Seeds for the targets that take their input as choices.
_CHOICES = tuple(random.Random(seed).randbytes(300) for seed in range(8))


def _saved() -> bytes:
    buffer = io.BytesIO()
    config = _OS | {"rootfs": {"diff_ids": [oci.digest_of(TARS[0])]}}
    members = {
        "manifest.json": [{"Config": "c.json", "RepoTags": ["x:y"], "Layers": ["l/layer.tar"]}],
        "c.json": config,
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": _DOCUMENTS[0],
    }
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, document in members.items():
            raw = json.dumps(document).encode()
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
        info = tarfile.TarInfo("l/layer.tar")
        info.type, info.linkname = tarfile.SYMTYPE, "../real.tar"
        archive.addfile(info)
        info = tarfile.TarInfo("real.tar")
        info.size = len(TARS[0])
        archive.addfile(info, io.BytesIO(TARS[0]))
    return buffer.getvalue()


_ARCHIVES = (_saved(), gzip.compress(_saved()), TARS[0])

TARGETS = {
    "tar": Target(_tar, TARS, is_tar=True),
    "stream": Target(
        _layer,
        (TARS[0], gzip.compress(TARS[0]), zstandard.compress(TARS[0])),
    ),
    "erofs": Target(lambda data: _convert(data, "erofs"), TARS, is_tar=True),
    "ext4": Target(lambda data: _convert(data, "ext4"), TARS, is_tar=True),
    "hostile": Target(_hostile, _CHOICES),
    "merge": Target(_merge, _CHOICES),
    "read-erofs": Target(lambda data: _reader(data, "erofs"), _CHOICES),
    "read-ext4": Target(lambda data: _reader(data, "ext4"), _CHOICES),
    "archive": Target(_archive, _ARCHIVES, is_tar=True),
    "image": Target(_image, _CHOICES),
    "rootfs": Target(_rootfs, tuple(_readable(name)[0][: 1 << 16] for name in FORMATS)),
    "reference": Target(
        _reference, (b"nginx", b"docker://h:5/a/b:t@" + _HEX.encode(), b"oci:d:t", b"oci-archive:f")
    ),
    "documents": Target(_documents, tuple(json.dumps(x).encode() for x in _DOCUMENTS)),
    "bundle": Target(
        _bundle,
        (json.dumps(_BUNDLE).encode(), b'{"schemaVersion": 2, "image": {"reference": "\\ud800"}}'),
    ),
    "packages": Target(
        _packages, (_STANZAS, _NPM, b"# stub: a 1 ruby lib\n", b"RpmP" + bytes(12), b"\x7fELF\2\1")
    ),
    "channel": Target(
        _channel,
        (
            b"\0\0\0\x03\0\0\0\x04\0\0\0\x07",
            b"\0\0\0\0\0\0\0\x01\0\0\0\x02hi",
            b"\0\0\0\x01\0\0\0\x04\0\0\0\x04",
            b"\0\0\0\x05\0\0\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\x08\0\0\0\x01\0\0\0\x02",
            b"\0\0\0\x07\0\0\0\x0a\0\0\0\x02\0\0\0\x7fno",
            b"\0\0\0\x08\0\0\0\x0c\0\0\0\0\0\0\0\x01\0\0\x80\0",
            b"\0\0\0\x09\0\0\0\x08\0\0\0\0\0\0\0\x01",
            b"\0\0\0\0\0\0\0\x03\0\0\0\x02hi\0\0\0\0\0\0\0\x03\0\0\0\0",
        ),
    ),
}
