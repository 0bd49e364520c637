"""An image joined with a kernel and an initramfs: a bundle in the content store.

In the store a bundle is an OCI artifact (image-spec v1.1, manifest.md, "Guidelines for Artifact
Usage"): config bundle.json, layers rootfs, kernel and initramfs, its subject the source image.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hyperbuild.builder.attestation import ENVELOPE_TYPE
from hyperbuild.builder.parts import describe_kernel
from hyperbuild.builder.preflight import check_start
from hyperbuild.builder.process import resolve_process
from hyperbuild.converter import files, oci
from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.errors import InputError, NotFoundError, VerificationError
from hyperbuild.converter.reuse import BlobChecks
from hyperbuild.launcher.bundle import Bundle, ImageInfo, RootfsInfo
from hyperbuild.launcher.located import BundleFiles

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hyperbuild.converter.layer_cache import LayerCache, Loan
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.store import Store
    from hyperbuild.initramfs.build import Initramfs
    from hyperbuild.kernel.build import Kernel
    from hyperbuild.launcher.defaults import BootDefaults

ARTIFACT_TYPE = "application/vnd.hyperbuild.bundle.v1"
CONFIG_TYPE = "application/vnd.hyperbuild.bundle.config.v1+json"
ROOTFS_TYPES = {name: f"application/vnd.hyperbuild.rootfs.v1.{name}" for name in FORMATS}
KERNEL_TYPE = "application/vnd.hyperbuild.kernel.v1.elf"
INITRAMFS_TYPE = "application/vnd.hyperbuild.initramfs.v1.cpio"
#: Annotation of a bundle in the store: the digest of everything that it was made of.
KEY = "sh.hyper.bundle.key"
#: Annotation of a bundle in the store: the digest of a signed statement about it.
ENVELOPE = "sh.hyper.bundle.envelope"
#: How much of a digest is shown to people, and enough to name a bundle by.
DIGEST_SHOWN = len("sha256:") + 12
#: Raised when a bundle made of the same things would be another one.
MAKER_VERSION = "2"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is joined with an image's root file system; None in a bundle without a kernel."""

    kernel: Kernel | None
    initramfs: Initramfs | None


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle in the store: the name it was given, its manifest's digest, and its files.

    ``envelope`` is the digest of a signed statement about it, "" if it came without one.
    """

    name: str
    digest: str
    files: BundleFiles
    envelope: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One bundle to be made: an image and its source, what it is joined with, and how.

    ``rootfs_format`` is a key of FORMATS; ``epoch``, ``aligns`` and ``cache`` are as for
    ``convert``; ``verify`` has the result proved (VerificationError), ``boot`` is what the bundle
    says of how to boot it.
    """

    image: SourceImage
    source: ImageSource
    parts: Parts
    rootfs_format: str
    epoch: int | None
    limits: Limits
    aligns: bool
    verify: bool
    boot: BootDefaults | None
    cache: LayerCache
    progress: Progress

    @property
    def name(self) -> str:
        """The image's reference, which is the bundle's name."""
        return str(self.image.reference)

    @property
    def key(self) -> str:
        """The digest of all that the bundle's bytes depend on."""
        image, parts = self.image, self.parts
        identity = (
            MAKER_VERSION,
            self.rootfs_format,
            self.name,
            image.manifest.digest,
            image.config.digest,
            parts.kernel and parts.kernel.digest,
            parts.initramfs and parts.initramfs.digest,
            self.epoch,
            self.aligns,
            *([self.boot.document()] if self.boot else []),
        )
        return oci.digest_of(json.dumps(identity).encode())

    def check_again(self, fd: int) -> None:
        """Verify what an earlier run has made in fd, and that its image is still sound.

        VerificationError, or any error of the source.
        """
        with BlobChecks(self.image, self.source, self.progress, self.cache) as checks:
            for layer in self.image.layers:
                checks.check(layer)
            if self.verify:
                self.prove(fd)

    def prove(self, fd: int) -> None:
        """Compare the root file system in fd with the image's layers; VerificationError."""
        from hyperbuild.converter.proof import prove

        prove(
            self.image,
            self.source,
            fd,
            epoch=self.epoch,
            limits=self.limits,
            progress=self.progress,
        )


