"""Images in files: the OCI image layout as a directory, and what all local sources share.

Format: OCI image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Protocol

from hyperbuild.converter import files, oci
from hyperbuild.converter.errors import (
    ContentError,
    InputError,
    NotFoundError,
    UnavailableError,
    VerificationError,
    printable,
)
from hyperbuild.converter.limits import too_long
from hyperbuild.converter.resolve import SourceImage, is_attestation, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from _typeshed import WriteableBuffer

    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference

LAYOUT_VERSION = "1.0.0"
#: Annotations that name an image in index.json: the specification's, and containerd's full one.
NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_NAMES_SHOWN = 20


class Range(io.RawIOBase):
    """size bytes of the open file fd from offset on, read by position: fd may be shared.

    With ``owned``, closing it closes fd.
    """

    def __init__(self, fd: int, offset: int, size: int, *, owned: bool) -> None:
        self._fd = fd
        self._start = offset
        self._size = size
        self._position = 0
        self._owned = owned

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from any place."""
        return True

    def identity(self) -> files.Identity:
        """Return what tells the file from itself after a change, called by the range's offset."""
        return files.Identity.of(self._fd, str(self._start))

    def tell(self) -> int:
        """Return the position in bytes from the start of the range."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to offset bytes from the start, the position or the end of the range."""
        base = (0, self._position, self._size)[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill buffer with the bytes that come next; return how many there were."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        if not view:
            return 0
        try:
            count = os.preadv(self._fd, [view], self._start + self._position)
        except OSError as error:
            raise UnavailableError(f"reading a layer failed: {error.strerror}") from error
        self._position += count
        return count

    def close(self) -> None:
        """Close fd if it is this object's own."""
        if not self.closed and self._owned:
            os.close(self._fd)
        super().close()


class Blobs(Protocol):
    """Where the blobs of a local image are."""

    def open(self, descriptor: oci.Descriptor) -> Range:
        """Open a blob; NotFoundError if it is missing. Its bytes are not verified."""

    def close(self) -> None:
        """Let go of files and temporary space."""


class DirectoryBlobs:
    """The blobs of a layout in the directory root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, descriptor: oci.Descriptor) -> Range:
        """Open a blob file, which must be a regular one."""
        algorithm, _, encoded = descriptor.digest.partition(":")
        path = self._root / "blobs" / algorithm / encoded
        if not path.exists():
            raise NotFoundError(f"{path} is missing; copy the image again")
        fd = files.open_regular(path)
        return Range(fd, 0, os.fstat(fd).st_size, owned=True)

    def close(self) -> None:
        """Do nothing: each blob is closed on its own."""


class LocalSource:
    """An image among those offered by files; the layers are read where they are."""

    def __init__(
        self,
        reference: Reference,
        offered: Sequence[oci.Descriptor],
        blobs: Blobs,
        *,
        is_verified: bool = False,
        limit: int = oci.DOCUMENT_LIMIT,
    ) -> None:
        self._limit = limit
        self.is_verified = is_verified
        self._reference = reference
        self._offered = offered
        self._blobs = blobs

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:  # noqa: ARG002
        """Return the image for platform (resolve.resolve)."""
        return resolve(self._reference, self._offered, platform, self._document, self._limit)

    def prefetch(self, layers: Iterable[oci.Descriptor], progress: Progress) -> None:
        """Do nothing: local layers need no fetching."""

    def is_near(self, layer: oci.Descriptor) -> bool:  # noqa: ARG002
        """Tell that it is."""
        return True

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:  # noqa: ARG002
        """Open a layer; whoever reads it verifies its digest. VerificationError on its size."""
        file = self._blobs.open(layer)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size != layer.size:
            file.close()
            raise VerificationError(
                f"{self._reference}: layer {layer.digest} has {size} bytes, {layer.size} are "
                "declared; copy the image again"
            )
        return file

    def close(self) -> None:
        """Let go of files and temporary space."""
        self._blobs.close()

    def _document(self, descriptor: oci.Descriptor) -> bytes:
        with self._blobs.open(descriptor) as file:
            return read_whole(file, self._limit, f"{self._reference}: {descriptor.digest}")


def open_layout(reference: Reference, limit: int) -> LocalSource:
    """Open ``oci:DIR[:TAG]``, its documents of at most limit bytes (LimitError)."""
    root = reference.path
    assert root is not None  # noqa: S101 - a path transport
    if not root.is_dir():
        kind = "is not a directory" if root.exists() else "does not exist"
        raise InputError(f"{root} {kind}; name a directory that holds an OCI image layout")
    check_version(_file(root, "oci-layout", limit), root)
    index = oci.Index.read(_file(root, "index.json", limit), f"{root / 'index.json'}")
    blobs = DirectoryBlobs(root)
    return LocalSource(reference, pick(index.manifests, reference), blobs, limit=limit)


def check_version(raw: bytes, where: object) -> None:
    """Check the content of the file oci-layout."""
    try:
        version = json.loads(raw)["imageLayoutVersion"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ContentError(f"{where}: oci-layout is damaged; copy the image again") from error
    if version != LAYOUT_VERSION:
        raise ContentError(
            f"{where}: image layout version {printable(str(version))!r}, {LAYOUT_VERSION} is known"
        )


def pick(entries: Sequence[oci.Descriptor], reference: Reference) -> list[oci.Descriptor]:
    """Return the entries of index.json that are the image asked for: one, or one per platform.

    A tag must equal a name (or be the digest); without one there must be a single image.
    """
    images: dict[str, list[oci.Descriptor]] = {}
    matching = []
    for entry in entries:
        if is_attestation(entry):
            continue
        names = [entry.annotations[key] for key in NAMES if key in entry.annotations]
        if reference.tag in [*names, entry.digest]:
            matching.append(entry)
        # Entries without a name are one image only if each is for a platform of its own.
        key = names[0] if names else "" if entry.platform else entry.digest
        images.setdefault(key, []).append(entry)
    if reference.tag:
        if not matching:
            raise NotFoundError(f"{reference} does not exist; {listing(images, reference)}")
        return matching
    if len(images) != 1:
        raise InputError(f"{reference}: {listing(images, reference)}")
    return next(iter(images.values()))


def listing(names: Iterable[str], reference: Reference) -> str:
    """Return the part of an error that says which images are there and how to name one."""
    shown = [printable(name) or "one without a name" for name in names]
    if not shown:
        return f"{reference.path} holds no image; name another"
    more = ", ..." if len(shown) > _NAMES_SHOWN else ""
    return (
        f"{reference.path} holds {', '.join(shown[:_NAMES_SHOWN])}{more}; "
        f"say {reference.transport}:{reference.path}:NAME"
    )


def read_whole(file: io.RawIOBase, limit: int, where: str) -> bytes:
    """Return all of file, of at most limit bytes; else LimitError."""
    content = b""
    while piece := file.read(limit + 1 - len(content)):
        content += piece
        if len(content) > limit:
            raise too_long(where, limit)
    return content


def _file(root: Path, name: str, limit: int) -> bytes:
    path = root / name
    if not path.exists():
        raise InputError(f"{root} is no OCI image layout: {name} is missing; name another")
    with Range(files.open_regular(path), 0, path.stat().st_size, owned=True) as file:
        return read_whole(file, limit, str(path))
