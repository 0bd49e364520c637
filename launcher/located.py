"""Where a bundle's pieces lie: the directory of plain files that ``hyperbuild convert -o`` makes.

DIR/bundle.json  DIR/rootfs.erofs (or rootfs.ext4)  DIR/vmlinux  DIR/initramfs.cpio
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, VerificationError
from hyperbuild.converter.files import open_regular
from hyperbuild.converter.records import Record
from hyperbuild.launcher.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path

BUNDLE_NAME = "bundle.json"
KERNEL_NAME = "vmlinux"
INITRAMFS_NAME = "initramfs.cpio"

#: Largest bundle.json that is read, in bytes: a 4 MiB image config, escaped, and the rest.
_DOCUMENT_LIMIT = 32 << 20


class BundleFiles(Record):
    """A bundle and the files it names; a bundle made without a kernel has neither of the two.

    ``document`` is bundle.json as it lies there: what another version has written is not written
    anew, so that its digest stays.
    """

    bundle: Bundle
    rootfs: Path
    kernel: Path | None
    initramfs: Path | None
    document: bytes


def rootfs_name(file_format: str) -> str:
    """Return the name of the root file system's file, by its format ("erofs" or "ext4")."""
    return f"rootfs.{file_format}"


def open_directory(directory: Path, *, verify: bool = False) -> BundleFiles:
    """Find the bundle exported into directory.

    The root file system's size is checked always, every digest with verify. InputError: a piece is
    missing; ContentError: bundle.json is not one; VerificationError: a piece is another than named.
    """
    path = directory / BUNDLE_NAME
    if not path.exists():
        raise InputError(
            f"no bundle in {directory}: {BUNDLE_NAME} is missing; "
            f"make one with hyperbuild convert IMAGE -o {directory}"
        )
    document = _read_document(path)
    bundle = Bundle.from_json(document, str(path))
    files = BundleFiles(
        bundle=bundle,
        rootfs=_piece(directory / rootfs_name(bundle.rootfs.format)),
        kernel=_piece(directory / KERNEL_NAME) if bundle.kernel else None,
        initramfs=_piece(directory / INITRAMFS_NAME) if bundle.initramfs else None,
        document=document,
    )
    _check_size(files)
    if verify:
        check_digests(files)
    return files


def _read_document(path: Path) -> bytes:
    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read(_DOCUMENT_LIMIT + 1)
    if len(raw) > _DOCUMENT_LIMIT:
        raise InputError(f"{path} is larger than {_DOCUMENT_LIMIT >> 20} MiB: not a bundle")
    return raw


def _piece(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"{path} is missing, though {BUNDLE_NAME} names it; "
            f"make the bundle again with hyperbuild convert IMAGE -o {path.parent}"
        )
    return path


def _check_size(files: BundleFiles) -> None:
    size = files.rootfs.stat().st_size
    if size != files.bundle.rootfs.size:
        raise VerificationError(
            f"{files.rootfs} has {size} bytes where {BUNDLE_NAME} says "
            f"{files.bundle.rootfs.size}; make the bundle again with hyperbuild convert"
        )


def check_digests(files: BundleFiles) -> None:
    """Raise VerificationError for a file that is another than its bundle names."""
    bundle = files.bundle
    named = (
        (files.rootfs, bundle.rootfs.digest),
        (files.kernel, bundle.kernel and bundle.kernel.digest),
        (files.initramfs, bundle.initramfs),
    )
    for path, digest in named:
        if path and digest and (seen := _digest(path, digest.partition(":")[0])) != digest:
            raise VerificationError(
                f"{path} is {seen} where {BUNDLE_NAME} says {digest}; "
                "make the bundle again with hyperbuild convert"
            )


def _digest(path: Path, algorithm: str) -> str:
    import hashlib

    with os.fdopen(open_regular(path), "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