def make_bundle(order: Order, fd: int) -> tuple[Bundle, tuple[Loan, ...]]:
    """Convert the order's image into the empty file fd and describe the bundle that it makes.

    The loans are for ``lend``, once the file has its name.
    """
    image, parts = order.image, order.parts
    rootfs = convert(
        image,
        order.source,
        fd,
        rootfs_format=FORMATS[order.rootfs_format],
        epoch=order.epoch,
        limits=order.limits,
        progress=order.progress,
        aligns=order.aligns,
        cache=order.cache,
    )
    process = check_start(
        resolve_process(image.config.config, rootfs, order.name),
        image.platform,
        rootfs,
        bootable=parts.kernel is not None,
    )
    bundle = Bundle(
        image=ImageInfo(
            reference=order.name,
            manifest_digest=image.manifest.digest,
            config_digest=image.config.digest,
            platform=str(image.platform),
        ),
        config=image.config.config,
        process=process,
        rootfs=RootfsInfo(order.rootfs_format, rootfs.size, rootfs.digest, image.config.diff_ids),
        kernel=describe_kernel(parts.kernel) if parts.kernel else None,
        initramfs=parts.initramfs.digest if parts.initramfs else None,
        boot=order.boot,
    )
    loans = rootfs.flat.loans
    # The proof builds a tree of its own; two at once would take twice the memory.
    del rootfs
    if order.verify:
        order.prove(fd)
    # Of what is not published there is nothing to warn.
    for finding in process.findings:
        order.progress.warn(f"{order.name}: {finding.name}: {finding.text}")
    return bundle, loans


def lend(order: Order, loans: Iterable[Loan], path: Path) -> None:
    """Let later conversions take what they can from the finished root file system path."""
    identity = files.Identity.of(path, os.path.abspath(path))  # noqa: PTH100
    for loan in loans:
        order.cache.lend(loan, identity)


def store_bundle(store: Store, order: Order) -> StoredBundle:
    """Return the order's bundle from the store, made first if it is not there.

    Two processes that want the same bundle make it once.
    """
    key, parts = order.key, order.parts
    with files.locked(store.root / ".partial" / f"bundle-{key.partition(':')[2]}"):
        found = find_made(store, key)
        if found:
            if order.verify:
                _prove_again(found, order)
            return found
        with store.draft() as draft:
            bundle, loans = make_bundle(order, draft.fd)
            rootfs = store.adopt(draft, bundle.rootfs.digest, ROOTFS_TYPES[order.rootfs_format])
        lend(order, loans, store.blob_path(rootfs.digest))
        layers = [rootfs]
        if parts.kernel:
            layers.append(_store_file(store, parts.kernel.path, parts.kernel.digest, KERNEL_TYPE))
        if parts.initramfs:
            layers.append(
                _store_file(store, parts.initramfs.path, parts.initramfs.digest, INITRAMFS_TYPE)
            )
        image = order.image.manifest
        subject = oci.Descriptor(image.media_type, image.digest, len(image.raw))
        return enter_bundle(store, order.name, bundle, layers, subject, key)


def _prove_again(found: StoredBundle, order: Order) -> None:
    """Prove a bundle made by an earlier run; one that fails leaves the store."""
    with found.files.rootfs.open("rb") as file:
        try:
            order.prove(file.fileno())
        except VerificationError:
            found.files.rootfs.unlink()
            raise


