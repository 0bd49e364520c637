"""What Java archives are: by Maven's own notes in them, by their manifest, or by their name.

Sources: the JAR file specification ("JAR Manifest"); Maven Archiver (pom.properties).
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, cast

from hyperbuild.builder.installed import Package, clean
from hyperbuild.converter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

ARCHIVES = (".jar", ".war", ".ear", ".jpi", ".hpi")
_POM = re.compile(r"META-INF/maven/[^/]+/[^/]+/pom\.properties")
_MANIFEST = "META-INF/MANIFEST.MF"
_NAMED = re.compile(r"(.+?)-([0-9].*)")
#: How much of a note is read, how large an archive in an archive may be, and how deep they nest.
_NOTE_LIMIT = 64 << 10
_INNER_LIMIT = 32 << 20
_DEPTH = 3
#: Others ask for memory that their own headers name, or for a password.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


def read_archive(
    stream: io.RawIOBase | io.BytesIO, name: str, spend: Callable[[int], None]
) -> Iterator[tuple[str, Package]]:
    """Yield (place, package) of the archive in stream and of those in it, in their order.

    name is its file's; place is "" for its own, "!/INNER" for those of an archive in it. spend is
    told how many bytes are unpacked, before they are. ContentError if it is no archive.
    """
    yield from _archive(cast("IO[bytes]", stream), name, "", spend)


def _archive(
    stream: IO[bytes], name: str, place: str, spend: Callable[[int], None]
) -> Iterator[tuple[str, Package]]:
    try:
        with zipfile.ZipFile(stream) as archive:
            for package in _own(archive, name, spend):
                yield place, package
            for info in _inner(archive) if place.count("!/") < _DEPTH else ():
                spend(info.file_size)
                inner, leaf = io.BytesIO(archive.read(info)), info.filename.rpartition("/")[2]
                yield from _archive(inner, leaf, f"{place}!/{info.filename}", spend)
    except (
        zipfile.BadZipFile, zlib.error, struct.error, ValueError, LookupError, EOFError,
        NotImplementedError, OSError, OverflowError, RuntimeError,
    ) as error:  # fmt: skip
        raise ContentError(f"the archive {name}{place} is damaged") from error


def _inner(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for info in archive.infolist():
        if info.filename.endswith(ARCHIVES) and info.file_size <= _INNER_LIMIT and _readable(info):
            yield info


def _readable(info: zipfile.ZipInfo) -> bool:
    return info.compress_type in _METHODS and not info.flag_bits & _ENCRYPTED


def _own(archive: zipfile.ZipFile, name: str, spend: Callable[[int], None]) -> Iterator[Package]:
    """Yield what an archive is itself: of one that others were unpacked into, those too."""
    notes = [info for info in archive.infolist() if _POM.fullmatch(info.filename)]
    found = False
    for info in filter(_readable, notes):
        fields = _properties(_note(archive, info, spend))
        group, artifact = fields.get("groupId", ""), fields.get("artifactId", "")
        if artifact:
            found = True
            yield Package("maven", artifact, fields.get("version", ""), namespace=group)
    if not found:
        yield _by_manifest(archive, name, spend)


def _by_manifest(archive: zipfile.ZipFile, name: str, spend: Callable[[int], None]) -> Package:
    info = archive.NameToInfo.get(_MANIFEST)
    fields = _manifest(_note(archive, info, spend)) if info and _readable(info) else {}
    stem = name.rpartition(".")[0]
    named = _NAMED.fullmatch(stem)
    artifact, version = (named[1], named[2]) if named else (stem, "")
    known = fields.get("Implementation-Version") or fields.get("Bundle-Version") or version
    group = fields.get("Implementation-Vendor-Id", "")
    return Package(
        "maven", clean(artifact) or "archive", known,
        namespace=group, license=fields.get("Bundle-License", ""),
    )  # fmt: skip


def _note(archive: zipfile.ZipFile, info: zipfile.ZipInfo, spend: Callable[[int], None]) -> bytes:
    spend(_NOTE_LIMIT)
    with archive.open(info) as file:
        return file.read(_NOTE_LIMIT)


def _properties(content: bytes) -> dict[str, str]:
    lines = (line.partition(b"=") for line in content.splitlines() if not line.startswith(b"#"))
    return {clean(name): clean(value) for name, equals, value in lines if equals}


def _manifest(content: bytes) -> dict[str, str]:
    """Return the main attributes; a line that begins with a space goes on with the one before."""
    main = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[0]
    lines = re.sub(rb"\r?\n ", b"", main).splitlines()
    pairs = (line.partition(b":") for line in lines)
    return {clean(name): clean(value) for name, _, value in pairs}
