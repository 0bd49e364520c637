"""The documents of an image in a registry: verified, and kept in the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.resolve import SourceImage, resolve, verified

if TYPE_CHECKING:
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.registry import Registry
    from hyperbuild.converter.store import Store


class Documents:
    """What reference leads to at its places; a document has at most limit bytes (LimitError)."""

    def __init__(
        self,
        reference: Reference,
        store: Store,
        places: Places,
        limit: int = oci.DOCUMENT_LIMIT,
    ) -> None:
        self._reference = reference
        self._store = store
        self._places = places
        self._limit = limit

    def resolve(
        self, root: oci.Descriptor, content: bytes, platform: oci.Platform, progress: Progress
    ) -> SourceImage:
        """Return the image for platform that the root document, with its content, leads to."""

        def read(descriptor: oci.Descriptor) -> bytes:
            return content if descriptor is root else self.read(descriptor, progress)

        image = resolve(self._reference, [root], platform, read, self._limit)
        self._store.put(image.manifest.raw, image.manifest.media_type)
        return image

    def root(self, progress: Progress) -> tuple[oci.Descriptor, bytes]:
        """Return what the reference names itself: an index or a manifest."""
        reference = self._reference
        if reference.digest:
            known = self._store.document(reference.digest)
            if known:
                return _describe(known, "", reference), known
        content, media_type = self._places.anywhere(
            lambda client: client.manifest(reference.digest or reference.tag, self._limit), progress
        )
        return _describe(content, media_type, reference), content

    def read(self, descriptor: oci.Descriptor, progress: Progress) -> bytes:
        """Return the document of descriptor, verified; it is in the store from now on."""
        content = self._store.read(descriptor)
        if content is not None:
            return content

        def fetch(client: Registry) -> bytes:
            if descriptor.media_type in oci.INDEX_TYPES | oci.MANIFEST_TYPES:
                found, _ = client.manifest(descriptor.digest, self._limit)
            else:
                found = b"".join(client.small_blob(descriptor))
            return verified(descriptor, found, client.endpoint.name)

        content = self._places.anywhere(fetch, progress)
        self._store.put(content, descriptor.media_type)
        return content


def _describe(content: bytes, media_type: str, reference: Reference) -> oci.Descriptor:
    """Return the descriptor of a manifest or index; what it says of itself counts first."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ContentError(
            f"{reference}: the registry's answer is no manifest; check the host and port"
        ) from error
    own = fields.get("mediaType") if isinstance(fields, dict) else None
    if isinstance(own, str) and own:
        media_type = own
    elif media_type not in oci.INDEX_TYPES | oci.MANIFEST_TYPES and isinstance(fields, dict):
        if fields.get("schemaVersion") == 2:
            media_type = oci.OCI_INDEX if "manifests" in fields else oci.OCI_MANIFEST
        elif fields.get("schemaVersion") == 1:
            media_type = oci.SCHEMA_1
    return oci.Descriptor(media_type, oci.digest_of(content), len(content))
