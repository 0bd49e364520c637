"""Bundles in one file, for places without a network: ``hyperbuild export`` and ``import``.

The file is an OCI image layout in a tar (image-spec v1.1, image-layout.md), compressed by zstd if
its name ends in .zst: ``skopeo`` reads it as oci-archive. Of what is read from one nothing is
believed but the digests: each blob is verified on its way into the store, and a bundle has its name
only when all of it is there.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from hyperbuild.builder import artifact
from hyperbuild.builder.stored import (
    ARTIFACT_TYPE,
    ENVELOPE,
    KEY,
    StoredBundle,
    find_named,
    open_entry,
)
from hyperbuild.converter import files, oci
from hyperbuild.converter.digests import is_digest
from hyperbuild.converter.errors import ContentError, InputError, printable
from hyperbuild.converter.limits import LARGEST_DOCUMENT, ZSTD_WINDOW_LIMIT
from hyperbuild.converter.reachable import reachable
from hyperbuild.converter.spool import ZSTD
from hyperbuild.converter.store import LAYOUT_VERSION, REF_NAME
from hyperbuild.launcher.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hyperbuild.builder.context import Context
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.store import Store

_ZSTD_SUFFIX = ".zst"
_ZSTD_LEVEL = 3
_PIECE = 1 << 20
_STANDARD = Path("-")


def export_bundles(context: Context, names: Iterable[str], output: Path) -> int:
    """Write bundles of the store into the file output ("-": stdout); return its bytes.

    It is there whole or not at all. NotFoundError: one of names is not in the store.
    """
    store = context.store()
    with store.lease(), ExitStack() as stack:
        bundles = [find_named(store, name) for name in names]
        if output == _STANDARD:
            if sys.stdout.isatty():
                raise InputError("an archive is nothing for a terminal; give -o FILE, or redirect")
            _write(store, bundles, sys.stdout.buffer, context.console, packed=False)
            return 0
        place = files.named_output(output)
        draft = stack.enter_context(files.draft(place.parent))
        with open(draft.fd, "wb", closefd=False) as file:
            packed = output.suffix == _ZSTD_SUFFIX
            _write(store, bundles, file, context.console, packed=packed)
            size = file.tell()
        draft.publish(place)
        return size


def _write(
    store: Store,
    bundles: Sequence[StoredBundle],
    target: IO[bytes],
    progress: Progress,
    *,
    packed: bool,
) -> None:
    roots = [bundle.digest for bundle in bundles]
    roots += [bundle.envelope for bundle in bundles if bundle.envelope]
    digests = sorted(reachable(store, roots, subjects=False))
    total = sum(store.blob_path(digest).stat().st_size for digest in digests)
    with ExitStack() as stack:
        task = stack.enter_context(progress.task("export", total))
        if packed:
            import zstandard

            packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=-1)
            target = stack.enter_context(packer.stream_writer(target, closefd=False))
        tar = stack.enter_context(tarfile.open(fileobj=target, mode="w|", bufsize=_PIECE))
        _add(tar, "oci-layout", _json({"imageLayoutVersion": LAYOUT_VERSION}))
        _add(tar, "index.json", _index(store, bundles))
        for digest in digests:
            path = store.blob_path(digest)
            with path.open("rb") as blob:
                tar.addfile(_member(f"blobs/{digest.replace(':', '/')}", path.stat().st_size), blob)
            task.advance(path.stat().st_size)


def _index(store: Store, bundles: Sequence[StoredBundle]) -> bytes:
    chosen = {(bundle.name, bundle.digest) for bundle in bundles}
    entries = [
        entry.document()
        for entry in store.entries()
        if (entry.annotations.get(REF_NAME, ""), entry.digest) in chosen
    ]
    return _json({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": entries})


def _json(document: object) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    # The rest of what it says is the same whoever exports, and when.
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def import_bundles(context: Context, source: Path) -> list[StoredBundle]:
    """Bring the bundles of a file that ``export`` wrote ("-": stdin) into the store.

    ContentError, VerificationError: it is cut, damaged, or holds something else; then no bundle of
    it has a name.
    """
    store = context.store()
    where = "standard input" if source == _STANDARD else str(source)
    with store.lease(), ExitStack() as stack:
        file = sys.stdin.buffer if source == _STANDARD else stack.enter_context(_opened(source))
        reader = stack.enter_context(_unpacked(file, where))
        entries = _take(store, reader, where, context.console)
        accepted = [_accept(store, entry, where) for entry in entries]
        for entry in accepted:
            store.tag(entry, entry.annotations[REF_NAME])
        return [found for entry in accepted if (found := open_entry(store, entry))]


def _opened(path: Path) -> IO[bytes]:
    return open(files.open_regular(path), "rb")  # noqa: PTH123 - a descriptor


@contextmanager
def _unpacked(file: IO[bytes], where: str) -> Iterator[IO[bytes]]:
    """Yield file, or what it unpacks to; ContentError for what zstd or tar cannot read."""
    import zstandard

    buffered = io.BufferedReader(file, _PIECE) if isinstance(file, io.RawIOBase) else file
    magic = buffered.peek(4)[:4]  # type: ignore[attr-defined]
    try:
        if magic == ZSTD:
            unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_LIMIT)
            yield unpacker.stream_reader(buffered, read_size=_PIECE)
        else:
            yield buffered
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise ContentError(
            f"{where} is no archive of bundles, or a cut one ({error}); export it again"
        ) from error


def _take(store: Store, reader: IO[bytes], where: str, progress: Progress) -> list[oci.Descriptor]:
    """Bring the blobs of an archive into store; return what its index lists."""
    index = None
    with tarfile.open(fileobj=reader, mode="r|", bufsize=_PIECE) as tar:
        for member in tar:
            digest = member.name.removeprefix("./").removeprefix("blobs/").replace("/", ":")
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            if member.name.removeprefix("./") == "index.json":
                index = content.read(LARGEST_DOCUMENT + 1)
            elif is_digest(digest):
                _bring(store, oci.Descriptor("", digest, member.size), content, progress)
            # tarfile keeps all that it has met.
            tar.members.clear()  # type: ignore[attr-defined]
    if index is None:
        raise ContentError(f"{where} has no index.json: it is no archive of bundles, or a cut one")
    if len(index) > LARGEST_DOCUMENT:
        raise ContentError(f"{where}: its index.json is too long; export it again")
    return list(oci.Index.read(index, where).manifests)


def _bring(store: Store, blob: oci.Descriptor, content: IO[bytes], progress: Progress) -> None:
    def rest(offset: int) -> Iterator[bytes]:
        skipped = 0
        while skipped < offset and (piece := content.read(min(_PIECE, offset - skipped))):
            skipped += len(piece)
        while piece := content.read(_PIECE):
            yield piece

    with progress.task(blob.digest[:19], blob.size) as task:
        store.ingest(blob, rest, task)


def _accept(store: Store, entry: oci.Descriptor, where: str) -> oci.Descriptor:
    """Return the entry to make of one in an archive, once all of its bundle is here."""
    name = entry.annotations.get(REF_NAME, "")
    raw = store.read(entry)
    if raw is None:
        raise ContentError(f"{where}: {printable(name)} is not in it; export it again")
    found = artifact.read_artifact(raw, f"{where}: {printable(name)}")
    document = store.read(found.config)
    if document is None:
        raise ContentError(f"{where}: bundle.json of {printable(name)} is not in it")
    bundle = Bundle.from_json(document, where)
    artifact.check_artifact(found, bundle, where)
    pieces = [*found.files, *([found.plain] if found.plain else [])]
    if found.plain is None or not all(store.has(piece) for piece in pieces):
        raise ContentError(f"{where}: a piece of {printable(name)} is not in it; export it again")
    # What it was made of is the archive's word alone: a later conversion must not believe it.
    annotations = {REF_NAME: name or bundle.image.reference, KEY: entry.digest}
    envelope = entry.annotations.get(ENVELOPE, "")
    if is_digest(envelope) and store.document(envelope) is not None:
        annotations[ENVELOPE] = envelope
    return entry.replace(annotations=annotations, artifact_type=ARTIFACT_TYPE)