def enter_bundle(
    store: Store,
    name: str,
    bundle: Bundle,
    layers: list[oci.Descriptor],
    subject: oci.Descriptor | None,
    key: str,
    envelope: bytes = b"",
) -> StoredBundle:
    """Enter a bundle whose layers (rootfs, kernel, initramfs) are in store, as name.

    subject is the manifest of the image it was made from; key tells it from others of that name;
    envelope is a signed statement about it.
    """
    document = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": store.put(bundle.to_json(), CONFIG_TYPE).document(),
        "layers": [layer.document() for layer in layers],
    }
    if subject:
        document["subject"] = subject.document()
    written = store.put(json.dumps(document, sort_keys=True).encode(), oci.OCI_MANIFEST)
    annotations = {KEY: key}
    if envelope:
        annotations[ENVELOPE] = store.put(envelope, ENVELOPE_TYPE).digest
    store.tag(replace(written, annotations=annotations, artifact_type=ARTIFACT_TYPE), name)
    signed = annotations.get(ENVELOPE, "")
    return StoredBundle(name, written.digest, _located(store, bundle), signed)


def find_made(store: Store, key: str) -> StoredBundle | None:
    """Return the bundle of key, if the store has it whole."""
    known = next((e for e in store.entries() if e.annotations.get(KEY) == key), None)
    return _open(store, known) if known else None


def _store_file(store: Store, path: Path, digest: str, media_type: str) -> oci.Descriptor:
    size = path.stat().st_size
    descriptor = oci.Descriptor(media_type, digest, size)
    if not store.has(descriptor):
        with store.draft() as draft:
            copy_file(path, draft.fd)
            store.adopt(draft, digest, media_type)
    return descriptor


def copy_file(path: Path, fd: int) -> None:
    """Copy the file path into the empty file fd, shared on disk where the file system can."""
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        files.copy_range(source.fileno(), 0, fd, 0, size)


def list_bundles(store: Store) -> list[StoredBundle]:
    """Return the bundles in the store, by name; entries with pieces missing are left out."""
    found = [_open(store, entry) for entry in store.entries() if KEY in entry.annotations]
    return sorted(filter(None, found), key=lambda bundle: bundle.name)


def find_bundle(store: Store, name: str) -> StoredBundle:
    """Return the bundle of that name or manifest digest, which may be cut as images shows it.

    NotFoundError says what to do, InputError if a cut digest fits several.
    """
    entries = [entry for entry in store.entries() if KEY in entry.annotations]
    fitting = [entry for entry in entries if name in (entry.digest, _name(entry))]
    if not fitting and name.startswith("sha256:") and len(name) >= DIGEST_SHOWN:
        fitting = [entry for entry in entries if entry.digest.startswith(name)]
        if len({entry.digest for entry in fitting}) > 1:
            raise InputError(f"{name} fits several bundles in {store.root}; write more of it")
    for entry in fitting:
        found = _open(store, entry)
        if found:
            return found
    raise NotFoundError(
        f"no bundle {name} in {store.root}; see 'hyperbuild images' or convert the image first"
    )


def _name(entry: oci.Descriptor) -> str:
    return entry.annotations.get("org.opencontainers.image.ref.name", "")


def _open(store: Store, entry: oci.Descriptor) -> StoredBundle | None:
    """Open a bundle of the store; None if a piece of it is gone."""
    raw = store.read(entry)
    if raw is None:
        return None
    manifest = oci.Manifest.read(raw, entry.digest)
    config = store.read(manifest.config)
    if config is None or not all(store.has(layer) for layer in manifest.layers):
        return None
    bundle = Bundle.from_json(config, f"bundle {entry.digest}")
    signed = entry.annotations.get(ENVELOPE, "")
    return StoredBundle(_name(entry), entry.digest, _located(store, bundle), signed)


def _located(store: Store, bundle: Bundle) -> BundleFiles:
    return BundleFiles(
        bundle=bundle,
        rootfs=store.blob_path(bundle.rootfs.digest),
        kernel=store.blob_path(bundle.kernel.digest) if bundle.kernel else None,
        initramfs=store.blob_path(bundle.initramfs) if bundle.initramfs else None,
    )
