"""Files of variables, as docker's --env-file has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LIMIT = 1 << 20


def read_env_file(path: Path, environ: Mapping[str, str]) -> list[str]:
    """Return the variables of path, "NAME=value" each.

    A value is the line's rest as it stands, quotes included. NAME alone takes environ's value, or
    is left out if that has none. Empty lines and those with # first are skipped. InputError names
    the line of what is wrong; UnavailableError: the file can't be read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read(_LIMIT + 1)
    if len(raw) > _LIMIT:
        raise InputError(f"{path} is larger than {_LIMIT >> 10} KiB: no file of variables")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; correct it") from error
    return list(_variables(text, path, environ))


def _variables(text: str, path: Path, environ: Mapping[str, str]) -> Iterator[str]:
    for number, whole in enumerate(text.split("\n"), 1):
        line = whole.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name or "\0" in line or any(letter.isspace() for letter in name):
            raise InputError(
                f"{path}, line {number}: {printable(line[:80])!r} is not NAME=value or NAME"
            )
        if equals:
            yield line
        elif name in environ:
            yield f"{name}={environ[name]}"
