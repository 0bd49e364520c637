"""What tests of pulling share: the layers of "small", and what a pull left in the store."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from hyperbuild.converter import oci
from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source
from tests.converter.conftest import AMD64, IMPATIENT, Puller
from tests.support.registry import (
    Answer,
)

SIZE_OVER = 1 << 20  # the second layer of "small" is larger


def blobs(layout: Path) -> list[bytes]:
    """The layers of small, from its layout."""
    manifest = json.loads(_blob(layout, json.loads((layout / "index.json").read_text())))
    return [_read(layout, layer["digest"]) for layer in manifest["layers"]]


def _blob(layout: Path, index: dict) -> bytes:
    return _read(layout, index["manifests"][0]["digest"])


def _read(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def big(answer: Answer) -> bool:
    return answer.status in (200, 206) and len(answer.body) > SIZE_OVER


def is_blob(seen) -> bool:
    return "/blobs/" in seen.path


def with_settings(puller: Puller, **changes) -> Puller:
    return replace(puller, settings=replace(IMPATIENT, **changes))


def leftovers(puller: Puller) -> list[Path]:
    return [path for path in (puller.store.root / ".partial").glob("*") if path.is_file()]


def stored_layers(puller: Puller, layout: Path) -> int:
    return sum(puller.store.blob_path(oci.digest_of(blob)).exists() for blob in blobs(layout))


def flip(answer: Answer) -> None:
    answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])


def convert_from(name: str, puller: Puller) -> int:
    """Convert an image straight from where it is, and return the root file system's size."""
    fd = os.memfd_create("rootfs")
    try:
        with open_source(
            parse_reference(name), store=puller.store, settings=puller.settings
        ) as source:
            image = source.resolve(AMD64, QUIET)
            return convert(
                image, source, fd, rootfs_format=FORMATS["erofs"], epoch=0, progress=QUIET
            ).size
    finally:
        os.close(fd)
