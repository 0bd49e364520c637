"""What each layer of an image says, file data aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter.layer import read_layer
from hyperbuild.converter.limits import Budget, Limits
from hyperbuild.converter.stream import LayerStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import LayerIndex


def read_indexes(
    image: SourceImage, source: ImageSource, *, limits: Limits, progress: Progress
) -> list[LayerIndex]:
    """Return the indexes of image's layers, the base first; every byte is read and verified.

    Errors as for ``read_layer``.
    """
    budget = Budget(limits)
    nowhere = _Nowhere()
    layers = list(zip(image.manifest.layers, image.config.diff_ids, strict=True))
    source.prefetch((layer for layer, _ in layers), progress)
    indexes: list[LayerIndex] = []
    with progress.task("read", sum(layer.size for layer, _ in layers)) as task:
        for layer, diff_id in layers:
            where = f"layer {layer.digest} of {image.reference}"
            with (
                source.open_layer(layer, progress) as raw,
                LayerStream(
                    raw, layer, diff_id, before_reuse=nowhere.flush, where=where, budget=budget
                ) as stream,
            ):
                index = read_layer(
                    stream, _none, nowhere, first_entry=0, progress=progress, budget=budget
                )
            indexes.append(index)
            task.advance(layer.size)
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
