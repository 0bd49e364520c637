"""What apk has installed (Alpine's wiki: "Apk spec", the format of lib/apk/db/installed)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.builder.installed import Package, read_stanzas

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = frozenset((b"P", b"V", b"A", b"L", b"o"))


def read_apk(content: bytes) -> Iterator[Package]:
    """Yield the packages of the database of installed packages."""
    for fields in read_stanzas(content, _FIELDS):
        name, version = fields.get(b"P", ""), fields.get(b"V", "")
        if name and version:
            origin = fields.get(b"o", "")
            yield Package(
                "apk", name, version,
                arch=fields.get(b"A", ""),
                license=fields.get(b"L", ""),
                source="" if origin in ("", name) else f"{origin} {version}",
            )  # fmt: skip
