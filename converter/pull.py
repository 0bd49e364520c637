"""An image from a registry: documents and layers verified into the store, several at once."""

from __future__ import annotations

import io
import json
import os
import queue
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from hyperbuild.converter import files, oci
from hyperbuild.converter.arrival import Arrival
from hyperbuild.converter.errors import ContentError, HyperbuildError
from hyperbuild.converter.partial import CancelledError
from hyperbuild.converter.resolve import SourceImage, resolve, verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.registry import Endpoint, Registry
    from hyperbuild.converter.settings import RegistrySettings
    from hyperbuild.converter.store import Store

Result = TypeVar("Result")

#: How long the end of a source waits for connections to notice it.
_GRACE_SECONDS = 1.0


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
        self._limit = limit
        self._reference = reference
        self._store = store
        self._settings = settings
        self._stop = threading.Event()
        self._workers = _Workers(settings.connections)
        self._futures: dict[str, Future[Path]] = {}
        self._arrivals: dict[str, Arrival] = {}
        self._local = threading.local()
        self._clients: list[Registry] = []
        self._lock = threading.Lock()

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:
        """Return the image for platform; its manifest and config are in the store from now on."""
        root, content = self._root(progress)

        def read(descriptor: oci.Descriptor) -> bytes:
            return content if descriptor is root else self._document(descriptor, progress)

        image = resolve(self._reference, [root], platform, read, self._limit)
        self._store.put(image.manifest.raw, image.manifest.media_type)
        return image

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
        self._stop.set()
        self._workers.close()
        for client in self._clients:
            client.close()
        for arrival in self._arrivals.values():
            arrival.close()

    def _root(self, progress: Progress) -> tuple[oci.Descriptor, bytes]:
        reference = self._reference
        if reference.digest:
            known = self._known(reference.digest)
            if known:
                return known
        content, media_type = self._anywhere(
            lambda client: client.manifest(reference.digest or reference.tag, self._limit), progress
        )
        return _describe(content, media_type, reference), content

    def _known(self, digest: str) -> tuple[oci.Descriptor, bytes] | None:
        path = self._store.blob_path(digest)
        try:
            size = path.stat().st_size
        except OSError:
            return None
        content = self._store.read(oci.Descriptor("", digest, size))
        return (_describe(content, "", self._reference), content) if content else None

    def _document(self, descriptor: oci.Descriptor, progress: Progress) -> bytes:
        content = self._store.read(descriptor)
        if content is not None:
            return content

        def fetch(client: Registry) -> bytes:
            if descriptor.media_type in oci.INDEX_TYPES | oci.MANIFEST_TYPES:
                found, _ = client.manifest(descriptor.digest, self._limit)
            else:
                found = b"".join(_bounded(client, descriptor))
            return verified(descriptor, found, client.endpoint.name)

        content = self._anywhere(fetch, progress)
        self._store.put(content, descriptor.media_type)
        return content

    def _fetch(self, layer: oci.Descriptor, progress: Progress, arrival: Arrival) -> Path:
        if self._store.has(layer):
            return self._store.blob_path(layer.digest)
        with progress.task(layer.digest[:19], layer.size) as task:
            # What one place has sent may be wrong, and right at the next.
            followed = arrival if len(self._places) == 1 else None

            def ingest(client: Registry) -> Path:
                return self._store.ingest(
                    layer,
                    lambda offset: client.blob(layer, offset),
                    task,
                    self._stop.is_set,
                    followed,
                )

            return self._anywhere(ingest, progress)

    def _anywhere(self, action: Callable[[Registry], Result], progress: Progress) -> Result:
        """Return what action gives at the first place where it succeeds; mirrors may fail."""
        *mirrors, origin = self._places
        for mirror in mirrors:
            try:
                return action(self._client(mirror))
            except CancelledError:
                raise
            except HyperbuildError as error:
                progress.say(f"mirror {error}")
        return action(self._client(origin))

    @cached_property
    def _places(self) -> list[Endpoint]:
        # oras takes a fifth of a second to import: not spent on what the store has already.
        from hyperbuild.converter.registry import endpoints
        from hyperbuild.converter.transfer import Patience

        patience = Patience(self._settings, self._stop)
        return endpoints(self._reference.registry, self._reference.repository, patience)

    def _client(self, endpoint: Endpoint) -> Registry:
        from hyperbuild.converter.registry import Registry

        clients: dict[str, Registry] = self._local.__dict__
        client = clients.get(endpoint.base)
        if client is None:
            client = clients[endpoint.base] = Registry(endpoint)
            with self._lock:
                self._clients.append(client)
        return client


class _Workers:
    """A few threads that do what is submitted, in order.

    They are daemons: one that is stuck in a silent connection must not hold up the program's end.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[tuple[Future[Path], Callable[[], Path]] | None]
        self._queue = queue.SimpleQueue()

    def submit(self, work: Callable[[], Path]) -> Future[Path]:
        """Have work done; the future gives its result or its error."""
        future: Future[Path] = Future()
        self._queue.put((future, work))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, daemon=True, name="pull")
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Drop what was not begun and wait a moment for what was."""
        with suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item:
                    item[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)

    def _run(self) -> None:
        while item := self._queue.get():
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # raised again where it is waited for
                    future.set_exception(error)


def _bounded(client: Registry, descriptor: oci.Descriptor) -> Iterator[bytes]:
    """Yield a small blob's bytes, and a piece more than declared at most."""
    position = 0
    for piece in client.blob(descriptor):
        yield piece
        position += len(piece)
        if position > descriptor.size:
            return


def _describe(content: bytes, media_type: str, reference: Reference) -> oci.Descriptor:
    """Return the descriptor of a manifest or index; what it says of itself counts first."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ContentError(
            f"{reference}: the registry's answer is no manifest; check the host and port"
        ) from error
    own = fields.get("mediaType") if isinstance(fields, dict) else None
    if isinstance(own, str) and own:
        media_type = own
    elif media_type not in oci.INDEX_TYPES | oci.MANIFEST_TYPES and isinstance(fields, dict):
        if fields.get("schemaVersion") == 2:
            media_type = oci.OCI_INDEX if "manifests" in fields else oci.OCI_MANIFEST
        elif fields.get("schemaVersion") == 1:
            media_type = oci.SCHEMA_1
    return oci.Descriptor(media_type, oci.digest_of(content), len(content))
