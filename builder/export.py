"""A bundle as plain files in a directory, replaced whole or left as it was."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.bundling import copy_file, lend, make_bundle
from hyperbuild.converter import files, oci
from hyperbuild.converter.errors import InputError, UnavailableError
from hyperbuild.converter.files import Identity
from hyperbuild.launcher.bundle import ROOTFS_FORMATS
from hyperbuild.launcher.located import (
    BUNDLE_NAME,
    INITRAMFS_NAME,
    KERNEL_NAME,
    open_directory,
    rootfs_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.builder.bundling import Order
    from hyperbuild.converter.sealed import Sealed
    from hyperbuild.launcher.bundle import Bundle

#: Every name that an export may hold; bundle.json is first to go and last to come.
_NAMES = (BUNDLE_NAME, *map(rootfs_name, ROOTFS_FORMATS), KERNEL_NAME, INITRAMFS_NAME)


def export_bundle(directory: Path, order: Order, receipts: Sealed) -> Bundle:
    """Make the order's bundle in directory, which is missing, empty or an export.

    While bundle.json is there, the files beside it are the ones it names. An export of the same
    order that nobody has touched, by its receipt, is left as it is. InputError if the directory
    holds anything else.
    """
    with _prepared(directory):
        receipt = oci.digest_of(f"{order.key} {directory.absolute()}".encode()).partition(":")[2]
        bundle = _untouched(directory, receipts.read(receipt))
        if bundle:
            with (directory / rootfs_name(order.rootfs_format)).open("rb") as rootfs:
                order.check_again(rootfs.fileno(), bundle.rootfs.verity)
        else:
            bundle = _write(directory, order)
            written = [Identity.of(path, str(path)) for path in _content(directory)]
            for identity in written:
                identity.settle()
            receipts.write(receipt, {"files": [identity.as_dict() for identity in written]})
    return bundle


def check_directory(directory: Path) -> None:
    """Raise what ``export_bundle`` would of directory, and leave all as it is."""
    if directory.exists():
        _check_writable(directory)
        _check_content(directory)
        return
    above = next(parent for parent in directory.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UnavailableError(
            f"cannot make the output directory {directory}: {above} is no directory that can be "
            "written; choose another"
        )


def _untouched(directory: Path, receipt: tuple[dict[str, Any], object] | None) -> Bundle | None:
    """Return the bundle in directory if its files are those of the receipt, as they were."""
    if receipt is None:
        return None
    known = [Identity(**fields) for fields in receipt[0]["files"]]
    if known != [Identity.of(path, str(path)) for path in _content(directory)]:
        return None
    return open_directory(directory).bundle


def _content(directory: Path) -> list[Path]:
    return sorted(path for path in directory.absolute().iterdir() if path.name in _NAMES)


def _write(directory: Path, order: Order) -> Bundle:
    parts = order.parts
    with ExitStack() as stack:
        drafts = {}
        rootfs = stack.enter_context(files.draft(directory))
        bundle, loans = make_bundle(order, rootfs.fd)
        drafts[rootfs_name(order.rootfs_format)] = rootfs
        if parts.kernel:
            drafts[KERNEL_NAME] = stack.enter_context(files.draft(directory))
            copy_file(parts.kernel.path, drafts[KERNEL_NAME].fd)
        if parts.initramfs:
            drafts[INITRAMFS_NAME] = stack.enter_context(files.draft(directory))
            copy_file(parts.initramfs.path, drafts[INITRAMFS_NAME].fd)
        document = stack.enter_context(files.draft(directory))
        files.write_all(document.fd, bundle.to_json())
        for draft in drafts.values():
            os.fsync(draft.fd)
        try:
            _remove(directory, set(_NAMES) - set(drafts))
            for name, draft in drafts.items():
                draft.publish(directory / name)
            document.publish(directory / BUNDLE_NAME)
        except BaseException:
            # Neither the earlier result nor the new one is whole any more.
            _remove(directory, set(_NAMES))
            raise
        lend(order, loans, directory / rootfs_name(order.rootfs_format))
    return bundle


def _remove(directory: Path, names: set[str]) -> None:
    for name in _NAMES:
        if name in names:
            (directory / name).unlink(missing_ok=True)


@contextmanager
def _prepared(directory: Path) -> Iterator[None]:
    """Make directory if it is missing, and take it back if nothing came of it."""
    with ExitStack() as stack:
        while True:
            made = _make(directory)
            # The run that was waited for may have taken the directory back.
            with suppress(FileNotFoundError):
                stack.enter_context(files.locked(directory))
                break
        files.sweep(directory)
        _check_content(directory)
        try:
            yield
        except BaseException:
            if made:
                with suppress(OSError):
                    directory.rmdir()
            raise


def _make(directory: Path) -> bool:
    """Make directory; tell whether it was missing."""
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot make the output directory {directory}: {error.strerror}; choose another"
        ) from error
    _check_writable(directory)
    return made


def _check_writable(directory: Path) -> None:
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise UnavailableError(f"cannot write into {directory}; choose another output directory")


def _check_content(directory: Path) -> None:
    foreign = sorted(
        path.name
        for path in directory.iterdir()
        # A directory by one of our names could not be replaced once the rest is.
        if (path.name not in _NAMES or path.is_dir())
        and not path.name.startswith(files.TEMPORARY_PREFIX)
    )
    if foreign:
        raise InputError(
            f"the output directory {directory} holds other things ({foreign[0]}); "
            "choose an empty or new one"
        )
