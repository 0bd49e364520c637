"""A bundle to a registry: what it lacks is compressed and sent, several pieces at once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hyperbuild.builder import artifact
from hyperbuild.builder.locating import is_finished, open_finished
from hyperbuild.builder.stored import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    ENVELOPE_TYPE,
    INITRAMFS_TYPE,
    KERNEL_TYPE,
    SBOM_TYPE,
    find_bundle,
)
from hyperbuild.converter import oci
from hyperbuild.converter.errors import InputError, VerificationError
from hyperbuild.converter.files import open_regular
from hyperbuild.converter.places import connected
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.referrers import list_referrers, push_referrer
from hyperbuild.converter.upload import push_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from securesystemslib.signer import CryptoSigner

    from hyperbuild.builder.buildinfo import BuildInfo
    from hyperbuild.builder.context import Context
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Task
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.registry import Registry
    from hyperbuild.converter.workers import Workers
    from hyperbuild.launcher.bundle import Bundle
    from hyperbuild.launcher.located import BundleFiles

#: zstd's level 3, its default, saves 7% more and takes 70% longer.
_LEVEL = 2


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was pushed: where it can be named, the bytes sent, and what it is attached to.

    ``has_sbom`` says that its SBOM is attached to it in turn.
    """

    name: str
    digest: str
    sent: int
    subject: oci.Descriptor | None
    has_sbom: bool

    def to_json(self) -> str:
        """Return it as a JSON object."""
        fields = {
            "name": self.name,
            "digest": self.digest,
            "sent": self.sent,
            "attachedTo": self.subject and self.subject.digest,
            "sbom": self.has_sbom,
        }
        return json.dumps(fields, indent=2)


def push_bundle(
    context: Context,
    name: str,
    destination: str | None,
    authfile: Path | None,
    sign_with: Path | None,
    *,
    with_sbom: bool,
    marks: Mapping[str, str] | None = None,
) -> Pushed:
    """Push the bundle called name to destination, or to the image that it was made from.

    Where the image is in the same repository, the bundle is attached to it. with_sbom has its SBOM
    attached to it in turn; sign_with is the file of a private key that signs what was made, of
    what, and the SBOM. marks are annotations; a bundle that is attached with all of them is not
    attached again, be it the newest or not. InputError: it came from no registry and destination
    is not given, or there is no such key; VerificationError: the bundle's files are not those its
    document names; AccessError, UnavailableError: of the registry.
    """
    files = _find(context, name)
    document = files.document
    reference = _destination(files, destination)
    signer = _signer(sign_with)
    settings = context.registries(authfile, reference.transport)
    with connected(reference, settings, "push") as (places, workers):
        client = places.origin()
        subject = _subject(files, client)
        if destination:
            _refuse_image(client, reference)
        else:
            subject = _required(subject, files, client)
            if known := _attached(client, document, subject, marks):
                has_sbom = bool(list_referrers(client, known.digest, SBOM_TYPE))
                is_needed = with_sbom and (signer or not has_sbom)
                sbom = _sbom(context, files) if is_needed else b""
                _accompany(context, files, client, known, sbom, signer)
                name = f"{client.endpoint.name}@{known.digest}"
                return Pushed(name, known.digest, 0, subject, has_sbom or bool(sbom))
        # While the layers are on their way, a processor has time for it.
        listing = workers.submit(lambda: _sbom(context, files) if with_sbom else b"")
        layers, sent = _push_layers(context, files, document, places, workers)
        sbom = listing.result()
        # Another machine of a fleet may have made the same meanwhile.
        if marks and subject and (known := _attached(client, document, subject, marks)):
            name = f"{client.endpoint.name}@{known.digest}"
            return Pushed(name, known.digest, sent, subject, has_sbom=bool(sbom))
        manifest = artifact.write_artifact(document, layers, subject, _created(context), marks)
        made = oci.Descriptor(oci.OCI_MANIFEST, oci.digest_of(manifest), len(manifest))
        # First: nobody shall find the bundle without its signature.
        _accompany(context, files, client, made, sbom, signer)
        push_referrer(client, manifest, reference.tag if destination else "")
    tag = f":{reference.tag}" if destination else ""
    name = f"{client.endpoint.name}{tag}@{made.digest}"
    return Pushed(name, made.digest, sent, subject, bool(sbom))


