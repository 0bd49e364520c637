"""Files of TOML that people write: settings, recipes, policies."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT = 1 << 20


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return what the file path says; InputError if it is too large to be a what, or no TOML."""
    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read(_LIMIT + 1)
    if len(raw) > _LIMIT:
        raise InputError(f"{path} is larger than {_LIMIT >> 20} MiB: not a {what}")
    return parse_toml(raw, str(path))


def parse_toml(raw: bytes, name: str) -> dict[str, Any]:
    """Return what raw, which messages call name, says; InputError if it is no TOML."""
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not TOML: {error}; correct it there") from error
