"""What the store and the cache hold, and what of it can go: ``du``, ``prune`` and ``rmi``."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.builder.stored import ENVELOPE, KEY, entry_name, find_named, list_bundles
from hyperbuild.converter.errors import UnavailableError
from hyperbuild.converter.reachable import reachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.builder.context import Context
    from hyperbuild.builder.stored import StoredBundle
    from hyperbuild.converter import oci
    from hyperbuild.converter.store import Store


class Kind(StrEnum):
    """What a byte on disk is there for."""

    BUNDLES = "bundles"
    IMAGES = "images"
    UNUSED = "unused"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Share:
    """What one bundle takes: bytes on disk in all, and those that no other bundle has."""

    name: str
    digest: str
    size: int
    own: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk of each Kind, the bundles' one by one, the cache's by what is kept there."""

    sizes: dict[Kind, int]
    shares: tuple[Share, ...]
    cache: dict[str, int]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be: how many blobs and unfinished files, their bytes on disk."""

    count: int
    size: int


def measure(context: Context) -> Usage:
    """Look up what everything takes on disk: holes take nothing, what is shared counts once."""
    store = context.store()
    with store.lease():
        blobs = {digest: _on_disk(path) for digest, path in store.blobs()}
        bundles = list_bundles(store)
        parts = {bundle.digest: _parts(store, bundle) for bundle in bundles}
        images = reachable(store, _roots(store.entries())).difference(*parts.values())
        unfinished = sum(_on_disk(path) for path in store.unfinished())
    shares = tuple(_share(bundle, parts, blobs) for bundle in bundles)
    used = frozenset[str]().union(*parts.values())
    sizes = {
        Kind.BUNDLES: sum(size for digest, size in blobs.items() if digest in used),
        Kind.IMAGES: sum(size for digest, size in blobs.items() if digest in images),
        Kind.UNUSED: unfinished
        + sum(size for digest, size in blobs.items() if digest not in used | images),
    }
    cache = {path.name: _tree_on_disk(path) for path in _listed(context.cache)}
    return Usage(sizes | {Kind.CACHE: sum(cache.values())}, shares, cache)


def _share(bundle: StoredBundle, parts: dict[str, frozenset[str]], blobs: dict[str, int]) -> Share:
    mine = parts[bundle.digest]
    others = (held for digest, held in parts.items() if digest != bundle.digest)
    own = mine.difference(*others)
    return Share(bundle.name, bundle.digest, _sum(blobs, mine), _sum(blobs, own))


def _sum(blobs: dict[str, int], digests: Iterable[str]) -> int:
    return sum(blobs.get(digest, 0) for digest in digests)


def _parts(store: Store, bundle: StoredBundle) -> frozenset[str]:
    envelope = [bundle.envelope] if bundle.envelope else []
    return reachable(store, [bundle.digest, *envelope], subjects=False)


def prune(
    context: Context, *, images: bool = False, bundles: bool = False, dry_run: bool = False
) -> Pruned:
    """Remove what no bundle needs, and downloads that were cut; wait until nobody is at work.

    With images, the layers go too that bundles were made from: they can be fetched again. With
    bundles, every one of them goes. With dry_run nothing does. What VMs run from stays.
    """
    store = context.store()
    if not store.root.is_dir():
        return Pruned(0, 0)
    with alone(context, store):
        going = [entry for entry in store.entries() if bundles and KEY in entry.annotations]
        staying = [entry for entry in store.entries() if entry not in going]
        kept = reachable(store, _roots(staying), subjects=not images) | _of_vms(context)
        found = [path for digest, path in store.blobs() if digest not in kept]
        found += store.unfinished()
        size = sum(map(_on_disk, found))
        if not dry_run:
            for entry in going:
                store.forget(entry)
            for path in found:
                _remove(path)
    return Pruned(len(found), size)


def remove_bundles(context: Context, names: Iterable[str]) -> list[str]:
    """Take bundles out of the store's list, by name or digest, and the blobs that only they need.

    Return their names. All are found before any is removed. NotFoundError: one is not there.
    """
    store = context.store()
    found = [find_named(store, name) for name in names]
    with alone(context, store):
        entries = store.entries()
        wanted = {(bundle.name, bundle.digest) for bundle in found}
        going = [entry for entry in entries if (entry_name(entry), entry.digest) in wanted]
        staying = [entry for entry in entries if entry not in going]
        gone = reachable(store, _roots(going)) - reachable(store, _roots(staying))
        gone -= _of_vms(context)
        for entry in going:
            store.forget(entry)
        for digest in gone:
            store.discard(digest)
    return [bundle.name for bundle in found]


@contextmanager
def alone(context: Context, store: Store) -> Iterator[None]:
    """Hold the store for ourselves; UnavailableError where it cannot be written."""
    if not os.access(store.root, os.W_OK):
        raise UnavailableError(
            f"the store {store.root} cannot be written; make it writable or become its owner"
        )
    if not store.is_idle():
        context.console.say("waiting for the other commands that use the store to end")
    with store.alone():
        yield


def _roots(entries: Iterable[oci.Descriptor]) -> Iterator[str]:
    for entry in entries:
        yield entry.digest
        if ENVELOPE in entry.annotations:
            yield entry.annotations[ENVELOPE]


def _of_vms(context: Context) -> frozenset[str]:
    """Return the blobs that VMs run from which have not ended: they may be started again."""
    paths = [
        Path(path)
        for vm in context.instances().all()
        if not vm.is_over
        for path in (vm.asked.bundle[part] for part in ("rootfs", "kernel", "initramfs"))
    ]
    return frozenset(f"{path.parent.name}:{path.name}" for path in paths)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _on_disk(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_blocks * 512


def _tree_on_disk(path: Path) -> int:
    size = _on_disk(path)
    for place, directories, files in os.walk(path):
        size += sum(_on_disk(path / place / name) for name in (*directories, *files))
    return size


def _listed(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
