"""What each layer of an image says, file data aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter.layer_cache import LayerKey, encode_index
from hyperbuild.converter.limits import Budget, Limits
from hyperbuild.converter.reading import Reader
from hyperbuild.converter.reuse import BlobChecks, count_known

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import LayerIndex


def read_indexes(
    image: SourceImage,
    source: ImageSource,
    *,
    limits: Limits,
    progress: Progress,
    cache: LayerCache,
) -> list[LayerIndex]:
    """Return the indexes of image's layers, the base first, and keep them in cache.

    Layers that cache does not know are read and verified. Errors as for ``read_layer``.
    """
    budget = Budget(limits)
    keys = [LayerKey.of(*layer) for layer in image.layers]
    known = [
        cache.index(key, image.where(blob), 0)
        for key, (blob, _) in zip(keys, image.layers, strict=True)
    ]
    layers = list(zip(image.layers, keys, known, strict=True))
    missing = [layer for layer, _, index in layers if index is None]
    source.prefetch((blob for blob, _ in missing), progress)
    indexes: list[LayerIndex] = []
    with (
        BlobChecks(image, source, progress, cache) as checks,
        Reader(
            image, source, _Nowhere(), missing, progress=progress, budget=budget, cache=cache
        ) as reader,
        progress.task("read", sum(blob.size for blob, _ in image.layers)) as task,
    ):
        for layer, key, index in layers:
            if index is None:
                index = reader.read(layer, _none)
                cache.keep(key, encode_index(index))
            else:
                count_known(budget, index, layer[0].size)
                checks.check(layer)
            indexes.append(index)
            task.advance(layer[0].size)
    return indexes


def _none(entry: int, path: bytes) -> bool:  # noqa: ARG001 - a Choice
    return False


class _Nowhere:
    """The Sink of a choice that keeps nothing."""

    def append(self, data: memoryview) -> int:
        raise NotImplementedError(f"{len(data)} bytes that nobody chose")

    def append_pieces(self, size: int, segments: Iterable[tuple[int, Iterable[memoryview]]]) -> int:
        raise NotImplementedError(f"{size} bytes that nobody chose")

    def flush(self) -> None:
        """Have nothing to do."""
