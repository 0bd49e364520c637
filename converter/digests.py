"""The spelling of digests, apart from the documents that use them: it is read at every boot."""

from __future__ import annotations

import re

from hyperbuild.converter.errors import ContentError, printable

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def check_digest(text: object, where: str) -> str:
    """Return text as an "algorithm:hex" digest; ContentError names where it stood."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ContentError(f"{where}: {printable(str(text))!r} is not a sha256 or sha512 digest")
    return text


def is_digest(text: str) -> bool:
    """Tell whether text is a sha256 or sha512 digest."""
    return _DIGEST.fullmatch(text) is not None
