"""A registry to push to, and something to push."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.builder.parcels import make_parcel
from tests.support.registry import serve_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.builder.parcels import Parcel


@pytest.fixture(scope="session")
def bare_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give "127.0.0.1:PORT" of a docker-registry that held nothing when the tests began."""
    with serve_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def parcel(bare_registry: str, tmp_path: Path) -> Parcel:
    """Give a bundle whose image is in the registry, under a name of the test's own."""
    return make_parcel(tmp_path, f"{bare_registry}/{tmp_path.name.lower()}/app:1")
