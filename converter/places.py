"""Where a repository is: the registry and its mirrors, with a client of each for each thread."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.converter.partial import CancelledError
from hyperbuild.converter.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.registry import Endpoint, Registry
    from hyperbuild.converter.settings import RegistrySettings

Result = TypeVar("Result")


@contextmanager
def connected(
    reference: Reference, settings: RegistrySettings, name: str
) -> Iterator[tuple[Places, Workers]]:
    """Give the places of a repository, and threads called name to work there; both end with it."""
    with ExitStack() as stack:
        places = Places(reference, settings)
        stack.callback(places.close)
        workers = Workers(settings.connections, name)
        stack.callback(workers.close)
        stack.callback(places.stop.set)
        yield places, workers


class Places:
    """The places of the repository that reference names; ``stop`` ends what is under way there."""

    def __init__(self, reference: Reference, settings: RegistrySettings) -> None:
        self.stop = threading.Event()
        self._reference = reference
        self._settings = settings
        self._local = threading.local()
        self._clients: list[Registry] = []
        self._lock = threading.Lock()

    @property
    def is_single(self) -> bool:
        """Whether there is no other place to ask."""
        return len(self._endpoints) == 1

    def anywhere(self, action: Callable[[Registry], Result], progress: Progress) -> Result:
        """Return what action gives at the first place where it succeeds; mirrors may fail."""
        for mirror in self._endpoints[:-1]:
            try:
                return action(self._client(mirror))
            except CancelledError:
                raise
            except HyperbuildError as error:
                progress.say(f"mirror {error}")
        return action(self.origin())

    def origin(self) -> Registry:
        """Return this thread's client of the registry itself."""
        return self._client(self._endpoints[-1])

    def close(self) -> None:
        """Close the connections; what is under way fails."""
        self.stop.set()
        for client in self._clients:
            client.close()

    @cached_property
    def _endpoints(self) -> list[Endpoint]:
        # oras takes a fifth of a second to import: not spent on what the store has already.
        from hyperbuild.converter.registry import endpoints
        from hyperbuild.converter.transfer import Patience

        patience = Patience(self._settings, self.stop)
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
