"""Bundles in the content store: entered, listed, found. A boot goes through here.

In the store a bundle is an OCI artifact (image-spec v1.1, manifest.md, "Guidelines for Artifact
Usage"): config bundle.json, layers rootfs, kernel and initramfs, its subject the source image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter import oci
from hyperbuild.converter.errors import InputError, NotFoundError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.bundle import ROOTFS_FORMATS, Bundle
from hyperbuild.launcher.located import BundleFiles

if TYPE_CHECKING:
    from hyperbuild.converter.store import Store

ARTIFACT_TYPE = "application/vnd.hyperbuild.bundle.v1"
CONFIG_TYPE = "application/vnd.hyperbuild.bundle.config.v1+json"
ROOTFS_TYPES = {name: f"application/vnd.hyperbuild.rootfs.v1.{name}" for name in ROOTFS_FORMATS}
KERNEL_TYPE = "application/vnd.hyperbuild.kernel.v1.elf"
INITRAMFS_TYPE = "application/vnd.hyperbuild.initramfs.v1.cpio"
#: A signed statement about a bundle, as in-toto's attestation framework names it.
ENVELOPE_TYPE = "application/vnd.in-toto.provenance+dsse"
#: A bundle's bill of materials, as IANA has registered it.
SBOM_TYPE = "application/vnd.cyclonedx+json"
#: Annotation of a bundle in the store: the digest of everything that it was made of.
KEY = "sh.hyper.bundle.key"
#: Annotation of a bundle in the store: the digest of a signed statement about it.
ENVELOPE = "sh.hyper.bundle.envelope"
#: How much of a digest is shown to people, and enough to name a bundle by.
DIGEST_SHOWN = len("sha256:") + 12


class StoredBundle(Record):
    """A bundle in the store: the name it was given, its manifest's digest, and its files.

    ``envelope`` is the digest of a signed statement about it, "" if it came without one.
    """

    name: str
    digest: str
    files: BundleFiles
    envelope: str = ""


def enter_bundle(
    store: Store,
    name: str,
    document: bytes,
    layers: list[oci.Descriptor],
    subject: oci.Descriptor | None,
    key: str,
    envelope: bytes = b"",
) -> StoredBundle:
    """Enter a bundle whose layers (rootfs, kernel, initramfs) are in store, as name.

    document is its bundle.json, verified to be one; subject is the manifest of the image it was
    made from; key tells it from others of that name; envelope is a signed statement about it.
    """
    config = store.put(document, CONFIG_TYPE)
    manifest = oci.artifact_manifest(ARTIFACT_TYPE, config, layers, subject)
    written = store.put(manifest, oci.OCI_MANIFEST)
    annotations = {KEY: key}
    signed = _kept(store, name, written.digest)
    if envelope:
        signed = store.put(envelope, ENVELOPE_TYPE).digest
    if signed:
        annotations[ENVELOPE] = signed
    store.tag(written.replace(annotations=annotations, artifact_type=ARTIFACT_TYPE), name)
    return StoredBundle(name, written.digest, _located(store, document, name), signed)


def _kept(store: Store, name: str, digest: str) -> str:
    """Return the digest of the statement that the same bundle came with when it had that name."""
    for entry in store.entries():
        if (entry_name(entry), entry.digest) == (name, digest):
            return entry.annotations.get(ENVELOPE, "")
    return ""


def find_made(store: Store, key: str) -> StoredBundle | None:
    """Return the bundle of key, if the store has it whole."""
    known = next((e for e in store.entries() if e.annotations.get(KEY) == key), None)
    return open_entry(store, known) if known else None


def list_bundles(store: Store) -> list[StoredBundle]:
    """Return the bundles in the store, by name; entries with pieces missing are left out."""
    found = [open_entry(store, entry) for entry in store.entries() if KEY in entry.annotations]
    return sorted(filter(None, found), key=lambda bundle: bundle.name)


def find_bundle(store: Store, name: str) -> StoredBundle:
    """Return the bundle of that name or manifest digest, which may be cut as images shows it.

    NotFoundError says what to do, InputError if a cut digest fits several.
    """
    entries = [entry for entry in store.entries() if KEY in entry.annotations]
    fitting = [entry for entry in entries if name in (entry.digest, entry_name(entry))]
    if not fitting and name.startswith("sha256:") and len(name) >= DIGEST_SHOWN:
        fitting = [entry for entry in entries if entry.digest.startswith(name)]
        if len({entry.digest for entry in fitting}) > 1:
            raise InputError(f"{name} fits several bundles in {store.root}; write more of it")
    for entry in fitting:
        found = open_entry(store, entry)
        if found:
            return found
    raise NotFoundError(
        f"no bundle {name} in {store.root}; see 'hyperbuild images' or convert the image first"
    )


def find_named(store: Store, name: str) -> StoredBundle:
    """Return the bundle of that digest, or of the image of that name, which may lack its tag.

    Errors as of ``find_bundle``.
    """
    from hyperbuild.converter.reference import parse_reference

    try:
        return find_bundle(store, name)
    except NotFoundError as error:
        try:
            return find_bundle(store, str(parse_reference(name)))
        except (InputError, NotFoundError):
            raise error from None


def entry_name(entry: oci.Descriptor) -> str:
    """Return the name that a bundle has in the store."""
    return entry.annotations.get("org.opencontainers.image.ref.name", "")


def open_entry(store: Store, entry: oci.Descriptor) -> StoredBundle | None:
    """Open a bundle of the store; None if a piece of it is gone."""
    raw = store.read(entry)
    if raw is None:
        return None
    manifest = oci.Manifest.read(raw, entry.digest)
    document = store.read(manifest.config)
    if document is None or not all(store.has(layer) for layer in manifest.layers):
        return None
    signed = entry.annotations.get(ENVELOPE, "")
    files = _located(store, document, f"bundle {entry.digest}")
    return StoredBundle(entry_name(entry), entry.digest, files, signed)


def _located(store: Store, document: bytes, where: str) -> BundleFiles:
    bundle = Bundle.from_json(document, where)
    return BundleFiles(
        bundle=bundle,
        rootfs=store.blob_path(bundle.rootfs.digest),
        kernel=store.blob_path(bundle.kernel.digest) if bundle.kernel else None,
        initramfs=store.blob_path(bundle.initramfs) if bundle.initramfs else None,
        document=document,
    )
