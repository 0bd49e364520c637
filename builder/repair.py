"""``hyperbuild fsck``: the store read whole, what is wrong with it said, and mended if asked."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.artifact import is_artifact
from hyperbuild.builder.housekeeping import alone
from hyperbuild.builder.stored import ARTIFACT_TYPE, CONFIG_TYPE, KEY, entry_name
from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.store import REF_NAME
from hyperbuild.launcher.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.store import Store


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what is done about it, in a line each."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def check_store(context: Context, *, mend: bool) -> list[Problem]:
    """Read every blob of the store; return what is wrong, and mend it if asked.

    What is damaged is removed, and bundles that lack a piece leave the list: all of them can be
    converted or pulled again. UnavailableError: the store cannot be written, to be mended.
    """
    store = context.store()
    if not store.root.is_dir():
        return []
    with alone(context, store) if mend else store.lease():
        return list(_check(store, context.console, mend=mend))


def _check(store: Store, progress: Progress, *, mend: bool) -> Iterator[Problem]:
    blobs = dict(store.blobs())
    damaged = _damaged(blobs, progress)
    for digest in damaged:
        yield Problem(f"blob {digest} has other bytes", _done("removed", mend=mend))
        if mend:
            store.discard(digest)
    sound = blobs.keys() - set(damaged)
    try:
        entries = store.entries()
    except ContentError as error:
        found = _bundles_among(store, sound)
        yield Problem(
            f"the list of bundles cannot be read ({error})",
            _done(f"written anew of the {len(found)} that are whole", mend=mend),
        )
        if mend:
            store.write_list(found)
        return
    for entry in entries:
        missing = _missing(store, entry, sound)
        if missing:
            name = entry_name(entry) or entry.digest
            yield Problem(f"{name} lacks {missing}", "it leaves the list; convert or pull it again")
            if mend:
                store.forget(entry)


def _done(what: str, *, mend: bool) -> str:
    return what if mend else f"to be {what}"


def _damaged(blobs: dict[str, Path], progress: Progress) -> list[str]:
    """Return the digests of the blobs that are not what their names say."""
    total = sum(path.stat().st_size for path in blobs.values())
    with progress.task("store", total) as task, ThreadPoolExecutor(os.cpu_count()) as pool:

        def check(item: tuple[str, Path]) -> str | None:
            digest, path = item
            with path.open("rb") as file:
                seen = hashlib.file_digest(file, digest.partition(":")[0]).hexdigest()
            task.advance(path.stat().st_size)
            return None if seen == digest.partition(":")[2] else digest

        return [digest for digest in pool.map(check, blobs.items()) if digest]


def _missing(store: Store, entry: oci.Descriptor, sound: set[str]) -> str:
    """Return which document or piece of an entry is not there; "" if none is missed."""
    if entry.digest not in sound:
        return f"its manifest {entry.digest}"
    raw = store.document(entry.digest)
    if raw is None or not is_artifact(raw):
        return ""
    manifest = oci.Manifest.read(raw, entry.digest)
    pieces = (manifest.config, *manifest.layers)
    lacking = next((piece for piece in pieces if piece.digest not in sound), None)
    return f"its {lacking.media_type}, {lacking.digest}" if lacking else ""


def _bundles_among(store: Store, sound: set[str]) -> list[oci.Descriptor]:
    """Return entries for the whole bundles among blobs, by the time they were written."""
    found = []
    for digest in sorted(sound, key=lambda digest: store.blob_path(digest).stat().st_mtime_ns):
        raw = store.document(digest)
        if raw is None or not is_artifact(raw):
            continue
        entry = oci.Descriptor(oci.OCI_MANIFEST, digest, len(raw), artifact_type=ARTIFACT_TYPE)
        if _missing(store, entry, sound):
            continue
        with suppress(ContentError):
            found.append(entry.replace(annotations=_annotations(store, raw, digest)))
    return found


def _annotations(store: Store, raw: bytes, digest: str) -> dict[str, str]:
    manifest = oci.Manifest.read(raw, digest)
    if manifest.config.media_type != CONFIG_TYPE:
        raise ContentError(f"{digest} is no bundle")
    bundle = Bundle.from_json(store.read(manifest.config) or b"", digest)
    return {REF_NAME: bundle.image.reference, KEY: digest}
