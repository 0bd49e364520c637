"""The local content store: a standard OCI image layout that several processes may use at once.

    ROOT/oci-layout  ROOT/index.json  ROOT/blobs/ALGORITHM/HEX    what skopeo and oras read
    ROOT/.partial/ALGORITHM-HEX    a download under way, or cut: locked (flock) by its writer
    ROOT/.partial/.hyperbuild-*    a Draft that has no digest yet
    ROOT/.lease                    locked by all who use blobs, for as long as they do

A blob has its final name only when its size and digest are verified and its bytes are on disk.
Format: OCI image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import files, oci
from hyperbuild.converter.digests import check_digest
from hyperbuild.converter.errors import ContentError, UnavailableError
from hyperbuild.converter.limits import LARGEST_DOCUMENT
from hyperbuild.converter.partial import never, partial
from hyperbuild.converter.partial import sweep as sweep_partials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hyperbuild.converter.arrival import Arrival
    from hyperbuild.converter.progress import Task

REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_VERSION = "1.0.0"
#: What is read as a document: bundle.json holds a config twice over.
_DOCUMENT_LIMIT = 4 * LARGEST_DOCUMENT


class Store:
    """A content store in the directory root, which is made when something is first written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._partial = root / ".partial"
        self._lease = root / ".lease"
        #: A lease of a store that is still to be made.
        self._pending: ExitStack | None = None

    def blob_path(self, digest: str) -> Path:
        """Return where the blob of that digest is, or would be."""
        algorithm, _, encoded = check_digest(digest, "content store").partition(":")
        return self.root / "blobs" / algorithm / encoded

    def has(self, descriptor: oci.Descriptor) -> bool:
        """Tell whether the blob is here with the declared size."""
        try:
            return self.blob_path(descriptor.digest).stat().st_size == descriptor.size
        except OSError:
            return False

    def read(self, descriptor: oci.Descriptor) -> bytes | None:
        """Return a small document that is here, verified anew; None if absent or damaged."""
        if descriptor.size > _DOCUMENT_LIMIT or not self.has(descriptor):
            return None
        content = self.blob_path(descriptor.digest).read_bytes()
        return content if oci.matches(descriptor.digest, content) else None

    def document(self, digest: str) -> bytes | None:
        """Return the small document of digest, verified anew; None if absent or damaged."""
        try:
            size = self.blob_path(digest).stat().st_size
        except OSError:
            return None
        return self.read(oci.Descriptor("", digest, size))

    def ingest(
        self,
        descriptor: oci.Descriptor,
        fetch: Callable[[int], Iterable[bytes]],
        task: Task,
        cancelled: Callable[[], bool] = never,
        arrival: Arrival | None = None,
    ) -> Path:
        """Bring a blob in and return its path; fetch(offset) yields its bytes from offset on.

        arrival is told of bytes as they come, before the blob is verified.

        Of two processes one works and the other waits for it. What a killed run has left is hashed
        again and continued. VerificationError if digest or size don't fit, UnavailableError if the
        disk is full, CancelledError soon after cancelled() says so, and whatever fetch raises.
        """
        target = self.blob_path(descriptor.digest)
        self._make()
        place = self._partial / descriptor.digest.replace(":", "-")
        with partial(place, lambda: self.has(descriptor), cancelled) as file:
            if file is None:
                task.advance(descriptor.size)
                return target
            self.check_space(descriptor.size - os.fstat(file.fd).st_size)
            file.receive(descriptor, fetch, task, cancelled, arrival)
            file.publish(target)
        return target

    def put(self, content: bytes, media_type: str) -> oci.Descriptor:
        """Store a small document and return its descriptor."""
        descriptor = oci.Descriptor(media_type, oci.digest_of(content), len(content))
        if self.read(descriptor) is None:
            self._make()
            target = self.blob_path(descriptor.digest)
            with self.draft() as file:
                files.write_all(file.fd, content)
                file.publish(target)
        return descriptor

    @contextmanager
    def draft(self) -> Iterator[files.Draft]:
        """Open a temporary file that ``adopt`` can make a blob of; else it is removed."""
        self._make()
        with files.draft(self._partial) as file:
            yield file

    def workspace(self) -> Path:
        """Return a directory on the store's disk for nameless temporary files, made if need be."""
        self._make()
        return self._partial

    def adopt(self, file: files.Draft, digest: str, media_type: str) -> oci.Descriptor:
        """Publish a draft of this store as the blob of digest, which its writer has computed."""
        size = os.fstat(file.fd).st_size
        file.publish(self.blob_path(digest))
        return oci.Descriptor(media_type, digest, size)

    def discard(self, digest: str) -> None:
        """Remove the blob of digest: found damaged, or not wanted any more."""
        with suppress(FileNotFoundError):
            self.blob_path(digest).unlink()

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keep every blob where it is for the time being, those that no entry names too."""
        with ExitStack() as stack:
            if self.root.is_dir():
                stack.enter_context(files.shared(self._lease))
            else:
                # There is nothing to be kept before somebody makes it.
                self._pending = stack
            try:
                yield
            finally:
                self._pending = None

    def alone(self) -> AbstractContextManager[None]:
        """Wait until nobody has a lease, and let nobody have one for the time being."""
        return files.locked(self._lease)

    def is_idle(self) -> bool:
        """Tell whether nobody has a lease now."""
        return not files.is_locked(self._lease)

    def blobs(self) -> Iterator[tuple[str, Path]]:
        """Yield the digest and the path of every blob that is here, sound or not."""
        for algorithm in sorted(_listed(self.root / "blobs")):
            for path in sorted(_listed(algorithm)):
                with suppress(ContentError):
                    yield check_digest(f"{algorithm.name}:{path.name}", str(path)), path

    def entries(self) -> tuple[oci.Descriptor, ...]:
        """Return the descriptors of index.json; their name is the annotation REF_NAME."""
        where = f"{self.root / 'index.json'}"
        return tuple(oci.Descriptor.read(entry, where) for entry in self._index()["manifests"])

    def tag(self, descriptor: oci.Descriptor, name: str) -> None:
        """Enter descriptor in index.json as name, in place of what had that name."""
        named = descriptor.replace(annotations={**descriptor.annotations, REF_NAME: name})
        self._change_index(lambda entries: [*_without(entries, name), named.document()])

    def untag(self, name: str) -> bool:
        """Take the entry called name out of index.json; tell whether there was one."""
        found = any(entry.annotations.get(REF_NAME) == name for entry in self.entries())
        if found:
            self._change_index(lambda entries: _without(entries, name))
        return found

    def forget(self, descriptor: oci.Descriptor) -> None:
        """Take out of index.json the entries of descriptor's digest that have its name."""
        name = descriptor.annotations.get(REF_NAME)
        self._change_index(
            lambda entries: [
                entry
                for entry in entries
                if entry["digest"] != descriptor.digest
                or (entry.get("annotations") or {}).get(REF_NAME) != name
            ]
        )

    def write_list(self, descriptors: Iterable[oci.Descriptor]) -> None:
        """Write index.json anew, whatever there is now; of one name the last counts."""
        named = {each.annotations.get(REF_NAME, ""): each.document() for each in descriptors}
        with files.locked(self.root / ".lock"):
            self._write(self.root / "index.json", _empty_index() | {"manifests": [*named.values()]})

    def unfinished(self) -> list[Path]:
        """Return what is being received or written, or was when its writer ended."""
        return sorted(_listed(self._partial))

    def sweep(self, before: float) -> None:
        """Remove drafts whose writers are gone, and cut downloads last written before a time.

        The time is in seconds since the epoch: a recent cut download is worth resuming.
        """
        if self._partial.is_dir():
            files.sweep(self._partial)
        sweep_partials(self._partial, before)

    def _make(self) -> None:
        try:
            for directory in (self._partial, self.root / "blobs" / "sha256"):
                directory.mkdir(parents=True, exist_ok=True)
            pending, self._pending = self._pending, None
            if pending:
                pending.enter_context(files.shared(self._lease))
            marker = self.root / "oci-layout"
            if not marker.exists():
                self._write(marker, {"imageLayoutVersion": LAYOUT_VERSION})
            index = self.root / "index.json"
            if not index.exists():
                with files.locked(self.root / ".lock"):
                    if not index.exists():
                        self._write(index, self._index())
        except OSError as error:
            raise UnavailableError(
                f"cannot write the store {self.root}: {error.strerror}; "
                "make it writable or choose another directory"
            ) from error

    def _index(self) -> dict[str, Any]:
        path = self.root / "index.json"
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return _empty_index()
        try:
            oci.Index.read(raw, str(path))
        except ContentError as error:
            raise ContentError(f"{error}; hyperbuild fsck --repair mends the store") from error
        index: dict[str, Any] = json.loads(raw)
        return index

    def _change_index(self, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        # Fields that other tools have written stay, so entries are changed as plain JSON.
        self._make()
        with files.locked(self.root / ".lock"):
            index = self._index()
            index["manifests"] = change(index["manifests"])
            self._write(self.root / "index.json", index)

    def _write(self, target: Path, document: object) -> None:
        # Its draft lies where ``sweep`` looks.
        files.write_atomically(target, _json(document), self._partial)

    def check_space(self, wanted: int) -> None:
        """Raise UnavailableError unless the disk has wanted bytes free."""
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        if wanted > free:
            raise UnavailableError(
                f"{self.root} has {free >> 20} MiB free and {(wanted >> 20) + 1} MiB are needed; "
                "free space or remove images from the store"
            )


def _empty_index() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": []}


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _without(entries: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if (entry.get("annotations") or {}).get(REF_NAME) != name]


def _json(document: object) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()
