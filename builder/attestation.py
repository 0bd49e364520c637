"""What is attached to a bundle in its registry: signed statements about it, and its SBOM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.builder.artifact import TITLE
from hyperbuild.builder.stored import ENVELOPE_TYPE
from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.limits import too_long
from hyperbuild.converter.referrers import list_referrers, push_referrer
from hyperbuild.converter.upload import push_blob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.converter.documents import Documents
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.registry import Registry

_ENVELOPE_LIMIT = 1 << 20
#: So many of what is attached to a bundle are looked at.
_ATTACHED = 64


def push_attached(
    client: Registry, media_type: str, content: bytes, bundle: oci.Descriptor, name: str = ""
) -> None:
    """Attach content to the bundle whose manifest is given; name is its file's, for others."""
    layer = _push(client, media_type, content)
    if name:
        layer = layer.replace(annotations={TITLE: name})
    config = _push(client, oci.EMPTY, b"{}")
    push_referrer(client, oci.artifact_manifest(media_type, config, [layer], bundle))


def _push(client: Registry, media_type: str, content: bytes) -> oci.Descriptor:
    descriptor = oci.Descriptor(media_type, oci.digest_of(content), len(content))
    push_blob(client, descriptor, content)
    return descriptor


def fetch_envelopes(
    places: Places, documents: Documents, digest: str, progress: Progress
) -> Iterator[bytes]:
    """Yield the signed statements that are attached to the bundle whose manifest has digest."""
    yield from fetch_attached(places, documents, digest, ENVELOPE_TYPE, _ENVELOPE_LIMIT, progress)


def fetch_attached(
    places: Places,
    documents: Documents,
    digest: str,
    media_type: str,
    limit: int,
    progress: Progress,
) -> Iterator[bytes]:
    """Yield what of media_type is attached to the bundle whose manifest has digest, as listed.

    ContentError: it is of another type than listed; LimitError: it has more than limit bytes.
    """
    listed = places.anywhere(lambda client: list_referrers(client, digest, media_type), progress)
    for found in listed[:_ATTACHED]:
        where = f"attachment {found.digest}"
        manifest = oci.Manifest.read(documents.read(found, progress), where)
        for layer in manifest.layers:
            if layer.media_type != media_type:
                raise ContentError(f"{where} is of type {layer.media_type!r}; remove it")
            if layer.size > limit:
                raise too_long(where, limit)
            yield documents.read(layer, progress)
