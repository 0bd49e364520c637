"""What dpkg has installed, by its status file (deb-control(5), dpkg-query(1))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.builder.installed import Package, read_stanzas

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = frozenset((b"Package", b"Version", b"Architecture", b"Status", b"Source"))
#: States in which nothing of a package is left but its name, or files that somebody edited.
_GONE = ("not-installed", "config-files")


def read_dpkg(content: bytes) -> Iterator[Package]:
    """Yield the packages of a status file, or of a piece of one (distroless images' status.d)."""
    for fields in read_stanzas(content, _FIELDS):
        name, version = fields.get(b"Package", ""), fields.get(b"Version", "")
        if name and version and not fields.get(b"Status", "").endswith(_GONE):
            arch = fields.get(b"Architecture", "")
            yield Package("deb", name, version, arch=arch, source=_source(fields, name, version))


def _source(fields: dict[bytes, str], name: str, version: str) -> str:
    """Return name and version of the source package; "" if they are those of the package."""
    source, _, built_from = fields.get(b"Source", name).partition(" ")
    built_from = built_from.strip("() ") or version
    return "" if (source, built_from) == (name, version) else f"{source} {built_from}"
