"""Layers flattened into one tree, each read once at most, only the files that win written.

Layers go from the top down: what upper layers cover is known by then and is not written. Paths are
compared as they are spelled, which is right unless an image writes through symlinked parents, links
to files that it covers, or repeats a path in one layer. The exact tree is built afterwards from the
base up; where it disagrees about a single file, the data is written again by it.

A layer that the cache knows, data and all, is not read: the result is the same to the byte.
"""

from __future__ import annotations

import os
import stat
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.extents import ExtentWriter
from hyperbuild.converter.layer_cache import LayerKey, Loan, encode_index
from hyperbuild.converter.limits import DEFAULT_LIMITS, Budget, Limits, check_space
from hyperbuild.converter.reading import Reader
from hyperbuild.converter.reuse import Reuse
from hyperbuild.converter.tree import NO_BLOCK, Tree, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.converter.layer import Choice
    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import Inode, LayerIndex


@dataclass(frozen=True, slots=True)
class FlatLayer:
    """A layer in place: its index, and the sums of its files that have data, in order.

    ``is_known`` tells that the index came from the cache.
    """

    key: LayerKey
    index: LayerIndex
    sums: array[int]
    is_known: bool

    def loan(self) -> Loan:
        """Return what the cache keeps of the layer."""
        inodes = (entry.inode for entry in self.index.entries)
        blocks = array("q", (NO_BLOCK if inode is None else inode.block for inode in inodes))
        encoded = None if self.is_known else encode_index(self.index)
        return Loan(self.key, encoded, blocks, self.sums)


@dataclass(frozen=True, slots=True)
class Flattened:
    """An image's tree, its file data in place; ``next_block`` is the first free block behind it.

    ``loans`` are what later conversions can take of each layer.
    """

    tree: Tree
    next_block: int
    loans: tuple[Loan, ...]


@dataclass(slots=True)
class Flattener:
    """What flattening an image works with; ``place`` makes the writer of its file data.

    ``epoch`` (seconds) is the time of directories that no layer describes.
    """

    image: SourceImage
    source: ImageSource
    fd: int
    place: Callable[[], ExtentWriter]
    epoch: int
    progress: Progress
    limits: Limits = DEFAULT_LIMITS
    cache: LayerCache | None = None

    def flatten(self) -> Flattened:
        """Write the image's file data into fd and return its tree.

        ContentError and VerificationError as for read_layer; LimitError for an image beyond limits.
        """
        if self.limits.check_space:
            check_space(self.fd, self.image.manifest.layers)
        next_block, layers = self._read_by_spelling()
        tree = Tree(self.epoch, self.limits)
        for layer in reversed(layers):
            for notice in layer.index.notices:
                self.progress.warn(f"{layer.index.where}: {notice}")
            tree.apply(layer.index)
        if not _is_written(tree, layers):
            next_block, layers = self._write_again(_winners(tree))
        return Flattened(tree, next_block, tuple(layer.loan() for layer in layers))

    def _read_by_spelling(self) -> tuple[int, list[FlatLayer]]:
        """Write what wins if paths are what they are spelled.

        Return the first free block, and the layers, the top one first.
        """
        shadow = _Shadow()
        extents = self.place()
        layers = self._read_layers(shadow, extents, shadow.cover, Budget(self.limits))
        return extents.next_block, layers

    def _read_layers(
        self,
        choice: Choice,
        extents: ExtentWriter,
        done: Callable[[LayerIndex], None],
        budget: Budget | None = None,
    ) -> list[FlatLayer]:
        """Read all layers, the top one first; done is told of each."""
        layers = self.image.layers[::-1]
        found: list[FlatLayer] = []
        with (
            Reuse(self.cache, self.image, self.source, self.progress) as reuse,
            Reader(
                self.image, self.source, extents, reuse.missing,
                progress=self.progress, budget=budget, cache=self.cache,
            ) as reader,
            self.progress.task("convert", sum(layer.size for layer, _ in layers)) as task,
        ):  # fmt: skip
            number = 0
            for layer, diff_id in layers:
                first_sum = len(extents.sums)
                known = reuse.take(layer, diff_id, choice, extents, number, budget)
                index = known or reader.read((layer, diff_id), choice, number)
                number += len(index.entries)
                key, sums = LayerKey.of(layer, diff_id), extents.sums[first_sum:]
                found.append(FlatLayer(key, index, sums, is_known=known is not None))
                done(index)
                task.advance(layer.size)
        return found

    def _write_again(self, winners: dict[int, Inode]) -> tuple[int, list[FlatLayer]]:
        os.ftruncate(self.fd, 0)
        extents = self.place()

        def take_over(index: LayerIndex) -> None:
            for entry in index.entries:
                inode = entry.inode
                if inode is not None and inode.block != NO_BLOCK:
                    winners[inode.entry].block = inode.block

        layers = self._read_layers(lambda entry, _: entry in winners, extents, take_over)
        return extents.next_block, layers


def _winners(tree: Tree) -> dict[int, Inode]:
    """Return the files of tree that have data, by the entry each comes from."""
    return {
        inode.entry: inode
        for _, inode in walk(tree.root)
        if inode.size and stat.S_ISREG(inode.mode)
    }


def _is_written(tree: Tree, layers: list[FlatLayer]) -> bool:
    """Tell whether the files of tree that have data are exactly those whose data was written."""
    seen = bytearray(sum(len(layer.index.entries) for layer in layers))
    for _, inode in walk(tree.root):
        if inode.size and stat.S_ISREG(inode.mode):
            if inode.block == NO_BLOCK:
                return False
            seen[inode.entry] = 1
    return seen.count(1) == sum(len(layer.sums) for layer in layers)


class _Shadow:
    """What the layers read so far cover of those below; the choice of the first pass."""

    def __init__(self) -> None:
        #: Paths that are covered, and whether nothing of the lower layers shows below either.
        self._paths: dict[bytes, bool] = {}
        self._is_closed: dict[bytes, bool] = {}
        #: The layer just read: the base, often the largest, covers nothing.
        self._last: LayerIndex | None = None

    def __call__(self, entry: int, path: bytes) -> bool:  # noqa: ARG002 - a Choice
        if self._last:
            self._take(self._last)
            self._last = None
        return path not in self._paths and not self._covers(path.rpartition(b"/")[0])

    def cover(self, index: LayerIndex) -> None:
        """Take a layer that was read whole into account for those below."""
        if self._last:
            self._take(self._last)
        self._last = index

    def _covers(self, directory: bytes) -> bool:
        known = self._is_closed.get(directory)
        if known is None:
            known = self._paths.get(directory, False) or (
                directory != b"" and self._covers_parent(directory)
            )
            self._is_closed[directory] = known
        return known

    def _covers_parent(self, directory: bytes) -> bool:
        while directory:
            directory = directory.rpartition(b"/")[0]
            if self._paths.get(directory):
                return True
        return False

    def _take(self, index: LayerIndex) -> None:
        paths = self._paths
        for entry in index.entries:
            if entry.inode is None or not entry.inode.is_directory:
                paths[entry.path] = True
            else:
                paths.setdefault(entry.path, False)
        for path in (*index.whiteouts, *index.opaques):
            paths[path] = True
        self._is_closed.clear()
