"""An image joined with a kernel and an initramfs: a bundle, made into the content store."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.buildinfo import MAKER_VERSION, BuildInfo, describe_build
from hyperbuild.builder.parts import describe_kernel
from hyperbuild.builder.preflight import check_start
from hyperbuild.builder.process import resolve_process
from hyperbuild.builder.stored import (
    INITRAMFS_TYPE,
    KERNEL_TYPE,
    ROOTFS_TYPES,
    StoredBundle,
    enter_bundle,
    find_made,
)
from hyperbuild.converter import files, oci
from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.errors import VerificationError
from hyperbuild.converter.reuse import BlobChecks
from hyperbuild.launcher.bundle import Bundle, HashTreeInfo, ImageInfo, RootfsInfo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hyperbuild.converter.layer_cache import LayerCache, Loan
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.store import Store
    from hyperbuild.converter.verity import HashTree
    from hyperbuild.initramfs.build import Initramfs
    from hyperbuild.kernel.build import Kernel
    from hyperbuild.kernel.kconfig import Fragment
    from hyperbuild.launcher.defaults import BootDefaults


@dataclass(frozen=True, slots=True)
class Parts:
    """What is joined with an image's root file system; None in a bundle without a kernel.

    ``fragments`` are what the kernel has beyond its profile.
    """

    kernel: Kernel | None
    initramfs: Initramfs | None
    fragments: tuple[Fragment, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """One bundle to be made: an image and its source, what it is joined with, and how.

    ``rootfs_format`` is a key of FORMATS; ``epoch``, ``aligns``, ``with_verity`` and ``cache`` are
    as for ``convert``; ``verify`` has the result proved (VerificationError), ``boot`` is what the
    bundle says of how to boot it.
    """

    image: SourceImage
    source: ImageSource
    parts: Parts
    rootfs_format: str
    epoch: int | None
    limits: Limits
    aligns: bool
    with_verity: bool
    verify: bool
    boot: BootDefaults | None
    cache: LayerCache
    progress: Progress

    @property
    def name(self) -> str:
        """The image's reference, which is the bundle's name."""
        return str(self.image.reference)

    @property
    def build(self) -> BuildInfo:
        """What the bundle's bytes depend on beyond its image, for who makes it again."""
        kernel, initramfs = self.parts.kernel, self.parts.initramfs
        return BuildInfo(
            MAKER_VERSION,
            self.epoch,
            self.aligns,
            describe_build(kernel, self.parts.fragments) if kernel else None,
            initramfs.source if initramfs else None,
        )

    @property
    def key(self) -> str:
        """The digest of all that the bundle's bytes depend on."""
        image, parts = self.image, self.parts
        identity = (
            self.build.document(),
            self.rootfs_format,
            self.name,
            image.manifest.digest,
            image.config.digest,
            parts.kernel and parts.kernel.digest,
            parts.initramfs and parts.initramfs.digest,
            *([self.boot.document()] if self.boot else []),
            *(["verity"] if self.with_verity else []),
        )
        return oci.digest_of(json.dumps(identity).encode())

    def check_again(self, fd: int, verity: HashTreeInfo | None) -> None:
        """Verify what an earlier run has made in fd, and that its image is still sound.

        verity is what its bundle says of its hash tree.

        VerificationError, or any error of the source.
        """
        with BlobChecks(self.image, self.source, self.progress, self.cache) as checks:
            for layer in self.image.layers:
                checks.check(layer)
            if self.verify:
                self.prove(fd, verity)

    def prove(self, fd: int, verity: HashTreeInfo | None) -> None:
        """Compare the root file system in fd with the image's layers, and its hash tree with it.

        VerificationError says where they differ.
        """
        from hyperbuild.converter.proof import prove

        prove(
            self.image,
            self.source,
            fd,
            epoch=self.epoch,
            limits=self.limits,
            progress=self.progress,
        )
        if verity:
            from hyperbuild.converter.verify_verity import verify_hash_tree

            verify_hash_tree(
                fd,
                root_hash=bytes.fromhex(verity.root_hash),
                salt=bytes.fromhex(verity.salt),
                data_size=verity.hash_offset,
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
        with_verity=order.with_verity,
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
        rootfs=RootfsInfo(
            order.rootfs_format,
            rootfs.size,
            rootfs.digest,
            image.config.diff_ids,
            _hash_tree(rootfs.verity) if rootfs.verity else None,
        ),
        kernel=describe_kernel(parts.kernel) if parts.kernel else None,
        initramfs=parts.initramfs.digest if parts.initramfs else None,
        boot=order.boot,
        build=order.build.document(),
    )
    loans = rootfs.flat.loans
    # The proof builds a tree of its own; two at once would take twice the memory.
    del rootfs
    if order.verify:
        order.prove(fd, bundle.rootfs.verity)
    # Of what is not published there is nothing to warn.
    for finding in process.findings:
        order.progress.warn(f"{order.name}: {finding.name}: {finding.text}")
    return bundle, loans


def _hash_tree(tree: HashTree) -> HashTreeInfo:
    return HashTreeInfo(tree.root_hash.hex(), tree.salt.hex(), tree.data_size)


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
    lock = store.root / ".partial" / f"bundle-{key.partition(':')[2]}"
    with files.locked(lock, passing=True):
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
        return enter_bundle(store, order.name, bundle.to_json(), layers, subject, key)


def _prove_again(found: StoredBundle, order: Order) -> None:
    """Prove a bundle made by an earlier run; one that fails leaves the store."""
    with found.files.rootfs.open("rb") as file:
        try:
            order.prove(file.fileno(), found.files.bundle.rootfs.verity)
        except VerificationError:
            found.files.rootfs.unlink()
            raise


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
