"""What the converter's tests share: tiny images, a running registry, a proxy that misbehaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import SourceImage, open_source
from hyperbuild.converter.store import Store
from tests.support.layers import f, layer, layout
from tests.support.registry import Proxy, push, serve_proxy, serve_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

AMD64 = Platform("linux", "amd64")

#: No test waits longer than it must.
IMPATIENT = RegistrySettings(pause=0.01, patience=2.0, connect_timeout=5.0, read_timeout=10.0)


@dataclass(frozen=True, slots=True)
class Puller:
    """Pulls with a store of its own, as one run of the program does."""

    store: Store
    settings: RegistrySettings = IMPATIENT

    def resolve(self, name: str, platform: Platform = AMD64) -> SourceImage:
        """Return the image that name is for platform."""
        with open_source(parse_reference(name), store=self.store, settings=self.settings) as source:
            return source.resolve(platform, QUIET)

    def layers(self, name: str, platform: Platform = AMD64) -> list[bytes]:
        """Return the bytes of the image's layers, still compressed."""
        with open_source(parse_reference(name), store=self.store, settings=self.settings) as source:
            image = source.resolve(platform, QUIET)
            source.prefetch(image.manifest.layers, QUIET)
            layers = []
            for layer in image.manifest.layers:
                with source.open_layer(layer, QUIET) as file:
                    layers.append(file.read() or b"")
            return layers


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(Store(tmp_path / "store"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout, tag latest: one gzip layer, and one plain layer of about 2 MiB."""
    noise = bytes((i * 2654435761 >> 13) & 0xFF for i in range(1 << 21))
    layers = (layer(f("etc/hostname", "small\n")), layer(f("srv/noise", noise)))
    return layout(tmp_path_factory.mktemp("small") / "layout", *layers, compress=(True, False))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[str]:
    """A plain registry that holds small as test/small:latest and :other; gives HOST:PORT."""
    with serve_registry(tmp_path_factory.mktemp("registry")) as host:
        push(small, f"{host}/test/small:latest")
        push(small, f"{host}/test/small:other")
        yield host


@pytest.fixture
def proxy(registry: str) -> Iterator[Proxy]:
    """A proxy in front of registry, without a fault yet."""
    with serve_proxy(registry) as running:
        yield running
