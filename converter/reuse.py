"""Layers that need not be read: taken from the cache, their files' data from a donor.

The blobs of such layers are still verified where nobody has done that: an image that is damaged at
its source is told so, whatever is known of it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Self

from hyperbuild.converter.errors import UnavailableError
from hyperbuild.converter.extents import BLOCK_SIZE
from hyperbuild.converter.layer_cache import BlobFile, LayerKey
from hyperbuild.converter.stream import verify_blob
from hyperbuild.converter.tree import NO_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from hyperbuild.converter.extents import ExtentWriter
    from hyperbuild.converter.layer import Choice
    from hyperbuild.converter.layer_cache import Donor, LayerCache
    from hyperbuild.converter.limits import Budget
    from hyperbuild.converter.oci import Descriptor, DiffID
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import Inode, LayerIndex


class BlobChecks:
    """Layers' blobs verified in the background; a context manager that raises what was found.

    Nothing is read again of a source that verifies what it brings near, nor of a file that cache
    knows to be sound.
    """

    def __init__(
        self,
        image: SourceImage,
        source: ImageSource,
        progress: Progress,
        cache: LayerCache | None,
    ) -> None:
        self._cache = cache
        self._image = image
        self._source = source
        self._progress = progress
        self._pool: ThreadPoolExecutor | None = None
        self._checks: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for check in self._checks:
                check.result()

    def check(self, layer: tuple[Descriptor, DiffID]) -> None:
        """Have a layer's blob verified; VerificationError at the end if it is not what it was."""
        if self._source.is_verified:
            return
        if self._pool is None:
            # Not at the top: what it imports takes longer than many an image.
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(os.cpu_count())
        self._checks.append(self._pool.submit(self._verify, layer))

    def _verify(self, layer: tuple[Descriptor, DiffID]) -> None:
        blob, _ = layer
        with self._source.open_layer(blob, self._progress) as raw:
            file = BlobFile.of(raw, layer, self._cache)
            if file.is_sound():
                return
            verify_blob(raw, blob, self._image.where(blob))
        file.note_sound()


class Reuse:
    """The layers of one image that the cache knows; a context manager that ends their checks."""

    def __init__(
        self,
        cache: LayerCache | None,
        image: SourceImage,
        source: ImageSource,
        progress: Progress,
    ) -> None:
        """Look for image's layers in cache; the others start to come near, the top one first."""
        self._cache = cache
        self._image = image
        self._checks = BlobChecks(image, source, progress, cache)
        self._donors: dict[LayerKey, Donor] = {}
        layers = image.layers[::-1]
        keys = [LayerKey.of(layer, diff_id) for layer, diff_id in layers]
        for key in set(keys) if cache else ():
            donor = cache and cache.donor(key)
            if donor:
                self._donors[key] = donor
        wanted = zip(layers, keys, strict=True)
        #: The layers that have to be read, the top one first, unless the cache disappoints.
        self.missing = [layer for layer, key in wanted if key not in self._donors]
        source.prefetch((blob for blob, _ in self.missing), progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for donor in self._donors.values():
            donor.close()
        self._checks.__exit__(kind)

    def take(
        self,
        layer: Descriptor,
        diff_id: DiffID,
        choice: Choice,
        extents: ExtentWriter,
        first_entry: int,
        budget: Budget | None,
    ) -> LayerIndex | None:
        """Return a layer's index, the data that choice keeps copied; None if it has to be read."""
        key = LayerKey.of(layer, diff_id)
        donor = self._donors.get(key)
        if donor is None or self._cache is None:
            return None
        index = self._cache.index(key, self._image.where(layer), first_entry)
        if index is None or len(index.entries) != len(donor.blocks):
            return None
        kept = list(_kept(index, donor, choice))
        if any(block == NO_BLOCK for _, block, _ in kept):
            return None
        if budget:
            count_known(budget, index, layer.size)
        for inode, block, content in kept:
            inode.block = extents.append_range(donor.fd, block * BLOCK_SIZE, inode.size, content)
        extents.flush()
        if not donor.is_untouched():
            raise UnavailableError(f"{donor.identity.path} was changed meanwhile; convert again")
        self._checks.check((layer, diff_id))
        return index


def _kept(index: LayerIndex, donor: Donor, choice: Choice) -> Iterator[tuple[Inode, int, int]]:
    """Yield (inode, block in donor, sum) of the files whose data choice keeps."""
    sums = iter(donor.sums)
    for entry, block in zip(index.entries, donor.blocks, strict=True):
        content = next(sums) if block != NO_BLOCK else 0
        inode = entry.inode
        if (
            inode is not None
            and inode.size
            and stat.S_ISREG(inode.mode)
            and choice(inode.entry, entry.path)
        ):
            yield inode, block, content


def count_known(budget: Budget, index: LayerIndex, packed: int) -> None:
    """Count what reading a layer of packed compressed bytes would have counted; LimitError."""
    budget.stream(index.where, index.unpacked, index.unpacked, packed)
    budget.holes(index.where, index.holes)
    for entry in index.entries:
        inode = entry.inode
        held = len(entry.path) + len(entry.link)
        if inode is not None:
            held += len(inode.target)
            for name, value in (inode.xattrs or {}).items():
                held += len(name) + len(value)
        budget.entry(index.where, entry.path, inode.size if inode else 0, held)
    for path in (*index.whiteouts, *index.opaques):
        budget.entry(index.where, path, 0, len(path))
