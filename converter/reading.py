"""An image's layers read one after the other, from wherever they come from to their indexes.

Parsing has to go in order, as does what it writes; decompression and hashes need not. Where cores
would be idle, layers whose turn is still to come begin with these, as far as their rings of buffers
go. What such a layer fails with is told when its turn has come, if it comes: which of an image's
errors is told does not depend on the machine.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from hyperbuild.converter.arrival import Arriving
from hyperbuild.converter.errors import ContentError, HyperbuildError
from hyperbuild.converter.layer import read_layer
from hyperbuild.converter.layer_cache import BlobFile, LayerKey
from hyperbuild.converter.limits import LimitError
from hyperbuild.converter.stream import LayerStream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from hyperbuild.converter.layer import Choice, Sink
    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.limits import Budget
    from hyperbuild.converter.oci import Descriptor, DiffID
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.tree import LayerIndex

    Layer = tuple[Descriptor, DiffID]

#: The cores that the layer in turn keeps busy, and each one that is ahead of it.
_CORES_IN_TURN, _CORES_AHEAD = 3, 2
#: Most layers ahead: each holds a ring of buffers.
_AHEAD_LIMIT = 4


@dataclass(frozen=True, slots=True)
class _Begun:
    """A layer that is decompressed and hashed until ``opened`` is left; the file that it is in.

    ``arriving`` is there for one that comes from a registry meanwhile.
    """

    stream: LayerStream
    file: BlobFile
    arriving: Arriving | None
    opened: ExitStack


class Reader:
    """Reads image's layers, those of order in this order; a context manager that ends what began.

    What comes out is counted in budget; a blob that was read to its verified end is noted in cache.
    """

    def __init__(
        self,
        image: SourceImage,
        source: ImageSource,
        sink: Sink,
        order: Iterable[Layer],
        *,
        progress: Progress,
        budget: Budget | None = None,
        cache: LayerCache | None = None,
    ) -> None:
        self._image = image
        self._source = source
        self._sink = sink
        self._order = deque(order)
        self._progress = progress
        self._budget = budget
        self._cache = cache
        self._begun: dict[LayerKey, _Begun] = {}
        cores = len(os.sched_getaffinity(0))
        self._ahead = min(max(0, (cores - _CORES_IN_TURN) // _CORES_AHEAD), _AHEAD_LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for begun in self._begun.values():
            begun.opened.__exit__(kind, error, trace)

    def read(self, layer: Layer, keep: Choice, first_entry: int = 0) -> LayerIndex:
        """Read a layer to its verified end; else as ``read_layer``."""
        while layer in self._order and self._order.popleft() != layer:
            pass
        begun = self._begun.pop(LayerKey.of(*layer), None) or self._begin(layer)
        with begun.opened:
            self._begin_more()
            try:
                index = read_layer(
                    begun.stream, keep, self._sink, first_entry=first_entry, budget=self._budget
                )
            except ContentError as error:
                # Of a blob that arrives damaged, that it is damaged is what needs telling.
                if begun.arriving and not isinstance(error, LimitError):
                    begun.arriving.verify()
                raise
        begun.file.note_sound()
        return index

    def _begin_more(self) -> None:
        for layer in list(self._order)[: self._ahead]:
            key = LayerKey.of(*layer)
            if key not in self._begun and self._source.is_near(layer[0]):
                with suppress(HyperbuildError):
                    self._begun[key] = self._begin(layer)

    def _begin(self, layer: Layer) -> _Begun:
        blob, diff_id = layer
        with ExitStack() as stack:
            raw = stack.enter_context(self._source.open_layer(blob, self._progress))
            file = BlobFile.of(raw, layer, self._cache)
            stream = stack.enter_context(
                LayerStream(
                    raw, blob, diff_id,
                    before_reuse=self._sink.flush,
                    where=self._image.where(blob),
                    budget=self._budget,
                )
            )  # fmt: skip
            return _Begun(stream, file, raw if isinstance(raw, Arriving) else None, stack.pop_all())
