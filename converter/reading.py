"""One layer of an image, from wherever it comes from to its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter.arrival import Arriving
from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.layer import read_layer
from hyperbuild.converter.layer_cache import LayerKey
from hyperbuild.converter.layout import Range
from hyperbuild.converter.limits import LimitError
from hyperbuild.converter.stream import LayerStream

if TYPE_CHECKING:
    from hyperbuild.converter.layer import Choice, Sink
    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.limits import Budget
    from hyperbuild.converter.oci import Descriptor, DiffID
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import LayerIndex


def read_from(
    source: ImageSource,
    image: SourceImage,
    layer: tuple[Descriptor, DiffID],
    keep: Choice,
    sink: Sink,
    *,
    progress: Progress,
    first_entry: int = 0,
    budget: Budget | None = None,
    cache: LayerCache | None = None,
) -> LayerIndex:
    """Read one of image's layers to its verified end, which cache notes; else as ``read_layer``."""
    blob, diff_id = layer
    with source.open_layer(blob, progress) as raw:
        identity = raw.identity() if isinstance(raw, Range) else None
        try:
            with LayerStream(
                raw, blob, diff_id,
                before_reuse=sink.flush, where=image.where(blob), budget=budget,
            ) as stream:  # fmt: skip
                index = read_layer(stream, keep, sink, first_entry=first_entry, budget=budget)
        except ContentError as error:
            # Of a blob that arrives damaged, that it is damaged is what needs telling.
            if isinstance(raw, Arriving) and not isinstance(error, LimitError):
                raw.verify()
            raise
    if cache and identity:
        cache.note_sound(LayerKey.of(blob, diff_id), identity)
    return index
