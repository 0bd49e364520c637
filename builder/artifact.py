"""A bundle as it travels: an OCI artifact whose root file system is cut and compressed.

In the store a bundle's root file system is one blob, so that it can be mapped. In a registry it is
a row of blobs, each a zstd frame of CHUNK bytes of it: they are made, sent, fetched and unpacked
several at once, a transfer that was cut goes on with the next of them, and the whole of them, put
together, is a zstd file again. Kernel and initramfs are the blobs that they are in the store.

    config     bundle.json                          application/vnd.hyperbuild.bundle.config.v1+json
    layers     rootfs.erofs.zst.000 ...             application/vnd.hyperbuild.rootfs.v1.erofs+zstd
               vmlinux, initramfs.cpio              ...kernel.v1.elf, ...initramfs.v1.cpio
    subject    the manifest of the image it was made from

An artifact whose rootfs is one plain blob (a bundle copied from a store by oras or skopeo) is read,
too. Source: OCI image-spec v1.1, manifest.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.stored import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    INITRAMFS_TYPE,
    KERNEL_TYPE,
    ROOTFS_TYPES,
)
from hyperbuild.converter import oci
from hyperbuild.converter.digests import is_digest
from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.bundle import Bundle
from hyperbuild.launcher.located import BUNDLE_NAME, INITRAMFS_NAME, KERNEL_NAME, rootfs_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Bytes of the root file system in a blob, and the most that a blob of them may have.
CHUNK = 8 << 20
_PACKED_LIMIT = CHUNK + (1 << 20)
#: The most chunks that a root file system has (2 TiB of them).
_CHUNKS = 1 << 18

TITLE = "org.opencontainers.image.title"
_TITLES = {KERNEL_TYPE: KERNEL_NAME, INITRAMFS_TYPE: INITRAMFS_NAME}
CREATED = "org.opencontainers.image.created"
#: Annotations of a chunk: where in the root file system it begins, its size and digest there.
OFFSET = "sh.hyper.chunk.offset"
SIZE = "sh.hyper.chunk.size"
DIGEST = "sh.hyper.chunk.digest"
#: Annotation of the manifest: the digest of bundle.json, which names everything in the bundle.
DOCUMENT = "sh.hyper.bundle.document"
#: Annotations of a fleet's bundle: the digest of all that it was made of; HELD if it was tested.
FLEET_KEY = "sh.hyper.fleet.key"
FLEET_SMOKE = "sh.hyper.fleet.smoke"
HELD = "held"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a root file system: the blob, and the bytes that it is there, verified by both."""

    blob: oci.Descriptor
    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A bundle's manifest, read: its document and where the bytes of its files are.

    The rootfs has chunks, or is one ``plain`` blob. ``digest`` is the manifest's; ``subject`` the
    image it was made from.
    """

    digest: str
    subject: oci.Descriptor | None
    config: oci.Descriptor
    chunks: tuple[Chunk, ...]
    plain: oci.Descriptor | None
    files: tuple[oci.Descriptor, ...]


def chunk_type(rootfs_format: str) -> str:
    """Return the media type of a chunk of a root file system."""
    return f"{ROOTFS_TYPES[rootfs_format]}+zstd"


def spans(size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and size of each chunk of a root file system of size bytes."""
    for offset in range(0, size, CHUNK):
        yield offset, min(CHUNK, size - offset)


def chunk_descriptor(rootfs_format: str, chunk: Chunk) -> oci.Descriptor:
    """Return the layer of a chunk, whose place its annotations say."""
    number = chunk.offset // CHUNK
    return chunk.blob.replace(
        media_type=chunk_type(rootfs_format),
        annotations={
            TITLE: f"{rootfs_name(rootfs_format)}.zst.{number:03}",
            OFFSET: str(chunk.offset),
            SIZE: str(chunk.size),
            DIGEST: chunk.digest,
        },
    )


def named_files(bundle: Bundle) -> dict[str, str]:
    """Return what a bundle has beside its root file system: media type -> digest."""
    named = {
        KERNEL_TYPE: bundle.kernel.digest if bundle.kernel else None,
        INITRAMFS_TYPE: bundle.initramfs,
    }
    return {kind: digest for kind, digest in named.items() if digest}


def file_descriptor(media_type: str, digest: str, size: int) -> oci.Descriptor:
    """Return the layer of a kernel or an initramfs."""
    return oci.Descriptor(media_type, digest, size, {TITLE: _TITLES[media_type]})


