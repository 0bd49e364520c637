"""An image from a registry: documents and layers verified into the store, several at once."""

from __future__ import annotations

import io
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from hyperbuild.converter import files, oci
from hyperbuild.converter.arrival import Arrival
from hyperbuild.converter.documents import Documents
from hyperbuild.converter.places import Places
from hyperbuild.converter.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future
    from pathlib import Path

    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.registry import Registry
    from hyperbuild.converter.resolve import SourceImage
    from hyperbuild.converter.settings import RegistrySettings
    from hyperbuild.converter.store import Store


class RegistrySource:
    """The image that reference names in a registry or one of its mirrors."""

    is_verified = True

    def __init__(
        self,
        reference: Reference,
        store: Store,
        settings: RegistrySettings,
        limit: int = oci.DOCUMENT_LIMIT,
    ) -> None:
        """Open it; its documents have at most limit bytes (LimitError)."""
        self._store = store
        self._places = Places(reference, settings)
        self._documents = Documents(reference, store, self._places, limit)
        self._workers = Workers(settings.connections, "pull")
        self._futures: dict[str, Future[Path]] = {}
        self._arrivals: dict[str, Arrival] = {}
        self._lock = threading.Lock()

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:
        """Return the image for platform; its manifest and config are in the store from now on."""
        root, content = self._documents.root(progress)
        return self._documents.resolve(root, content, platform, progress)

    def prefetch(self, layers: Iterable[oci.Descriptor], progress: Progress) -> None:
        """Start to fetch layers into the store."""
        for layer in layers:
            with self._lock:
                if layer.digest not in self._futures:
                    arrival = self._arrivals[layer.digest] = Arrival()
                    future = self._workers.submit(partial(self._fetch, layer, progress, arrival))
                    future.add_done_callback(arrival.ends)
                    self._futures[layer.digest] = future

    def is_near(self, layer: oci.Descriptor) -> bool:
        """Tell whether a layer is in the store, or will not come."""
        future = self._futures.get(layer.digest)
        return future is not None and future.done()

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        """Open a layer in the store, or on its way there."""
        self.prefetch([layer], progress)
        future = self._futures[layer.digest]
        arriving = self._arrivals[layer.digest].open(future.result)
        if arriving:
            return arriving
        return os.fdopen(files.open_regular(future.result()), "rb", buffering=0)

    def close(self) -> None:
        """Give up downloads (the next run goes on where they were) and close connections."""
        self._places.stop.set()
        self._workers.close()
        self._places.close()
        for arrival in self._arrivals.values():
            arrival.close()

    def _fetch(self, layer: oci.Descriptor, progress: Progress, arrival: Arrival) -> Path:
        if self._store.has(layer):
            return self._store.blob_path(layer.digest)
        with progress.task(layer.digest[:19], layer.size) as task:
            # What one place has sent may be wrong, and right at the next.
            followed = arrival if self._places.is_single else None

            def ingest(client: Registry) -> Path:
                return self._store.ingest(
                    layer,
                    lambda offset: client.blob(layer, offset),
                    task,
                    self._places.stop.is_set,
                    followed,
                )

            return self._places.anywhere(ingest, progress)