def sign_pushed(context: Context, name: str, authfile: Path | None, sign_with: Path) -> None:
    """Attach a signed statement to the bundle called name, unless that key has signed it.

    Errors as of ``push_bundle``, and of ``read_bundle``.
    """
    from hyperbuild.builder.pulling import read_bundle
    from hyperbuild.builder.signing import load_signer, signed_payload

    signer = load_signer(sign_with)
    found = read_bundle(context, name, authfile)
    if any(signed_payload(envelope, [signer.public_key]) for envelope in found.envelopes):
        return
    reference = parse_reference(name)
    with connected(reference, context.registries(authfile, reference.transport), "sign") as places:
        client = places[0].origin()
        _sign(context, found.bundle, found.document, client, found.manifest, found.sbom, signer)


def _sbom(context: Context, files: BundleFiles) -> bytes:
    """Return a bundle's SBOM; none, with a warning, for what is no root file system."""
    from hyperbuild.builder.materials import make_sbom

    try:
        return make_sbom(context, files)
    except VerificationError as error:
        context.console.warn(f"the bundle goes without an SBOM: {error}")
        return b""


def _accompany(
    context: Context,
    files: BundleFiles,
    client: Registry,
    manifest: oci.Descriptor,
    sbom: bytes,
    signer: CryptoSigner | None,
) -> None:
    """Attach an SBOM and a signature, where there are any, to the bundle of that manifest."""
    from hyperbuild.builder.attestation import push_attached
    from hyperbuild.builder.statement import SBOM_NAME

    if sbom:
        push_attached(client, SBOM_TYPE, sbom, manifest, SBOM_NAME)
    if signer:
        digest = oci.digest_of(sbom) if sbom else ""
        _sign(context, files.bundle, files.document, client, manifest, digest, signer)


def _required(
    subject: oci.Descriptor | None, files: BundleFiles, client: Registry
) -> oci.Descriptor:
    if subject is None:
        raise InputError(
            f"{client.endpoint.name} does not have the image that the bundle was made from, "
            f"{files.bundle.image.manifest_digest}; say where to push the bundle instead"
        )
    return subject


def _signer(path: Path | None) -> CryptoSigner | None:
    if path is None:
        return None
    from hyperbuild.builder.signing import load_signer

    return load_signer(path)


def _sign(
    context: Context,
    bundle: Bundle,
    document: bytes,
    client: Registry,
    manifest: oci.Descriptor,
    sbom: str,
    signer: CryptoSigner,
) -> None:
    """Attach a signed statement to a bundle; its manifest and its SBOM's digest are given."""
    from importlib.metadata import version

    from hyperbuild.builder.attestation import push_attached
    from hyperbuild.builder.buildinfo import read_build
    from hyperbuild.builder.signing import sign
    from hyperbuild.builder.statement import write_statement

    build = None if bundle.build is None else read_build(bundle.build, "bundle.json")
    statement = write_statement(
        document,
        manifest=manifest.digest,
        name=client.endpoint.name,
        made=_created(context),
        version=version("hyperbuild-vm"),
        tools=_tools(context, bundle, build),
        sbom=sbom,
    )
    push_attached(client, ENVELOPE_TYPE, sign(statement, signer), manifest)


def _tools(context: Context, bundle: Bundle, build: BuildInfo | None) -> dict[str, str]:
    """Return what is known here of what made a bundle's kernel and initramfs."""
    from hyperbuild.initramfs.build import find_tools

    known = {
        "kernel": build and build.kernel and build.kernel.toolchain,
        "initramfs": bundle.initramfs and find_tools(context.cache, bundle.initramfs),
    }
    return {name: tools for name, tools in known.items() if tools}


def _find(context: Context, name: str) -> BundleFiles:
    if is_finished(name):
        return open_finished(context, name)
    reference = parse_reference(name)
    return find_bundle(context.store(), str(reference)).files


def _destination(files: BundleFiles, destination: str | None) -> Reference:
    reference = parse_reference(destination or files.bundle.image.reference)
    if reference.transport != "docker":
        raise InputError(
            f"{reference} is in no registry to push to; say where: hyperbuild push BUNDLE "
            "HOST/NAME:TAG"
        )
    if destination and reference.digest:
        raise InputError(
            f"{reference} has a digest, and what is pushed has one of its own; give a tag alone"
        )
    return reference


def _subject(files: BundleFiles, client: Registry) -> oci.Descriptor | None:
    """Return the manifest of the bundle's image, if the repository has it."""
    digest = files.bundle.image.manifest_digest
    found = client.find_manifest(digest)
    return found and oci.Descriptor(found[1], digest, len(found[0]))


