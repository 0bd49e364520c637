"""The client of an OCI registry: oras's, with what it lacks .

oras keeps the session, the reading of headers, uploads and artifact manifests; every request, its
own included, goes through ``Registry.do_request``, which retries, authorizes and explains.
Protocol: OCI distribution-spec v1.1.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import oras.provider
import requests

from hyperbuild.converter import oci
from hyperbuild.converter.digests import is_digest
from hyperbuild.converter.errors import (
    AccessError,
    HyperbuildError,
    NotFoundError,
    UnavailableError,
    VerificationError,
    printable,
)
from hyperbuild.converter.limits import too_long
from hyperbuild.converter.pace import SlowError, pieces, read_body
from hyperbuild.converter.reference import DOCKER_HUB
from hyperbuild.converter.tokens import Tokens
from hyperbuild.converter.transfer import (
    FAILURES,
    Patience,
    UntrustedError,
    explain,
    is_loopback,
    send,
    set_up,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ACCEPTED = (
    oci.OCI_INDEX,
    oci.OCI_MANIFEST,
    oci.DOCKER_LIST,
    oci.DOCKER_MANIFEST,
)
HUB_HOST = "registry-1.docker.io"
#: Of an error's text, so many bytes are read.
_SAID = 256 << 10
_NAMES_SHOWN = 10


@dataclass(slots=True)
class Endpoint:
    """One place that serves a repository: the registry itself or a mirror of it.

    ``registry`` is the name in references and credential files, ``base`` the host with a port and,
    for a mirror, a path. Shared by the sessions of all threads.
    """

    registry: str
    base: str
    repository: str
    patience: Patience
    insecure: bool = False
    scheme: str = ""
    tokens: Tokens = field(init=False)
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.registry, self.repository, self.patience)

    @property
    def name(self) -> str:
        """The repository as a person would write it."""
        return f"{self.registry}/{self.repository}"


def endpoints(registry: str, repository: str, patience: Patience) -> list[Endpoint]:
    """Return the places to ask for a repository, in order: its mirrors, then the registry."""
    settings = patience.settings
    found = []
    for mirror in settings.host(registry).mirrors:
        scheme, _, base = mirror.rpartition("://")
        host = urlsplit(f"//{base}").netloc
        insecure = settings.host(host).insecure or scheme == "http"
        found.append(Endpoint(host, base.rstrip("/"), repository, patience, insecure, scheme))
    base = HUB_HOST if registry == DOCKER_HUB else registry
    insecure = settings.host(registry).insecure
    found.append(Endpoint(registry, base, repository, patience, insecure))
    return found


class Registry(oras.provider.Registry):  # type: ignore[misc]
    """A client of one endpoint for one thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(hostname=endpoint.base, tls_verify=not endpoint.insecure)
        self.endpoint = endpoint
        self.verify = not endpoint.insecure
        ca = endpoint.patience.settings.host(endpoint.registry).ca
        set_up(self.session, ca, verify=self.verify)
        with endpoint.lock:
            endpoint.scheme = endpoint.scheme or self._find_scheme()
        self.prefix = endpoint.scheme

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def manifest(self, reference: str, limit: int = oci.DOCUMENT_LIMIT) -> tuple[bytes, str]:
        """Return the bytes of the manifest or index with a tag or digest, and its media type.

        NotFoundError lists tags; VerificationError if the bytes don't have the digest; LimitError
        if they are more than limit.
        """
        found = self.find_manifest(reference, limit)
        if found is None:
            raise NotFoundError(self._missing(reference))
        return found

    def find_manifest(
        self, reference: str, limit: int = oci.DOCUMENT_LIMIT
    ) -> tuple[bytes, str] | None:
        """Return what ``manifest`` does, None if there is no such thing."""
        headers = {"Accept": ", ".join(ACCEPTED)}
        url = self.url(f"manifests/{reference}")
        with self.do_request(url, headers=headers, stream=True) as response:
            if response.status_code == 404:
                return None
            self._check(response, f"manifest {reference}")
            content = self.document(response, limit, f"manifest {reference}")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            declared = response.headers.get("Docker-Content-Digest", "")
        digest = reference if ":" in reference else declared
        if is_digest(digest) and not oci.matches(digest, content):
            raise VerificationError(
                f"{self.endpoint.name}: manifest {reference} has other bytes than its digest "
                f"{printable(digest)} says; push the image again"
            )
        return content, media_type

    def blob(self, descriptor: oci.Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from offset on, going on where a cut connection left off.

        The bytes are not verified here, but more than the declared size is never read on for long.
        """
        position, tries, slow = offset, 0, 0
        patience = self.endpoint.patience
        while True:
            with self._resume_blob(descriptor, position) as response:
                surplus = _surplus(response, position)
                try:
                    for piece in pieces(response, patience.settings):
                        position += max(0, len(piece) - surplus)
                        yield piece[surplus:] if surplus else piece
                        surplus = max(0, surplus - len(piece))
                        tries = 0
                    return
                except FAILURES as error:
                    if position >= descriptor.size:
                        return
                    tries += 1
                    slow += isinstance(error, SlowError)
                    if max(tries, slow) >= patience.settings.attempts:
                        raise self._cut(error, descriptor, position) from error
            patience.pause(tries)

    def small_blob(self, descriptor: oci.Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes, and a piece more than declared at most."""
        position = 0
        for piece in self.blob(descriptor):
            yield piece
            position += len(piece)
            if position > descriptor.size:
                return

    def tags(self, limit: int = 100) -> list[str]:
        """Return the first tags of the repository, [] if the registry does not tell."""
        try:
            with self.do_request(self.url(f"tags/list?n={limit}"), stream=True) as response:
                if response.status_code != 200:
                    return []
                listed = json.loads(self.document(response, oci.DOCUMENT_LIMIT, "tags"))
        except (HyperbuildError, ValueError):
            return []
        tags = listed.get("tags") if isinstance(listed, dict) else None
        return [str(tag) for tag in tags or ()][:limit]

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
        patience: Patience | None = None,
    ) -> requests.Response:
        """Send one request with authorization, renewed once if it was refused.

        patience is the endpoint's, unless it has to be another for this request.
        Return any response that is final; without stream its body is read. AccessError on 401 and
        403; UnavailableError as ``transfer.send``.
        """
        tokens = self.endpoint.tokens
        for last in (False, True):
            held = tokens.held()
            sent = dict(headers or {})
            # A location that the registry names may be another host's, which gets no token.
            if held and urlsplit(url).netloc == urlsplit(self.url("")).netloc:
                sent["Authorization"] = held
            request = requests.Request(method, url, headers=sent, data=data, json=json)
            response: requests.Response = send(
                self.session, request, patience or self.endpoint.patience, self.verify
            )
            if response.status_code == 401 and not last:
                challenge = response.headers.get("WWW-Authenticate", "")
                response.close()
                if tokens.renew(held, challenge, self.session, self.verify, self.prefix == "https"):
                    continue
            if response.status_code in (401, 403):
                with response:
                    raise AccessError(self._refused(response))
            break
        if not stream:
            self._read_whole(response)
        return response

    def url(self, path: str) -> str:
        """Return the URL of what the repository has at path."""
        return f"{self.prefix}://{self.endpoint.base}/v2/{self.endpoint.repository}/{path}"

    def _find_scheme(self) -> str:
        if not (self.endpoint.insecure or is_loopback(self.endpoint.base)):
            return "https"
        url = f"https://{self.endpoint.base}/v2/"
        seconds = self.endpoint.patience.settings.connect_timeout
        try:
            self.session.head(url, verify=self.verify, timeout=seconds, allow_redirects=False)
        except FAILURES as error:
            explained = explain(error, self.endpoint.base)
            if isinstance(explained, UntrustedError):
                raise explained from error
            # Whatever else is wrong will show, and be explained, with the first real request.
            return "http"
        return "https"

    def _resume_blob(self, descriptor: oci.Descriptor, position: int) -> requests.Response:
        try:
            return self._open_blob(descriptor, position)
        except UnavailableError as error:
            if position:
                raise self._cut(error, descriptor, position) from error
            raise

    def _open_blob(self, descriptor: oci.Descriptor, offset: int) -> requests.Response:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        url = self.url(f"blobs/{descriptor.digest}")
        response = self.do_request(url, headers=headers, stream=True)
        what = f"blob {descriptor.digest}"
        if response.status_code == 404:
            response.close()
            raise NotFoundError(
                f"{self.endpoint.name} has no {what}, which its manifest names; "
                "push the image again"
            )
        if response.status_code == 416:
            response.close()
            raise VerificationError(
                f"{self.endpoint.name}: {what} ends before byte {offset}, {descriptor.size} are "
                "declared; push the image again"
            )
        self._check(response, what)
        length = response.headers.get("Content-Length", "")
        expected = descriptor.size - (offset if response.status_code == 206 else 0)
        if length.isdigit() and int(length) != expected:
            response.close()
            raise VerificationError(
                f"{self.endpoint.name}: {what} has {length} bytes to read where {expected} are "
                "declared; push the image again"
            )
        return response

    def _check(self, response: requests.Response, what: str) -> None:
        status = response.status_code
        html = "html" in response.headers.get("Content-Type", "").lower()
        if status in (200, 206) and not html:
            return
        with response:
            if html:
                raise UnavailableError(
                    f"{self.endpoint.base} answers with a web page, it is not a registry; "
                    "check the host and port"
                )
            raise self.failure(response, what)

    def failure(self, response: requests.Response, what: str) -> HyperbuildError:
        """Return the error of an answer that is none, as the registry explains it."""
        return UnavailableError(
            f"{self.endpoint.name}: {what}: status {response.status_code}{self._said(response)}"
        )

    def document(self, response: requests.Response, limit: int, what: str) -> bytes:
        """Read the body of an answer, which may have limit bytes (LimitError)."""
        try:
            content = read_body(response, limit, self.endpoint.patience.settings)
        except FAILURES as error:
            raise explain(error, self.endpoint.base) from error
        if len(content) > limit:
            raise too_long(f"{self.endpoint.name}: {what}", limit)
        return content

    def _read_whole(self, response: requests.Response) -> None:
        try:
            response.content  # noqa: B018 - reads and keeps the body
        except FAILURES as error:
            raise explain(error, self.endpoint.base) from error

    def _missing(self, reference: str) -> str:
        name = self.endpoint.name
        if ":" in reference:
            return f"{name} has no manifest {reference}; check the digest"
        # What is attached to images is no name that anybody means.
        tags = [tag for tag in self.tags() if not re.fullmatch(r"sha\d+-[0-9a-f]{64}", tag)]
        if not tags:
            return f"{name}:{reference} does not exist; check the name and the tag"
        shown = ", ".join(tags[:_NAMES_SHOWN]) + (", ..." if len(tags) > _NAMES_SHOWN else "")
        return f"{name} has no tag {reference}; it has {shown}"

    def _refused(self, response: requests.Response) -> str:
        status = response.status_code
        return (
            f"{self.endpoint.name}: access refused (status {status}){self._said(response)}; "
            f"{self.endpoint.tokens.hint()}"
        )

    def _said(self, response: requests.Response) -> str:
        try:
            body = json.loads(read_body(response, _SAID, self.endpoint.patience.settings))
            message = str(body["errors"][0]["message"])
        except (ValueError, LookupError, TypeError, *FAILURES):
            return ""
        return f", it says: {message[:200]}" if message else ""

    def _cut(
        self, error: BaseException, descriptor: oci.Descriptor, position: int
    ) -> HyperbuildError:
        return UnavailableError(
            f"{explain(error, self.endpoint.base)}; {position} of the {descriptor.size} bytes of "
            f"blob {descriptor.digest} are kept, the next run goes on there"
        )


def _surplus(response: requests.Response, position: int) -> int:
    """Return how many bytes come before position in an answer that may not honour ranges."""
    if response.status_code != 206:
        return position
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if start != str(position):
        raise UnavailableError(
            f"{urlsplit(response.url).netloc} answers with another range than asked for; try again"
        )
    return 0
