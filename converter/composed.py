"""An image put together here: layers of local files, on a base image or on none.

What is known of it depends on the files' content alone: equal files make an equal manifest.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import files, oci
from hyperbuild.converter.folder import Folder, pack
from hyperbuild.converter.layout import Range
from hyperbuild.converter.limits import Budget
from hyperbuild.converter.resolve import SourceImage
from hyperbuild.converter.stream import measure

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.source import ImageSource
    from hyperbuild.converter.store import Store

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True, slots=True)
class OwnLayer:
    """A tar file, compressed or not, or a folder; what the history says of it, what errors do."""

    content: Path | Folder
    made_by: str
    where: str


@dataclass(frozen=True, slots=True)
class Composition:
    """What an image is put together of.

    ``layers`` lie on those of the base, the lowest first. ``config`` has fields of an image
    config's ``config`` object, which replace or join the base's. ``created`` is when the image was
    made; without it, it is the base's time, if that has one. No time in a folder is after
    ``latest``.
    """

    layers: tuple[OwnLayer, ...]
    config: Mapping[str, Any]
    created: datetime | None = None
    latest: datetime | None = None


class ComposedSource:
    """The ``ImageSource`` of a composition, called reference, on the image of base (None: none).

    Folders are packed into nameless files in the store. LimitError if a layer unpacks to more than
    limits allow.
    """

    def __init__(
        self,
        reference: Reference,
        composition: Composition,
        base: ImageSource | None,
        store: Store,
        limits: Limits,
    ) -> None:
        self.is_verified = base is None or base.is_verified
        self._reference = reference
        self._composition = composition
        self._base = base
        self._store = store
        self._budget = Budget(limits)
        self._files: dict[str, int] = {}
        self._stack = ExitStack()

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:
        """Return the image, its own layers read once. Errors: of the base, or of those files."""
        below = self._base.resolve(platform, progress) if self._base else None
        own = self._composition.layers
        above = [self._layer(layer) for layer in own]
        layers = [*(below.manifest.layers if below else ()), *(layer for layer, _ in above)]
        config = _config(below, platform, self._composition, [diff_id for _, diff_id in above])
        described = oci.Descriptor(oci.OCI_CONFIG, oci.digest_of(config), len(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": described.document(),
            "layers": [layer.document() for layer in layers],
        }
        raw = json.dumps(manifest, sort_keys=True).encode()
        where = str(self._reference)
        # As those of an image from a registry are: whoever looks at the bundle finds them there.
        self._store.put(config, oci.OCI_CONFIG)
        self._store.put(raw, oci.OCI_MANIFEST)
        return SourceImage(
            self._reference,
            oci.Manifest.read(raw, where),
            oci.ImageConfig.read(config, where),
            below.platform if below else platform,
            {layer.digest: it.where for (layer, _), it in zip(above, own, strict=True)},
        )

    def prefetch(self, layers: Iterable[oci.Descriptor], progress: Progress) -> None:
        """Start to bring the base's layers near."""
        if self._base:
            self._base.prefetch((it for it in layers if it.digest not in self._files), progress)

    def is_near(self, layer: oci.Descriptor) -> bool:
        """Tell whether a layer's bytes are here."""
        return layer.digest in self._files or self._base is None or self._base.is_near(layer)

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        """Open a layer of a local file, or of the base."""
        fd = self._files.get(layer.digest)
        if fd is None:
            assert self._base is not None  # noqa: S101 - whose layer it is
            return self._base.open_layer(layer, progress)
        return Range(fd, 0, layer.size, owned=False)

    def close(self) -> None:
        """Close the layers' files. The base is closed by whoever has opened it."""
        self._stack.close()

    def _layer(self, layer: OwnLayer) -> tuple[oci.Descriptor, oci.DiffID]:
        """Open a layer's file and describe it."""
        if isinstance(layer.content, Folder):
            room, latest = self._store.workspace(), self._composition.latest
            fd = pack(layer.content, room, latest, layer.where)
        else:
            fd = files.open_regular(layer.content)
        self._stack.callback(os.close, fd)
        size = os.fstat(fd).st_size
        found = measure(Range(fd, 0, size, owned=False), size, layer.where, self._budget)
        self._files[found.digest] = fd
        media_type = _LAYER + _SUFFIXES[found.compression]
        return oci.Descriptor(media_type, found.digest, size), found.diff_id


def _config(
    below: SourceImage | None,
    platform: oci.Platform,
    composition: Composition,
    above: list[oci.DiffID],
) -> bytes:
    """Return the image config: the base's with what composition adds."""
    document: dict[str, Any] = {"os": platform.os, "architecture": platform.architecture}
    document |= {"variant": platform.variant} if platform.variant else {}
    ids: list[str] = []
    if below:
        document = json.loads(below.config.raw)
        ids = list(below.config.diff_ids)
    # A history that is not of all layers is of none (ImageConfig.created_by).
    if document.get("history") or not ids:
        steps = document.get("history") or []
        own = [{"created_by": layer.made_by} for layer in composition.layers]
        document["history"] = [*steps, *own]
    document["rootfs"] = {"type": "layers", "diff_ids": [*ids, *above]}
    document["config"] = merged(document.get("config") or {}, composition.config)
    if composition.created:
        document["created"] = composition.created.isoformat().replace("+00:00", "Z")
    return json.dumps(document, sort_keys=True).encode()


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image config's ``config`` object that is base's, changed as by a Dockerfile.

    Variables, labels, ports and volumes join the base's, all else replaces it; another Entrypoint
    takes the base's Cmd away.
    """
    result = {**base, **own}
    if "Entrypoint" in own and "Cmd" not in own:
        result.pop("Cmd", None)
    for key in ("Labels", "ExposedPorts", "Volumes"):
        if key in own:
            result[key] = {**(base.get(key) or {}), **own[key]}
    if "Env" in own:
        variables = {
            text.partition("=")[0]: text for text in [*(base.get("Env") or ()), *own["Env"]]
        }
        result["Env"] = list(variables.values())
    return result
