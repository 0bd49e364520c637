"""Which packages a finished root file system holds, and what it says of itself.

The databases of dpkg, apk and rpm lie at known paths, which are looked up as a guest would; what
languages' package managers have installed is seen on one walk over the tree. The image may be
anybody's: what is too large, damaged or of an unknown form is left out, with a notice that says so.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.installed import Package, clean
from hyperbuild.builder.installed_apk import read_apk
from hyperbuild.builder.installed_dpkg import read_dpkg
from hyperbuild.builder.installed_elf import read_program
from hyperbuild.builder.installed_java import ARCHIVES, read_archive
from hyperbuild.builder.installed_languages import read_composer, read_gem, read_npm, read_python
from hyperbuild.builder.installed_rpm import read_ndb, read_sqlite
from hyperbuild.converter.browse import browse
from hyperbuild.converter.errors import ContentError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hyperbuild.converter.browse import ImageFiles
    from hyperbuild.converter.verify_reader import FileInfo

_OS_RELEASE = (b"etc/os-release", b"usr/lib/os-release")
_DPKG, _DPKG_PIECES = b"var/lib/dpkg/status", b"var/lib/dpkg/status.d"
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_RPM = (b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"usr/share/rpm")
#: Sizes in bytes over which a file is no honest one's: databases, and metadata of one package.
_DATABASE_LIMIT = 128 << 20
_METADATA_LIMIT = 4 << 20
#: Of a Python package's metadata the beginning counts; its description may be a book.
_HEAD = 64 << 10
#: So much is read and unpacked at all, and so many packages, places of one and notices are kept.
_TOTAL = 2 << 30
_PACKAGES = 100_000
_PLACES = 16
_NOTICES = 20


@dataclass(frozen=True, slots=True)
class System:
    """What an image says it is (os-release(5)): "debian", "12", "Debian GNU/Linux 12"; or ""."""

    name: str = ""
    version: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What was found: each package with the paths that tell of it; what was not read, and why.

    ``made`` is when the root file system was made, in seconds since the epoch.
    """

    system: System
    packages: tuple[tuple[Package, tuple[str, ...]], ...]
    notices: tuple[str, ...]
    made: int


def catalogue(rootfs: Path) -> Catalogue:
    """List the packages in the root file system in the file rootfs.

    VerificationError if that is none, or broken.
    """
    with browse(rootfs) as files:
        system = _read_system(files)
        cataloguer = _Cataloguer(files)
        try:
            cataloguer.read_databases()
            cataloguer.walk()
        except _FullError as full:
            cataloguer.add_notice(str(full))
        return Catalogue(system, cataloguer.sorted(), cataloguer.notices(), files.made)


def read_os_release(content: bytes) -> System:
    """Read an os-release: lines of NAME=value, values perhaps quoted as in a shell."""
    fields = {}
    for line in content.splitlines():
        name, _, value = line.partition(b"=")
        fields[name.strip()] = clean(value.strip().strip(b"\"'"))
    title = fields.get(b"PRETTY_NAME", "")
    return System(fields.get(b"ID", ""), fields.get(b"VERSION_ID", ""), title)


def _read_system(files: ImageFiles) -> System:
    for path in _OS_RELEASE:
        info = files.find(path)
        if info and stat.S_ISREG(info.mode):
            return read_os_release(files.head(info, _HEAD))
    return System()


class _FullError(Exception):
    """There is more in the image than is listed."""


