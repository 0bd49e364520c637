"""From what a source offers to one image: indexes walked, platform chosen, documents checked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hyperbuild.converter import oci, platforms
from hyperbuild.converter.errors import (
    ContentError,
    NoImageError,
    NotFoundError,
    VerificationError,
    printable,
)
from hyperbuild.converter.limits import too_long

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hyperbuild.converter.reference import Reference

    #: Reads the document of a descriptor; what a source returns is not verified yet.
    Read = Callable[[oci.Descriptor], bytes]


_DEPTH_LIMIT = 4
_ENTRIES_LIMIT = 1000
_CONFIG_TYPES = frozenset({oci.OCI_CONFIG, oci.DOCKER_CONFIG})
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image for one platform, its documents verified; ``reference`` is what was asked for.

    ``files`` has, by digest, the layers that errors shall call by the files they are.
    """

    reference: Reference
    manifest: oci.Manifest
    config: oci.ImageConfig
    platform: oci.Platform
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[tuple[oci.Descriptor, oci.DiffID]]:
        """The layers with what they unpack to, the base first."""
        return list(zip(self.manifest.layers, self.config.diff_ids, strict=True))

    def where(self, layer: oci.Descriptor) -> str:
        """Return what errors call one of its layers."""
        return self.files.get(layer.digest) or f"layer {layer.digest} of {self.reference}"


def resolve(
    reference: Reference,
    offered: Sequence[oci.Descriptor],
    wanted: oci.Platform,
    read: Read,
    limit: int = oci.DOCUMENT_LIMIT,
) -> SourceImage:
    """Return the image among offered (manifests or indexes) that suits wanted best.

    NotFoundError lists the platforms there are; VerificationError, ContentError if a document does
    not have its digest and size or breaks its format, LimitError if it has more than limit bytes.
    """

    def document(descriptor: oci.Descriptor) -> bytes:
        if descriptor.size > limit:
            raise too_long(f"{reference}: document {descriptor.digest}", limit)
        return verified(descriptor, read(descriptor), str(reference))

    seen: list[oci.Platform] = []
    unnamed, best, best_rank = [], None, None
    for leaf in _leaves(reference, offered, document):
        if leaf.platform is None:
            unnamed.append(leaf)
            continue
        seen.append(leaf.platform)
        rank = platforms.rank(wanted, leaf.platform)
        if rank is not None and (best_rank is None or rank < best_rank):
            best, best_rank = leaf, rank
    if best is not None:
        return _image(reference, best, document)
    for leaf in unnamed:
        image = _image(reference, leaf, document)
        seen.append(image.platform)
        if _runs(wanted, image.platform):
            return image
    if not seen:
        raise NotFoundError(f"{reference} holds no container image; check the name")
    raise NotFoundError(
        f"{reference} does not exist for {wanted}; it exists for {platforms.listing(seen)} "
        "(--platform)"
    )


def verified(descriptor: oci.Descriptor, content: bytes, where: str) -> bytes:
    """Return content; VerificationError if it hasn't the digest and size of descriptor."""
    if len(content) != descriptor.size:
        raise VerificationError(
            f"{where}: {descriptor.digest} has {len(content)} bytes, {descriptor.size} are "
            "declared; push or copy the image again"
        )
    if not oci.matches(descriptor.digest, content):
        raise VerificationError(
            f"{where}: the bytes of {descriptor.digest} have another digest; "
            "push or copy the image again"
        )
    return content


def is_attestation(descriptor: oci.Descriptor) -> bool:
    """Tell whether a manifest only says something about another one (provenance, SBOM)."""
    return descriptor.platform == platforms.UNKNOWN or _ATTESTATION in descriptor.annotations


def _runs(wanted: oci.Platform, offered: oci.Platform) -> bool:
    # A config often leaves the variant out where the image was built for an early one.
    if not offered.variant and offered.architecture == wanted.architecture:
        return offered.os == wanted.os
    return platforms.rank(wanted, offered) is not None


def _leaves(
    reference: Reference, offered: Sequence[oci.Descriptor], read: Read
) -> Iterator[oci.Descriptor]:
    """Yield the manifests among offered and, in their place, those that indexes lead to."""
    pending = deque((descriptor, 0) for descriptor in offered)
    entries = len(pending)
    while pending:
        descriptor, depth = pending.popleft()
        if is_attestation(descriptor):
            continue
        if descriptor.media_type in oci.INDEX_TYPES:
            where = f"{reference}: index {descriptor.digest}"
            manifests = oci.Index.read(read(descriptor), where).manifests
            entries += len(manifests)
            if depth == _DEPTH_LIMIT or entries > _ENTRIES_LIMIT:
                raise ContentError(
                    f"{reference}: indexes nested deeper than {_DEPTH_LIMIT} or of more than "
                    f"{_ENTRIES_LIMIT} entries; name one image in it by digest"
                )
            pending.extendleft((entry, depth + 1) for entry in reversed(manifests))
        elif descriptor.media_type in oci.MANIFEST_TYPES:
            yield descriptor
        elif descriptor.media_type.startswith(oci.SCHEMA_1):
            raise ContentError(
                f"{reference} is of Docker's schema 1, which has no verifiable layers; "
                "pull and push it with a current docker or skopeo"
            )


def _image(reference: Reference, descriptor: oci.Descriptor, read: Read) -> SourceImage:
    where = str(reference)
    manifest = oci.Manifest.read(read(descriptor), f"{where}: manifest {descriptor.digest}")
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise NoImageError(where, manifest.config.media_type)
    config = oci.ImageConfig.read(
        read(manifest.config), f"{where}: config {manifest.config.digest}"
    )
    for layer in manifest.layers:
        if layer.media_type not in oci.LAYER_COMPRESSION:
            raise ContentError(
                f"{where}: layer {layer.digest} is of type {printable(layer.media_type)!r}, which "
                "cannot be read; decrypt or push it as a tar layer (gzip, zstd or plain)"
            )
    if len(manifest.layers) != len(config.diff_ids):
        raise ContentError(
            f"{where}: {len(manifest.layers)} layers but {len(config.diff_ids)} diff_ids in its "
            "config; build the image again"
        )
    return SourceImage(reference, manifest, config, descriptor.platform or config.platform)
