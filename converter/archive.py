"""Images in one tar file: ``oci-archive:`` and ``docker-archive:``, read in place.

A blob is a range of the archive, so nothing is unpacked; an archive that is compressed as a whole
is first spooled, uncompressed, into the store's work directory, under no name.
Formats: image-layout.md in a tar; Docker's ``docker save`` (its image specification v1.2), whose
newer form has an OCI layout beside manifest.json.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import files, oci
from hyperbuild.converter.errors import (
    ContentError,
    InputError,
    NotFoundError,
    printable,
)
from hyperbuild.converter.layout import LocalSource, Range, check_version, listing, pick, read_whole
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.spool import GZIP, ZSTD, uncompressed

if TYPE_CHECKING:
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.store import Store

_MEMBERS_LIMIT = 100_000
#: Most bytes of members' names and links; an archive of images needs a hundredth of it.
_NAMES_LIMIT = 16 << 20
_LINKS_LIMIT = 16
_PIECE = 1 << 20
#: Linux refuses to read where the end would not fit its off_t.
_OFFSET_LIMIT = (1 << 63) - 1 - _PIECE


@dataclass(frozen=True, slots=True)
class _Member:
    """What is kept of a tar member: a file's place, or where a link leads."""

    offset: int
    size: int
    is_file: bool
    is_symlink: bool
    link: str | None

    @classmethod
    def of(cls, info: tarfile.TarInfo) -> _Member:
        return cls(
            offset=info.offset_data,
            size=info.size,
            is_file=info.isreg() and not info.issparse(),
            is_symlink=info.issym(),
            link=info.linkname if info.issym() or info.islnk() else None,
        )


class Archive:
    """The members of a tar file by name; the file itself is open as ``fd``.

    Documents in it have at most ``limit`` bytes.
    """

    def __init__(self, fd: int, where: str, limit: int) -> None:
        self.fd = fd
        self.limit = limit
        self.where = where
        self._members: dict[str, _Member] = {}
        self._scan()

    def open(self, name: str) -> Range:
        """Open the member called name, through links; NotFoundError if there is none."""
        member = self._find(name)
        if member is None:
            raise NotFoundError(
                f"{self.where}: {printable(name)} is missing in the archive; save the image again"
            )
        return Range(self.fd, member.offset, member.size, owned=False)

    def has(self, name: str) -> bool:
        """Tell whether a regular member called name is there."""
        return self._find(name) is not None

    def document(self, name: str) -> bytes:
        """Return the small member called name."""
        with self.open(name) as file:
            return read_whole(file, self.limit, f"{self.where}: {printable(name)}")

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def _scan(self) -> None:
        file = _Headers(self.fd)
        held = 0
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for count, info in enumerate(tar):
                    held += len(info.name) + len(info.linkname)
                    if count == _MEMBERS_LIMIT or held > _NAMES_LIMIT:
                        raise ContentError(
                            f"{self.where} holds more members than any image; save it again"
                        )
                    self._members[posixpath.normpath(info.name)] = _Member.of(info)
                    # tarfile keeps all it has met, extended headers of any size with it.
                    tar.members.clear()  # type: ignore[attr-defined]
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise ContentError(
                f"{self.where} is no tar archive, or a damaged one; save the image again"
            ) from error

    def _find(self, name: str) -> _Member | None:
        name = posixpath.normpath(name)
        size = os.fstat(self.fd).st_size
        for _ in range(_LINKS_LIMIT):
            member = self._members.get(name)
            if member is None:
                return None
            if member.is_file:
                if member.size < 0 or member.offset + member.size > size:
                    raise ContentError(
                        f"{self.where} ends inside {printable(name)}; save the image again"
                    )
                return member
            if member.link is None:
                return None
            base = posixpath.dirname(name) if member.is_symlink else ""
            name = posixpath.normpath(posixpath.join(base, member.link))
        return None


class _Headers(io.RawIOBase):
    """What tarfile may read while it looks for members: little at once, whatever is claimed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or not 0 <= offset <= _OFFSET_LIMIT:
            raise tarfile.ReadError("a seek that no archive needs")
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError("a header larger than any name")
        content = os.pread(self._fd, size, self._position)
        self._position += len(content)
        return content


class LayoutArchiveBlobs:
    """The blobs of a layout in a tar file."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def open(self, descriptor: oci.Descriptor) -> Range:
        """Open a blob by its digest."""
        algorithm, _, encoded = descriptor.digest.partition(":")
        return self._archive.open(f"blobs/{algorithm}/{encoded}")

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


@dataclass(frozen=True, slots=True)
class SavedBlobs:
    """The blobs of a ``docker save`` archive: documents made here, and members by digest."""

    archive: Archive
    documents: dict[str, bytes]
    members: dict[str, str]

    def open(self, descriptor: oci.Descriptor) -> Range:
        """Open a layer, or a document that was made for an image."""
        document = self.documents.get(descriptor.digest)
        if document is None:
            return self.archive.open(self.members[descriptor.digest])
        fd = os.memfd_create("document", os.MFD_CLOEXEC)
        files.write_all(fd, document)
        return Range(fd, 0, len(document), owned=True)

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


