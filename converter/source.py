"""Images from anywhere behind one protocol; what a source needs is imported when it is used."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hyperbuild.converter.limits import DEFAULT_LIMITS
from hyperbuild.converter.resolve import SourceImage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.converter import oci
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.settings import RegistrySettings
    from hyperbuild.converter.store import Store

__all__ = ["ImageSource", "SourceImage", "open_source"]


class ImageSource(Protocol):
    """A place that one image comes from.

    ``is_verified`` tells that layers are verified when they are brought near, once for all.
    """

    @property
    def is_verified(self) -> bool: ...  # noqa: D102 - see above

    def resolve(self, platform: oci.Platform, progress: Progress) -> SourceImage:
        """Return the image for platform, its documents verified; an error lists what exists."""

    def prefetch(self, layers: Iterable[oci.Descriptor], progress: Progress) -> None:
        """Start to bring layers near, in this order and several at once; returns at once."""

    def is_near(self, layer: oci.Descriptor) -> bool:
        """Tell whether all of a layer's bytes are here: opening and reading it need not wait."""

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        """Open a layer's bytes (still compressed), waiting until they are near.

        The file is seekable and has readinto. Whoever reads it verifies digest and size again.
        """

    def close(self) -> None:
        """End downloads and let go of connections, files and temporary space."""


@contextmanager
def open_source(
    reference: Reference,
    *,
    store: Store,
    settings: RegistrySettings,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[ImageSource]:
    """Open the place that reference names; close it at the end.

    limits bound what is unpacked to look inside (LimitError).
    """
    source = _open(reference, store, settings, limits)
    try:
        yield source
    finally:
        source.close()


def _open(
    reference: Reference, store: Store, settings: RegistrySettings, limits: Limits
) -> ImageSource:
    if reference.transport == "oci":
        from hyperbuild.converter.layout import open_layout

        return open_layout(reference, limits.document)
    if reference.transport in ("oci-archive", "docker-archive"):
        from hyperbuild.converter.archive import open_archive

        return open_archive(reference, store, limits)
    if reference.transport == "docker-daemon":
        from hyperbuild.converter.daemon import open_daemon

        return open_daemon(reference, store, settings, limits)
    from hyperbuild.converter.pull import RegistrySource

    return RegistrySource(reference, store, settings, limits.document)
