"""The documents of an OCI image as frozen data, their raw bytes kept verbatim.

Sources: OCI image-spec v1.1 (descriptor.md, image-index.md, manifest.md, config.md) and Docker's
image manifest version 2, schema 2, whose JSON has the same shape.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NewType

from hyperbuild.converter.digests import check_digest
from hyperbuild.converter.errors import ContentError, InputError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
#: The config of an artifact that has none: its content is {}.
EMPTY = "application/vnd.oci.empty.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

#: How the types of Docker's manifest version 2, schema 1 begin, which is not read.
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

#: Layer media type -> how the tar stream inside is compressed.
LAYER_COMPRESSION: Mapping[str, str] = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "none",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}

#: Largest index, manifest or config that is read, in bytes (the size registries themselves accept).
DOCUMENT_LIMIT = 4 << 20

#: A digest of an uncompressed layer (config.md, "Layer DiffID").
DiffID = NewType("DiffID", str)


def hasher(digest: str) -> hashlib._Hash:
    """Return a fresh hash object of digest's algorithm."""
    return hashlib.new(digest.partition(":")[0], usedforsecurity=True)


def digest_of(content: bytes) -> str:
    """Return the canonical (sha256) digest of content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def matches(digest: str, content: bytes) -> bool:
    """Tell whether digest is that of content."""
    seen = hasher(digest)
    seen.update(content)
    return seen.hexdigest() == digest.partition(":")[2]


_NONE: Mapping[str, str] = MappingProxyType({})


class Platform(Record):
    """What an image runs on: ``os/architecture[/variant]`` in the words of GOOS and GOARCH."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``os/arch[/variant]``; InputError otherwise."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.+-]+", p) for p in parts):
            raise InputError(
                f"platform {printable(text)!r} is not os/arch[/variant]; say linux/amd64, say"
            )
        return cls(*parts)


class Descriptor(Record):
    """A pointer to content: media type, digest and size in bytes (descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = _NONE
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    @classmethod
    def read(cls, data: object, where: str) -> Descriptor:
        """Check and take over one descriptor object of a JSON document."""
        fields = _object(data, where)
        size = fields.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise ContentError(f"{where}: a descriptor without a valid size")
        platform = fields.get("platform")
        return cls(
            media_type=_text(fields, "mediaType", where),
            digest=check_digest(fields.get("digest"), where),
            size=size,
            annotations=_texts(fields.get("annotations"), where),
            platform=None if platform is None else _platform(_object(platform, where), where),
            urls=tuple(str(url) for url in _array(fields.get("urls"), where)),
            artifact_type=str(fields.get("artifactType") or ""),
        )

    def document(self) -> dict[str, Any]:
        """Return the JSON object that ``read`` takes back."""
        fields: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.platform:
            fields["platform"] = {
                "os": self.platform.os,
                "architecture": self.platform.architecture,
                **({"variant": self.platform.variant} if self.platform.variant else {}),
            }
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.artifact_type:
            fields["artifactType"] = self.artifact_type
        return fields


class Index(Record):
    """An image index or Docker manifest list (image-index.md)."""

    raw: bytes
    manifests: tuple[Descriptor, ...]

    @classmethod
    def read(cls, raw: bytes, where: str) -> Index:
        """Parse raw; ContentError if it is no index."""
        fields = _document(raw, where)
        if "manifests" not in fields:
            raise ContentError(f"{where}: an image index without manifests")
        # One text must not be an index to one reader and a manifest to another (CVE-2021-41190).
        if "config" in fields or "layers" in fields:
            raise ContentError(f"{where}: an image index that has layers too; build it again")
        entries = _array(fields["manifests"], where)
        return cls(raw, tuple(Descriptor.read(entry, where) for entry in entries))


class Manifest(Record):
    """An image manifest (manifest.md); layers go from the base up.

    ``artifact_type`` says that it is something else than an image, and what; ``subject`` which
    manifest it is attached to.
    """

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def digest(self) -> str:
        """The manifest's own digest."""
        return digest_of(self.raw)

    @classmethod
    def read(cls, raw: bytes, where: str) -> Manifest:
        """Parse raw; ContentError if it is no image manifest."""
        fields = _document(raw, where)
        if fields.get("schemaVersion") != 2 or "config" not in fields or "layers" not in fields:
            raise ContentError(f"{where}: not an image manifest of schema version 2")
        if "manifests" in fields:
            raise ContentError(f"{where}: a manifest that is an index too; build it again")
        subject = fields.get("subject")
        return cls(
            raw=raw,
            media_type=str(fields.get("mediaType", OCI_MANIFEST)),
            config=Descriptor.read(fields["config"], where),
            layers=tuple(
                Descriptor.read(layer, where) for layer in _array(fields["layers"], where)
            ),
            annotations=_texts(fields.get("annotations"), where),
            artifact_type=str(fields.get("artifactType") or ""),
            subject=None if subject is None else Descriptor.read(subject, where),
        )


