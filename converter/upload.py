"""Blobs and manifests brought to a registry (OCI distribution-spec v1.1, "Push")."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from hyperbuild.converter import oci
from hyperbuild.converter.errors import UnavailableError, VerificationError
from hyperbuild.converter.transfer import Patience

if TYPE_CHECKING:
    import requests

    from hyperbuild.converter.registry import Registry

_MANIFEST_TRIES = 3


def has_blob(client: Registry, digest: str) -> bool:
    """Tell whether the repository has the blob of digest."""
    with client.do_request(client.url(f"blobs/{digest}"), "HEAD") as response:
        if response.status_code not in (200, 404):
            raise client.failure(response, f"blob {digest}")
        return response.status_code == 200


def push_blob(client: Registry, descriptor: oci.Descriptor, content: bytes) -> bool:
    """Bring a blob to the repository; tell whether it had to be (it may be there already).

    AccessError without the right to push; UnavailableError if it can't be done now.
    """
    if has_blob(client, descriptor.digest):
        return False
    patience = client.endpoint.patience
    tries = 0
    while True:
        tries += 1
        try:
            _upload(client, descriptor, content, patience)
        except UnavailableError:
            # What a cut connection has left of an upload is not gone on with: a new one begins.
            if tries >= patience.settings.attempts:
                raise
            patience.pause(tries)
            continue
        return True


def _upload(
    client: Registry, descriptor: oci.Descriptor, content: bytes, patience: Patience
) -> None:
    what = f"upload of {descriptor.digest}"
    with client.do_request(client.url("blobs/uploads/"), "POST", b"", stream=True) as response:
        location = response.headers.get("Location", "")
        if response.status_code != 202 or not location:
            raise client.failure(response, what)
        place = urljoin(response.url, location)
    place += ("&" if "?" in place else "?") + f"digest={descriptor.digest}"
    once = Patience(replace(patience.settings, attempts=1), patience.stop)
    headers = {"Content-Type": "application/octet-stream"}
    with client.do_request(place, "PUT", content, headers, stream=True, patience=once) as response:
        if response.status_code != 201:
            raise client.failure(response, what)


def push_manifest(client: Registry, content: bytes, media_type: str, reference: str) -> bool:
    """Bring a manifest to the repository, as a tag or by its digest.

    Tell whether the registry has entered it as a referrer of its subject. VerificationError if the
    registry has made another manifest of it.
    """
    url = client.url(f"manifests/{reference}")
    headers = {"Content-Type": media_type}
    tries = 0
    while True:
        tries += 1
        with client.do_request(url, "PUT", content, headers, stream=True) as response:
            if response.status_code == 201:
                _check_digest(client, response, content)
                return bool(response.headers.get("OCI-Subject"))
            # While others bring the same blob, a registry may not know yet that it has it.
            if response.status_code not in (400, 404) or tries == _MANIFEST_TRIES:
                raise client.failure(response, f"manifest {reference}")
        client.endpoint.patience.pause(tries)


def _check_digest(client: Registry, response: requests.Response, content: bytes) -> None:
    digest = oci.digest_of(content)
    told = response.headers.get("Docker-Content-Digest", digest)
    if told != digest:
        raise VerificationError(
            f"{client.endpoint.name} has kept {told} of manifest {digest}, which is another; "
            "use a registry that keeps OCI manifests as they are"
        )