def open_archive(reference: Reference, store: Store, limits: Limits) -> LocalSource:
    """Open ``oci-archive:FILE[:TAG]`` or ``docker-archive:FILE[:REF]``.

    LimitError if it is compressed as a whole and unpacks to more than limits allow.
    """
    path = reference.path
    assert path is not None  # noqa: S101 - a path transport
    fd = uncompressed(files.open_regular(path), path, store, limits)
    try:
        archive = Archive(fd, str(path), limits.document)
        return (_layout if reference.transport == "oci-archive" else saved)(reference, archive)
    except BaseException:
        os.close(fd)
        raise


def _layout(reference: Reference, archive: Archive) -> LocalSource:
    if not archive.has("index.json"):
        other = "; say docker-archive:" if archive.has("manifest.json") else "; name another"
        raise InputError(f"{archive.where} holds no OCI image layout{other}")
    check_version(archive.document("oci-layout"), archive.where)
    index = oci.Index.read(archive.document("index.json"), f"{archive.where}: index.json")
    offered, blobs = pick(index.manifests, reference), LayoutArchiveBlobs(archive)
    return LocalSource(reference, offered, blobs, limit=archive.limit)


def saved(reference: Reference, archive: Archive) -> LocalSource:
    """Open the image in a ``docker save`` archive that reference asks for."""
    if not archive.has("manifest.json"):
        other = "; say oci-archive:" if archive.has("index.json") else "; name another"
        raise InputError(f"{archive.where} was not made by docker save{other}")
    where = f"{archive.where}: manifest.json"
    entry = _pick_saved(_saved_entries(archive.document("manifest.json"), where), reference)
    blobs = SavedBlobs(archive, {}, {})
    manifest = _manifest_of(entry, blobs, where)
    return LocalSource(reference, [manifest], blobs, limit=archive.limit)


def _saved_entries(raw: bytes, where: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{where}: not valid JSON; save the image again") from error
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise ContentError(f"{where}: not a list of images; save the image again")
    return entries


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
        return False
    texts = [entry.get("Layers") or [], entry.get("RepoTags") or []]
    return all(isinstance(text, list) and all(isinstance(t, str) for t in text) for text in texts)


def _pick_saved(entries: list[dict[str, Any]], reference: Reference) -> dict[str, Any]:
    names = [name for entry in entries for name in entry.get("RepoTags") or [entry["Config"]]]
    if not reference.tag:
        if len(entries) != 1:
            raise InputError(f"{reference}: {listing(names, reference)}")
        return entries[0]
    wanted = _full_name(reference.tag)
    for entry in entries:
        if wanted in [_full_name(name) for name in entry.get("RepoTags") or []]:
            return entry
    raise NotFoundError(f"{reference} does not exist; {listing(names, reference)}")


def _full_name(name: str) -> str:
    # docker save writes the short form of a name, other tools the full one.
    with suppress(InputError):
        return str(parse_reference(f"docker://{name}"))
    return name


def _manifest_of(entry: dict[str, Any], blobs: SavedBlobs, where: str) -> oci.Descriptor:
    """Make the manifest that the archive's image would have in a registry."""
    config = blobs.archive.document(entry["Config"])
    names = entry.get("Layers") or []
    diff_ids = oci.ImageConfig.read(config, f"{where}: {printable(entry['Config'])}").diff_ids
    if len(names) != len(diff_ids):
        raise ContentError(
            f"{where}: {len(names)} layers but {len(diff_ids)} diff_ids in its config; "
            "save the image again"
        )
    layers = []
    for name, diff_id in zip(names, diff_ids, strict=True):
        layer = _layer(blobs.archive, name, diff_id)
        blobs.members[layer.digest] = name
        layers.append(layer.document())
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "config": _keep(blobs, config, oci.OCI_CONFIG).document(),
        "layers": layers,
    }
    return _keep(blobs, json.dumps(manifest).encode(), oci.OCI_MANIFEST)


def _keep(blobs: SavedBlobs, content: bytes, media_type: str) -> oci.Descriptor:
    descriptor = oci.Descriptor(media_type, oci.digest_of(content), len(content))
    blobs.documents[descriptor.digest] = content
    return descriptor


def _layer(archive: Archive, name: str, diff_id: oci.DiffID) -> oci.Descriptor:
    """Describe a layer; a plain one has its DiffID as digest, which its reader verifies."""
    media_type = "application/vnd.oci.image.layer.v1.tar"
    with archive.open(name) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        magic = file.read(4) or b""
        if magic.startswith(GZIP):
            return oci.Descriptor(media_type + "+gzip", _digest(file), size)
        if magic == ZSTD:
            return oci.Descriptor(media_type + "+zstd", _digest(file), size)
    return oci.Descriptor(media_type, diff_id, size)


def _digest(file: Range) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return "sha256:" + digest.hexdigest()
