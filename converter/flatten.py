"""Layers flattened into one tree, each read once, only the files that win written.

Layers go from the top down: what upper layers cover is known by then and is not written. Paths are
compared as they are spelled, which is right unless an image writes through symlinked parents, links
to files that it covers, or repeats a path in one layer. The exact tree is built afterwards from the
base up; where it disagrees about a single file, the data is written again by it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.extents import BLOCK_SIZE, ExtentWriter
from hyperbuild.converter.layer import read_layer
from hyperbuild.converter.limits import DEFAULT_LIMITS, Budget, Limits, check_space
from hyperbuild.converter.stream import LayerStream
from hyperbuild.converter.tree import NO_BLOCK, Inode, Tree, walk

if TYPE_CHECKING:
    from hyperbuild.converter.layer import Choice
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import LayerIndex


@dataclass(frozen=True, slots=True)
class Flattened:
    """An image's tree, its file data in place; ``next_block`` is the first free block behind it."""

    tree: Tree
    next_block: int


def flatten(
    image: SourceImage,
    source: ImageSource,
    fd: int,
    *,
    first_block: int,
    epoch: int,
    progress: Progress,
    limits: Limits = DEFAULT_LIMITS,
) -> Flattened:
    """Write the image's file data into fd from first_block on and return its tree.

    epoch (seconds) is the time of directories that no layer describes. ContentError and
    VerificationError as for read_layer; LimitError for an image beyond limits.
    """
    if limits.check_space:
        check_space(fd, image.manifest.layers)
    shadow = _Shadow()
    extents = ExtentWriter(fd, first_block)
    indexes = _read_layers(image, source, shadow, extents, progress, Budget(limits))
    tree = Tree(epoch, limits)
    for index in reversed(indexes):
        tree.apply(index)
    winners = {
        inode.entry: inode
        for _, inode in walk(tree.root)
        if inode.size and stat.S_ISREG(inode.mode)
    }
    written = sum(
        entry.inode is not None and entry.inode.block != NO_BLOCK
        for index in indexes
        for entry in index.entries
    )
    if written != len(winners) or any(inode.block == NO_BLOCK for inode in winners.values()):
        extents = _write_again(image, source, fd, first_block, winners, progress)
    return Flattened(tree, extents.next_block)


def _read_layers(
    image: SourceImage,
    source: ImageSource,
    choice: Choice,
    extents: ExtentWriter,
    progress: Progress,
    budget: Budget | None = None,
) -> list[LayerIndex]:
    """Read all layers, the top one first."""
    layers = list(zip(image.manifest.layers, image.config.diff_ids, strict=True))
    indexes: list[LayerIndex] = []
    first_entry = 0
    source.prefetch((layer for layer, _ in reversed(layers)), progress)
    with progress.task("convert", sum(layer.size for layer, _ in layers)) as task:
        for layer, diff_id in reversed(layers):
            where = f"layer {layer.digest} of {image.reference}"
            with (
                source.open_layer(layer, progress) as raw,
                LayerStream(
                    raw, layer, diff_id,
                    before_reuse=extents.flush, where=where, budget=budget,
                ) as stream,
            ):  # fmt: skip
                index = read_layer(
                    stream,
                    choice,
                    extents,
                    first_entry=first_entry,
                    progress=progress,
                    budget=budget,
                )
            indexes.append(index)
            first_entry += len(index.entries)
            if isinstance(choice, _Shadow):
                choice.cover(index)
            task.advance(layer.size)
    return indexes


def _write_again(
    image: SourceImage,
    source: ImageSource,
    fd: int,
    first_block: int,
    winners: dict[int, Inode],
    progress: Progress,
) -> ExtentWriter:
    os.ftruncate(fd, first_block * BLOCK_SIZE)
    extents = ExtentWriter(fd, first_block)
    for index in _read_layers(image, source, lambda entry, _: entry in winners, extents, progress):
        for entry in index.entries:
            inode = entry.inode
            if inode is not None and inode.block != NO_BLOCK:
                winners[inode.entry].block = inode.block
    return extents


class _Shadow:
    """What the layers read so far cover of those below; the choice of the first pass."""

    def __init__(self) -> None:
        self._paths: set[bytes] = set()
        #: Paths below which nothing of the lower layers shows.
        self._closed: set[bytes] = set()
        self._is_closed: dict[bytes, bool] = {}

    def __call__(self, entry: int, path: bytes) -> bool:  # noqa: ARG002 - a Choice
        return path not in self._paths and not self._covers(path.rpartition(b"/")[0])

    def _covers(self, directory: bytes) -> bool:
        known = self._is_closed.get(directory)
        if known is None:
            known = directory in self._closed or (
                directory != b"" and self._covers_parent(directory)
            )
            self._is_closed[directory] = known
        return known

    def _covers_parent(self, directory: bytes) -> bool:
        while directory:
            directory = directory.rpartition(b"/")[0]
            if directory in self._closed:
                return True
        return False

    def cover(self, index: LayerIndex) -> None:
        """Take a layer that was read whole into account for those below."""
        for entry in index.entries:
            self._paths.add(entry.path)
            if entry.inode is None or not entry.inode.is_directory:
                self._closed.add(entry.path)
        self._paths.update(index.whiteouts)
        self._closed.update(index.whiteouts, index.opaques)
        self._is_closed.clear()
