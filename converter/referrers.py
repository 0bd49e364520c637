"""What a registry has attached to an image (OCI distribution-spec v1.1, "Listing Referrers").

A registry without that API keeps them in an index whose tag is made of the image's digest, which
whoever pushes has to write ("Unavailable Referrers API").
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError, UnavailableError
from hyperbuild.converter.upload import push_manifest

if TYPE_CHECKING:
    from hyperbuild.converter.registry import Registry

#: How many pages of a list are read; how often an index is written that others write, too.
_PAGES = 16
_TRIES = 5
#: The longest parts of the tag that stands for a digest.
_ALGORITHM, _ENCODED = 32, 64


def list_referrers(client: Registry, digest: str, artifact_type: str) -> list[oci.Descriptor]:
    """Return the manifests of artifact_type that are attached to the image of digest."""
    by_api = _by_api(client, digest, artifact_type)
    listed = _by_tag(client, digest) if by_api is None else by_api
    return [found for found in listed if found.artifact_type == artifact_type]


def push_referrer(client: Registry, raw: bytes, reference: str = "") -> None:
    """Push a manifest as reference (by default its digest), and attach it to its subject if any."""
    manifest = oci.Manifest.read(raw, "manifest")
    entered = push_manifest(client, raw, oci.OCI_MANIFEST, reference or manifest.digest)
    if manifest.subject and not entered:
        referrer = oci.Descriptor(
            oci.OCI_MANIFEST,
            manifest.digest,
            len(raw),
            manifest.annotations,
            artifact_type=manifest.artifact_type,
        )
        _attach(client, referrer, manifest.subject.digest)


def _attach(client: Registry, referrer: oci.Descriptor, digest: str) -> None:
    """Enter referrer, pushed already, among those of the image of digest, by the tag's index.

    For registries that did not do so when it was pushed. UnavailableError if others write the index
    all the time.
    """
    for _ in range(_TRIES):
        listed = _by_tag(client, digest)
        if any(known.digest == referrer.digest for known in listed):
            return
        document = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_INDEX,
            "manifests": [known.document() for known in (*listed, referrer)],
        }
        push_manifest(client, json.dumps(document).encode(), oci.OCI_INDEX, tag_of(digest))
        # Somebody else may have read the same index, and written it after us: read it again.
        client.endpoint.patience.pause(0, 0.05)
    raise UnavailableError(
        f"{client.endpoint.name}: others write the tag {tag_of(digest)} all the time; try again"
    )


def tag_of(digest: str) -> str:
    """Return the tag of the index of what is attached to the image of digest."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:_ALGORITHM]}-{encoded[:_ENCODED]}"


def _by_api(client: Registry, digest: str, artifact_type: str) -> list[oci.Descriptor] | None:
    """Return what the API lists, None if the registry has none."""
    url = client.url(f"referrers/{digest}?artifactType={quote(artifact_type, safe='')}")
    listed: list[oci.Descriptor] = []
    for _ in range(_PAGES):
        what = f"referrers of {digest}"
        with client.do_request(url, stream=True) as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if response.status_code != 200 or kind != oci.OCI_INDEX:
                return None
            content = client.document(response, oci.DOCUMENT_LIMIT, what)
            following = response.links.get("next", {}).get("url", "")
        listed += oci.Index.read(content, f"{client.endpoint.name}: {what}").manifests
        if not following:
            return listed
        url = urljoin(url, following)
    raise ContentError(
        f"{client.endpoint.name}: {digest} has more than {_PAGES} pages of referrers; remove some"
    )


def _by_tag(client: Registry, digest: str) -> tuple[oci.Descriptor, ...]:
    found = client.find_manifest(tag_of(digest))
    if found is None:
        return ()
    return oci.Index.read(found[0], f"{client.endpoint.name}:{tag_of(digest)}").manifests