class _Cataloguer:
    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._found: dict[Package, dict[str, None]] = {}
        self._left = _TOTAL
        self._notices: list[str] = []
        self._more_notices = 0
        self._read: set[int] = set()

    def sorted(self) -> tuple[tuple[Package, tuple[str, ...]], ...]:
        rows = ((package, tuple(sorted(places))) for package, places in self._found.items())
        return tuple(sorted(rows, key=lambda row: (_key(row[0]), row[1])))

    def notices(self) -> tuple[str, ...]:
        more = self._more_notices
        return (*self._notices, *([f"{more} more files could not be read"] if more else []))

    def add_notice(self, text: str) -> None:
        if len(self._notices) < _NOTICES:
            self._notices.append(text)
        else:
            self._more_notices += 1

    def read_databases(self) -> None:
        for path in (_DPKG, *self._dpkg_pieces()):
            self._database(path, read_dpkg)
        for path in _APK:
            self._database(path, read_apk)
        for directory in _RPM:
            self._database(directory + b"/rpmdb.sqlite", read_sqlite)
            self._database(directory + b"/Packages.db", read_ndb)
            log = self._files.find(directory + b"/rpmdb.sqlite-wal")
            if log and log.size:
                self._notice(directory, "changes in rpmdb.sqlite-wal are not read")
            if self._regular(directory + b"/Packages"):
                self._notice(directory, "a database of rpm in Berkeley DB's format is not read")

    def walk(self) -> None:
        for path, info in self._files.walk():
            if not stat.S_ISREG(info.mode) or not info.size:
                continue
            parent, _, name = path.rpartition(b"/")
            reader = _metadata_reader(parent, name)
            if reader:
                self._metadata(path, info, reader, _HEAD if reader is read_python else 0)
            elif name.endswith(_ARCHIVES):
                self._archive(path, info)
            elif info.mode & 0o111:
                self._program(path, info)

    def _dpkg_pieces(self) -> Iterator[bytes]:
        directory = self._files.find(_DPKG_PIECES)
        if directory and stat.S_ISDIR(directory.mode):
            for name in sorted(self._files.names(directory)):
                if not name.endswith(b".md5sums"):
                    yield _DPKG_PIECES + b"/" + name

    def _regular(self, path: bytes) -> FileInfo | None:
        """Return the file at path, unless it was read by another path."""
        info = self._files.find(path)
        return info if info and stat.S_ISREG(info.mode) and info.nid not in self._read else None

    def _database(self, path: bytes, read: Callable[[bytes], Iterator[Package]]) -> None:
        info = self._regular(path)
        if info is None:
            return
        self._read.add(info.nid)
        content = self._content(path, info, _DATABASE_LIMIT)
        if content is not None:
            self._add(path, (("", package) for package in read(content)))

    def _metadata(self, path: bytes, info: FileInfo, read: _MetadataReader, head: int) -> None:
        if head:
            self._spend(min(head, info.size))
            content: bytes | None = self._files.head(info, head)
        else:
            content = self._content(path, info, _METADATA_LIMIT)
        if content is not None:
            name = os.fsdecode(path.rpartition(b"/")[2])
            self._add(path, (("", package) for package in read(content, name)))

    def _archive(self, path: bytes, info: FileInfo) -> None:
        name = os.fsdecode(path.rpartition(b"/")[2])
        with self._files.open(info) as stream:
            self._add(path, read_archive(stream, name, self._spend))
            self._spend(stream.taken)

    def _program(self, path: bytes, info: FileInfo) -> None:
        if self._files.head(info, 4) == b"\x7fELF" and info.nid not in self._read:
            self._read.add(info.nid)
            with self._files.open(info) as stream:
                self._add(path, (("", package) for package in read_program(stream)))
                self._spend(stream.taken)

    def _content(self, path: bytes, info: FileInfo, limit: int) -> bytes | None:
        if info.size > limit:
            self._notice(path, f"{info.size} bytes are more than such a file honestly has")
            return None
        self._spend(info.size)
        return self._files.read(info, limit)

    def _add(self, path: bytes, found: Iterable[tuple[str, Package]]) -> None:
        """Keep what is found at path; what is damaged ends there, with a notice."""
        try:
            for inner, package in found:
                place = printable(path) + printable(inner)
                places = self._found.setdefault(package, {})
                if len(places) < _PLACES:
                    places[place] = None
                if len(self._found) > _PACKAGES:
                    raise _FullError(f"of more than {_PACKAGES} packages no more are listed")
        except ContentError as error:
            self._notice(path, str(error))

    def _notice(self, path: bytes, text: str) -> None:
        self.add_notice(f"/{printable(path[:256])}: {text}; its packages are not all listed")

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _FullError("the metadata of its packages are too large; not all are listed")


def _key(package: Package) -> tuple[str, ...]:
    return (package.kind, package.namespace, package.name, package.version, package.arch)


if TYPE_CHECKING:
    _MetadataReader = Callable[[bytes, str], Iterator[Package]]

_ARCHIVES = tuple(os.fsencode(suffix) for suffix in ARCHIVES)
_NPM = re.compile(rb"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@][^/]*")


def _metadata_reader(parent: bytes, name: bytes) -> _MetadataReader | None:
    """Return what reads the metadata in the file name in the directory parent, if it is any."""
    if name == b"METADATA" and parent.endswith(b".dist-info"):
        return read_python
    if name.endswith(b".egg-info") or (name == b"PKG-INFO" and parent.endswith(b".egg-info")):
        return read_python
    if name == b"package.json" and _NPM.fullmatch(parent):
        return read_npm
    if name.endswith(b".gemspec") and b"/specifications" in parent[-24:]:
        return read_gem
    if name == b"installed.json" and parent.endswith(b"vendor/composer"):
        return read_composer
    return None