def write_artifact(
    document: bytes,
    layers: list[oci.Descriptor],
    subject: oci.Descriptor | None,
    created: str,
    marks: Mapping[str, str] | None = None,
) -> bytes:
    """Return the manifest of a bundle with that bundle.json; created is as in RFC 3339.

    marks are further annotations, by which it is found again.
    """
    config = oci.Descriptor(
        CONFIG_TYPE, oci.digest_of(document), len(document), {TITLE: BUNDLE_NAME}
    )
    annotations = {CREATED: created, DOCUMENT: config.digest, **(marks or {})}
    return oci.artifact_manifest(ARTIFACT_TYPE, config, layers, subject, annotations)


def newest_first(attached: Iterable[oci.Descriptor]) -> list[oci.Descriptor]:
    """Return what is attached to an image by when it was made; of one second, the last listed."""
    latest = reversed(list(attached))
    return sorted(latest, key=lambda found: found.annotations.get(CREATED, ""), reverse=True)


def marked(attached: Iterable[oci.Descriptor], marks: Mapping[str, str]) -> list[oci.Descriptor]:
    """Return those that have all of marks among their annotations, newest first."""
    return [it for it in newest_first(attached) if marks.items() <= it.annotations.items()]


def is_artifact(raw: bytes) -> bool:
    """Tell whether a verified manifest is a bundle's."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("artifactType") == ARTIFACT_TYPE


def read_artifact(raw: bytes, where: str) -> Artifact:
    """Read a bundle's manifest; ContentError if it is none."""
    manifest = oci.Manifest.read(raw, where)
    if manifest.artifact_type != ARTIFACT_TYPE or manifest.config.media_type != CONFIG_TYPE:
        raise ContentError(
            f"{where} is no bundle but of type "
            f"{manifest.artifact_type or manifest.config.media_type!r}; name a bundle or an image"
        )
    plain_types = set(ROOTFS_TYPES.values())
    chunk_types = {chunk_type(name) for name in ROOTFS_TYPES}
    layers = manifest.layers
    plain = [layer for layer in layers if layer.media_type in plain_types]
    chunks = [_read_chunk(layer, where) for layer in layers if layer.media_type in chunk_types]
    files = [layer for layer in layers if layer.media_type in (KERNEL_TYPE, INITRAMFS_TYPE)]
    if len(plain) + bool(chunks) != 1 or len(plain) + len(chunks) + len(files) != len(layers):
        raise ContentError(f"{where}: a bundle without one root file system; push it again")
    return Artifact(
        digest=manifest.digest,
        subject=manifest.subject,
        config=manifest.config,
        chunks=tuple(chunks),
        plain=plain[0] if plain else None,
        files=tuple(files),
    )


def _read_chunk(layer: oci.Descriptor, where: str) -> Chunk:
    numbers = [layer.annotations.get(name, "") for name in (OFFSET, SIZE)]
    digest = layer.annotations.get(DIGEST, "")
    readable = all(text.isdecimal() and text.isascii() and len(text) < 16 for text in numbers)
    if not readable or not is_digest(digest) or layer.size > _PACKED_LIMIT:
        raise ContentError(f"{where}: a chunk whose place nobody knows; push the bundle again")
    return Chunk(layer, int(numbers[0]), int(numbers[1]), digest)


def check_artifact(artifact: Artifact, bundle: Bundle, where: str) -> None:
    """Raise ContentError unless artifact has the files that its bundle.json names, and no more."""
    here = {layer.media_type: layer.digest for layer in artifact.files}
    repeats = len(here) != len(artifact.files)
    if here != named_files(bundle) or repeats or not _makes(artifact, bundle):
        raise ContentError(
            f"{where}: the files in this bundle are not those that its bundle.json names; "
            "push it again"
        )


def _makes(artifact: Artifact, bundle: Bundle) -> bool:
    """Tell whether the blobs of an artifact's root file system are all of bundle's."""
    rootfs, plain = bundle.rootfs, artifact.plain
    if plain:
        return (plain.digest, plain.size) == (rootfs.digest, rootfs.size)
    places = [(chunk.offset, chunk.size) for chunk in artifact.chunks]
    return rootfs.size <= _CHUNKS * CHUNK and places == list(spans(rootfs.size))
