"""Signed statements about a bundle, attached to it in its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
#: So many of the statements about a bundle are looked at.
_ENVELOPES = 64


def push_envelope(client: Registry, envelope: bytes, bundle: oci.Descriptor) -> None:
    """Attach a signed statement to the bundle whose manifest is given."""
    layer = _push(client, ENVELOPE_TYPE, envelope)
    config = _push(client, oci.EMPTY, b"{}")
    push_referrer(client, oci.artifact_manifest(ENVELOPE_TYPE, config, [layer], bundle))


def _push(client: Registry, media_type: str, content: bytes) -> oci.Descriptor:
    descriptor = oci.Descriptor(media_type, oci.digest_of(content), len(content))
    push_blob(client, descriptor, content)
    return descriptor


def fetch_envelopes(
    places: Places, documents: Documents, digest: str, progress: Progress
) -> Iterator[bytes]:
    """Yield the signed statements that are attached to the bundle whose manifest has digest."""
    listed = places.anywhere(lambda client: list_referrers(client, digest, ENVELOPE_TYPE), progress)
    for found in listed[:_ENVELOPES]:
        where = f"signature {found.digest}"
        manifest = oci.Manifest.read(documents.read(found, progress), where)
        for layer in manifest.layers:
            if layer.media_type != ENVELOPE_TYPE:
                raise ContentError(f"{where} is of type {layer.media_type!r}; remove it")
            if layer.size > _ENVELOPE_LIMIT:
                raise too_long(where, _ENVELOPE_LIMIT)
            yield documents.read(layer, progress)