def _refuse_image(client: Registry, reference: Reference) -> None:
    """Raise InputError if the tag is an image's, which others pull by it."""
    found = client.find_manifest(reference.tag)
    if found and not artifact.is_artifact(found[0]):
        raise InputError(
            f"{reference} is an image or another artifact; give the bundle another tag, or leave "
            "the destination out to attach it to its image"
        )


def _attached(
    client: Registry,
    document: bytes,
    subject: oci.Descriptor,
    marks: Mapping[str, str] | None,
) -> oci.Descriptor | None:
    """Return the manifest of the same bundle if it is what is attached to subject already.

    Without marks, only if it is the newest there: pushed again, an older one is to be found again.
    """
    listed = list_referrers(client, subject.digest, ARTIFACT_TYPE)
    newest = artifact.newest_first(listed)[:1]
    for found in artifact.marked(listed, marks) if marks else newest:
        if found.annotations.get(artifact.DOCUMENT) == oci.digest_of(document):
            return oci.Descriptor(found.media_type, found.digest, found.size)
    return None


def _created(context: Context) -> str:
    seconds = time.time() if context.epoch is None else context.epoch
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _push_layers(
    context: Context, files: BundleFiles, document: bytes, places: Places, workers: Workers
) -> tuple[list[oci.Descriptor], int]:
    """Bring all blobs to the registry; return the layers in order, and how many bytes were sent."""
    bundle = files.bundle
    with ExitStack() as stack:
        rootfs = open_regular(files.rootfs)
        stack.callback(os.close, rootfs)
        size = os.fstat(rootfs).st_size
        if size != bundle.rootfs.size:
            raise VerificationError(
                f"{files.rootfs} has {size} bytes where its bundle says {bundle.rootfs.size}; "
                "convert the image again"
            )
        task = stack.enter_context(context.console.task("push", size))
        jobs: list[Callable[[], tuple[oci.Descriptor, int]]] = [
            partial(_push_chunk, places, rootfs, bundle.rootfs.format, span, task)
            for span in artifact.spans(size)
        ]
        paths = {KERNEL_TYPE: files.kernel, INITRAMFS_TYPE: files.initramfs}
        for media_type, digest in artifact.named_files(bundle).items():
            if path := paths[media_type]:
                jobs.append(partial(_push_file, places, path, media_type, digest))
        config = oci.Descriptor(CONFIG_TYPE, oci.digest_of(document), len(document))
        jobs.append(lambda: _push(places, config, document))
        futures = [workers.submit(job) for job in jobs]
        _check_digest(files.rootfs, rootfs, bundle.rootfs.digest)
        done = _all(futures)
    *layers, _ = (layer for layer, _ in done)
    return layers, sum(sent for _, sent in done)


def _check_digest(path: Path, fd: int, digest: str) -> None:
    """Raise VerificationError if what is being sent is not what bundle.json names."""
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        seen = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if seen != digest:
        raise VerificationError(
            f"{path} is {seen} where its bundle says {digest}; convert the image again"
        )


def _all(
    futures: list[Future[tuple[oci.Descriptor, int]]],
) -> list[tuple[oci.Descriptor, int]]:
    """Wait for all; of several failures the first in order is raised."""
    wait(futures, return_when="FIRST_EXCEPTION")
    return [future.result() for future in futures]


def _push_chunk(
    places: Places, rootfs: int, rootfs_format: str, span: tuple[int, int], task: Task
) -> tuple[oci.Descriptor, int]:
    import zstandard

    offset, size = span
    content = os.pread(rootfs, size, offset)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
    blob = oci.Descriptor("", oci.digest_of(packed), len(packed))
    layer = artifact.chunk_descriptor(rootfs_format, artifact.Chunk(blob, offset, size, digest))
    done = _push(places, layer, packed)
    task.advance(size)
    return done


def _push_file(
    places: Places, path: Path, media_type: str, digest: str
) -> tuple[oci.Descriptor, int]:
    content = path.read_bytes()
    if not oci.matches(digest, content):
        raise VerificationError(
            f"{path} has other bytes than its bundle's {digest}; convert the image again"
        )
    return _push(places, artifact.file_descriptor(media_type, digest, len(content)), content)


def _push(places: Places, descriptor: oci.Descriptor, content: bytes) -> tuple[oci.Descriptor, int]:
    sent = push_blob(places.origin(), descriptor, content)
    return descriptor, len(content) if sent else 0