class ImageConfig(Record):
    """An image configuration (config.md); ``config`` is its execution part, verbatim."""

    raw: bytes
    platform: Platform
    diff_ids: tuple[DiffID, ...]
    config: Mapping[str, Any]
    created: str

    @property
    def digest(self) -> str:
        """The config's own digest, which is the image's ImageID."""
        return digest_of(self.raw)

    def created_by(self) -> tuple[str, ...]:
        """Return what made each layer, from the base up; "" where the history does not tell.

        The history (optional, as its fields are) is matched only if it is of as many layers.
        """
        history = json.loads(self.raw).get("history")
        steps = history if isinstance(history, list) else []
        steps = [step if isinstance(step, dict) else {} for step in steps]
        made = [str(step.get("created_by") or "") for step in steps if not step.get("empty_layer")]
        return tuple(made) if len(made) == len(self.diff_ids) else ("",) * len(self.diff_ids)

    @classmethod
    def read(cls, raw: bytes, where: str) -> ImageConfig:
        """Parse raw; ContentError if it is no image config."""
        fields = _document(raw, where)
        rootfs = _object(fields.get("rootfs"), f"{where}: rootfs")
        diff_ids = _array(rootfs.get("diff_ids"), where)
        return cls(
            raw=raw,
            platform=_platform(fields, where),
            diff_ids=tuple(DiffID(check_digest(text, where)) for text in diff_ids),
            config=_object(fields.get("config") or {}, f"{where}: config"),
            created=str(fields.get("created") or ""),
        )


def artifact_manifest(
    artifact_type: str,
    config: Descriptor,
    layers: Iterable[Descriptor],
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] = _NONE,
) -> bytes:
    """Return the manifest of an artifact (manifest.md, "Guidelines for Artifact Usage")."""
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }
    if annotations:
        fields["annotations"] = dict(annotations)
    if subject:
        fields["subject"] = subject.document()
    return json.dumps(fields, sort_keys=True).encode()


def _document(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        data = json.loads(raw, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{where}: not valid JSON") from error
    return _object(data, where)


def _number(text: str) -> float:
    """Refuse what Python takes for a number and JSON has no way to write again."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _object(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ContentError(f"{where}: an object was expected")
    return data


def _array(data: object, where: str) -> list[Any]:
    if data is None:
        return []
    if not isinstance(data, list):
        raise ContentError(f"{where}: an array was expected")
    return data


def _text(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise ContentError(f"{where}: {key} is missing")
    return value


def _texts(data: object, where: str) -> Mapping[str, str]:
    return {str(key): str(value) for key, value in _object(data or {}, where).items()}


def _platform(fields: Mapping[str, Any], where: str) -> Platform:
    return Platform(
        _text(fields, "os", where),
        _text(fields, "architecture", where),
        str(fields.get("variant") or ""),
    )
