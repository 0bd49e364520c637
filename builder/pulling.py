"""A bundle from a registry into the store: named itself, or attached to an image."""

from __future__ import annotations

import platform
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from hyperbuild.builder import artifact
from hyperbuild.builder.attestation import fetch_envelopes
from hyperbuild.builder.landing import digest_chunks, land_rootfs
from hyperbuild.builder.stored import (
    ARTIFACT_TYPE,
    ROOTFS_TYPES,
    StoredBundle,
    enter_bundle,
    find_made,
)
from hyperbuild.converter import oci
from hyperbuild.converter.documents import Documents
from hyperbuild.converter.errors import (
    AccessError,
    ContentError,
    InputError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from hyperbuild.converter.limits import LARGEST_DOCUMENT, too_long
from hyperbuild.converter.places import connected
from hyperbuild.converter.platforms import host_platform
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.referrers import list_referrers
from hyperbuild.launcher.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hyperbuild.builder.artifact import Artifact
    from hyperbuild.builder.context import Context
    from hyperbuild.builder.policy import Rule
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.store import Store
    from hyperbuild.converter.workers import Workers

#: Largest bundle.json that is fetched: it holds an image's config, whose strings it escapes.
_DOCUMENT_LIMIT = 4 * LARGEST_DOCUMENT


@dataclass(frozen=True, slots=True)
class _Remote:
    """A repository that is read: what was asked for, and the means to fetch it."""

    reference: Reference
    wanted: oci.Platform
    store: Store
    places: Places
    documents: Documents
    workers: Workers
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Found:
    """A bundle in a registry: its manifest, its bundle.json, and what that says."""

    artifact: Artifact
    document: bytes
    bundle: Bundle


def pull_bundle(
    context: Context,
    name: str,
    platform_text: str | None,
    authfile: Path | None,
    rule: Rule | None = None,
) -> StoredBundle:
    """Bring the bundle that name is, or that is attached to the image called name, into the store.

    Of several the newest is taken, and it has to be signed as rule says. NotFoundError: there is
    none; VerificationError, ContentError: it is not what it says, or not signed; and what a
    registry may answer.
    """
    with _remote(context, name, platform_text, authfile) as remote:
        return _land(remote, *_accepted(remote, rule))


def _accepted(remote: _Remote, rule: Rule | None) -> tuple[_Found, bytes]:
    """Return the newest bundle that rule accepts, and the statement that it does so for.

    VerificationError says what is wrong with the newest of all, if it accepts none.
    """
    if rule is None:
        return _find(remote), b""
    refusal: VerificationError | None = None
    for found in _each(remote):
        digest = found.artifact.digest
        envelopes = fetch_envelopes(remote.places, remote.documents, digest, remote.progress)
        what = f"{remote.reference}, bundle {digest},"
        try:
            return found, rule.accept(envelopes, digest, what, datetime.now(UTC))
        except VerificationError as error:
            refusal = refusal or error
    raise refusal or _nothing_attached(remote)


def read_remote(
    context: Context,
    name: str,
    platform_text: str | None,
    authfile: Path | None,
    rule: Rule | None = None,
) -> tuple[bytes, bytes]:
    """Return a bundle's document, and a signed statement about it (b"": there is none).

    The statement is one that rule accepts; without a rule nobody says by whom it was signed. Errors
    as of ``pull_bundle``.
    """
    with _remote(context, name, platform_text, authfile) as remote:
        found, envelope = _accepted(remote, rule)
        if rule is None:
            digest = found.artifact.digest
            attached = fetch_envelopes(remote.places, remote.documents, digest, remote.progress)
            envelope = next(attached, b"")
        return found.document, envelope


def find_ready(
    context: Context, name: str, platform_text: str | None, authfile: Path | None
) -> StoredBundle | None:
    """Return the bundle that name is, or that is attached to that image, in the store; or None.

    What is attached to an image that is named by its digest does not count: whoever asks for these
    very bytes does not ask for what somebody has attached to them.
    """
    if parse_reference(name).transport != "docker":
        return None
    with _remote(context, name, platform_text, authfile) as remote:
        try:
            root = remote.documents.root(remote.progress)
        except (AccessError, NotFoundError, UnavailableError):
            # Whoever asks for the image instead is told the same.
            return None
        try:
            found = next(_each(remote, root, attached=not remote.reference.digest), None)
            if found is None:
                return None
            return _land(remote, found) if found.bundle.kernel else None
        except NotFoundError:
            return None
        except (AccessError, UnavailableError) as error:
            # Some registries refuse to list what is attached, and give the image all the same.
            context.console.say(f"no bundle could be looked for: {error}")
            return None
        except (ContentError, VerificationError) as error:
            context.console.warn(f"{error}; the image is converted instead")
            return None


def find_marked(
    context: Context, name: str, platform_text: str, authfile: Path | None, marks: Mapping[str, str]
) -> str | None:
    """Return where the newest bundle is that is attached to an image with all of marks; or None.

    Only its documents are read, and one whose documents are not what they say does not count.
    """
    with _remote(context, name, platform_text, authfile) as remote:
        root, content = remote.documents.root(remote.progress)
        digest = remote.documents.resolve(
            root, content, remote.wanted, remote.progress
        ).manifest.digest
        listed = list_referrers(remote.places.origin(), digest, ARTIFACT_TYPE)
        for attachment in artifact.marked(listed, marks):
            try:
                _read_attached(remote, attachment, digest)
            except (ContentError, NotFoundError, VerificationError) as error:
                remote.progress.warn(f"{error}; it is not used")
            else:
                return f"{remote.places.origin().endpoint.name}@{attachment.digest}"
    return None


@dataclass(frozen=True, slots=True)
class Attached:
    """A bundle in a registry by its documents: manifest, bundle.json, what is attached to it.

    ``sbom`` is the digest of its SBOM, "" without one.
    """

    manifest: oci.Descriptor
    document: bytes
    bundle: Bundle
    envelopes: tuple[bytes, ...]
    sbom: str


def read_bundle(context: Context, name: str, authfile: Path | None) -> Attached:
    """Read the documents of the bundle called name; errors as of ``pull_bundle``."""
    with _remote(context, name, None, authfile) as remote:
        descriptor, content = remote.documents.root(remote.progress)
        where = str(remote.reference)
        found = _read(remote, artifact.read_artifact(content, where), where)
        digest = found.artifact.digest
        envelopes = fetch_envelopes(remote.places, remote.documents, digest, remote.progress)
        try:
            sbom = oci.digest_of(_attached_sbom(remote, digest, None))
        except NotFoundError:
            sbom = ""
        return Attached(descriptor, found.document, found.bundle, tuple(envelopes), sbom)


def verify_remote(
    context: Context,
    name: str,
    platform_text: str | None,
    authfile: Path | None,
    rule: Rule | None = None,
) -> str:
    """Fetch all of a bundle in a registry and check it, keeping nothing; return its digest.

    Errors as of ``pull_bundle``.
    """
    with _remote(context, name, platform_text, authfile) as remote:
        found, envelope = _accepted(remote, rule)
        rootfs, here = found.bundle.rootfs, found.artifact
        if here.plain:
            digest = _digest_blob(remote, here.plain)
        else:
            digest = digest_chunks(
                here.chunks, rootfs.size, remote.places, remote.workers, remote.progress
            )
        _require(digest, rootfs.digest, f"{remote.reference}: its root file system")
        for file in here.files:
            _require(_digest_blob(remote, file), file.digest, f"{remote.reference}: a file of it")
        _tell_of_sbom(remote, here.digest, (envelope, rule) if rule else None)
        return here.digest


def fetch_attached_sbom(
    context: Context,
    name: str,
    platform_text: str | None,
    authfile: Path | None,
    rule: Rule | None = None,
) -> bytes:
    """Return the SBOM that is attached to the bundle which ``pull_bundle`` would take.

    Where that has to be signed, so has the SBOM. NotFoundError: it has none; else as there.
    """
    with _remote(context, name, platform_text, authfile) as remote:
        found, envelope = _accepted(remote, rule)
        return _attached_sbom(remote, found.artifact.digest, (envelope, rule) if rule else None)


def _tell_of_sbom(remote: _Remote, digest: str, signed: tuple[bytes, Rule] | None) -> None:
    """Say whether an SBOM is attached to a bundle; VerificationError: it is not the signed one."""
    try:
        content = _attached_sbom(remote, digest, signed)
    except NotFoundError:
        remote.progress.say("no SBOM is attached")
    else:
        how = "attached, signed with the bundle" if signed else "attached"
        remote.progress.say(f"an SBOM is {how}: {oci.digest_of(content)}")


def _attached_sbom(remote: _Remote, digest: str, signed: tuple[bytes, Rule] | None) -> bytes:
    from hyperbuild.builder.materials import attached_sbom

    return attached_sbom(remote.places, remote.documents, digest, remote.progress, signed)


def _require(seen: str, named: str, what: str) -> None:
    if seen != named:
        raise VerificationError(f"{what} is {seen} where {named} is named; push the bundle again")


def _digest_blob(remote: _Remote, blob: oci.Descriptor) -> str:
    client = remote.places.origin()
    digest = oci.hasher(blob.digest)
    with remote.progress.task(blob.digest[:19], blob.size) as task:
        for piece in client.small_blob(blob):
            digest.update(piece)
            task.advance(len(piece))
    return f"{blob.digest.partition(':')[0]}:{digest.hexdigest()}"


@contextmanager
def _remote(
    context: Context, name: str, platform_text: str | None, authfile: Path | None
) -> Iterator[_Remote]:
    reference = parse_reference(name)
    if reference.transport != "docker":
        raise InputError(f"{reference} is in no registry; name a bundle or an image that is in one")
    wanted = (
        oci.Platform.parse(platform_text) if platform_text else host_platform(platform.machine())
    )
    store, settings = context.store(), context.registries(authfile, reference.transport)
    with store.lease(), connected(reference, settings, "pull") as (places, workers):
        documents = Documents(reference, store, places)
        yield _Remote(reference, wanted, store, places, documents, workers, context.console)


def _find(remote: _Remote) -> _Found:
    """Read what the reference names: a bundle, or the newest attached to an image."""
    for found in _each(remote):
        return found
    raise _nothing_attached(remote)


def _nothing_attached(remote: _Remote) -> NotFoundError:
    return NotFoundError(
        f"no bundle is attached to {remote.reference}; convert the image, and hyperbuild push it "
        "for others"
    )


def _each(
    remote: _Remote, root: tuple[oci.Descriptor, bytes] | None = None, *, attached: bool = True
) -> Iterator[_Found]:
    """Yield the bundle that the reference names, or (attached) those of an image, newest first.

    root is the document that the reference names, if it was read already.
    """
    descriptor, content = root or remote.documents.root(remote.progress)
    where = str(remote.reference)
    if artifact.is_artifact(content):
        yield _read(remote, artifact.read_artifact(content, where), where)
        return
    image = remote.documents.resolve(descriptor, content, remote.wanted, remote.progress)
    digest = image.manifest.digest
    listed = attached and remote.places.anywhere(
        lambda client: list_referrers(client, digest, ARTIFACT_TYPE), remote.progress
    )
    for attachment in artifact.newest_first(listed or ()):
        yield _read_attached(remote, attachment, digest)


def _read_attached(remote: _Remote, attachment: oci.Descriptor, digest: str) -> _Found:
    """Read a bundle that is attached to the image of digest."""
    name = f"{remote.reference}, bundle {attachment.digest}"
    raw = remote.documents.read(attachment, remote.progress)
    found = _read(remote, artifact.read_artifact(raw, name), name)
    if found.bundle.image.manifest_digest != digest:
        raise ContentError(
            f"{name} was made from another image, {found.bundle.image.manifest_digest}; "
            "remove it from the registry"
        )
    return found


def _read(remote: _Remote, found: Artifact, where: str) -> _Found:
    if found.config.size > _DOCUMENT_LIMIT:
        raise too_long(f"{where}: bundle.json", _DOCUMENT_LIMIT)
    document = remote.documents.read(found.config, remote.progress)
    bundle = Bundle.from_json(document, where)
    artifact.check_artifact(found, bundle, where)
    return _Found(found, document, bundle)


def _land(remote: _Remote, found: _Found, envelope: bytes = b"") -> StoredBundle:
    """Have all of a bundle in the store, and its name lead to it."""
    store, here, bundle = remote.store, found.artifact, found.bundle
    known = find_made(store, here.digest)
    if known and known.name == str(remote.reference) and not envelope:
        return known
    blobs = [remote.workers.submit(partial(_ingest, remote, file)) for file in here.files]
    if here.plain:
        _ingest(remote, here.plain)
    else:
        land_rootfs(
            store, bundle.rootfs, here.chunks, remote.places, remote.workers, remote.progress
        )
    for blob in blobs:
        blob.result()
    rootfs = bundle.rootfs
    layers = [
        oci.Descriptor(ROOTFS_TYPES[rootfs.format], rootfs.digest, rootfs.size),
        *(oci.Descriptor(file.media_type, file.digest, file.size) for file in here.files),
    ]
    name = str(remote.reference)
    return enter_bundle(store, name, found.document, layers, here.subject, here.digest, envelope)


def _ingest(remote: _Remote, blob: oci.Descriptor) -> Path:
    with remote.progress.task(blob.digest[:19], blob.size) as task:
        return remote.places.anywhere(
            lambda client: remote.store.ingest(
                blob, lambda offset: client.blob(blob, offset), task, remote.places.stop.is_set
            ),
            remote.progress,
        )
