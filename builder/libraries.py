"""Which libraries of a program its loader will not find in an image (ld.so(8), musl's dynlink.c).

A finding here keeps a VM from being started, so whatever the loaders might do to find a library is
taken for granted.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from hyperbuild.builder.programs import read_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperbuild.builder.programs import Program
    from hyperbuild.converter.convert import Rootfs
    from hyperbuild.converter.tree import Inode

    #: Finds a path of the image as the guest would.
    Lookup = Callable[[str], Inode | None]

_LIBRARY_LIMIT = 512
_SETTINGS_LIMIT = 1 << 16
_CACHE_LIMIT = 4 << 20
#: Honest images have a few dozen; what lies in more directories than this is not looked for.
_DIRECTORY_LIMIT = 1000
_DEFAULT_DIRECTORIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
#: The names that musl's libc.so answers to itself, glibc's libraries among them.
_BUILT_INTO_MUSL = re.compile(r"lib(c|pthread|rt|m|dl|util|xnet)\.")
_MUSL_LOADER = "ld-musl-"


def missing_libraries(
    path: str, program: Program, rootfs: Rootfs, lookup: Lookup, library_path: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield (library, who needs it) for what the program at path, and its libraries, will lack.

    library_path is LD_LIBRARY_PATH.
    """
    search = _Search(program, rootfs, lookup, library_path)
    seen: set[str] = set()
    pending = [(path, program)]
    while pending and len(seen) < _LIBRARY_LIMIT:
        user, needs = pending.pop()
        for name in needs.needed:
            if name in seen:
                continue
            seen.add(name)
            found = search.find(name, user, needs)
            if found is None:
                yield name, user
                continue
            inode = lookup(found) if found else None
            library = read_program(rootfs, inode) if inode else None
            if library:
                pending.append((found, library))


class _Search:
    """Where one program's loader looks."""

    def __init__(
        self, program: Program, rootfs: Rootfs, lookup: Lookup, library_path: tuple[str, ...]
    ) -> None:
        self._program = program
        self._rootfs = rootfs
        self._lookup = lookup
        self._has_musl = any(
            os.fsdecode(name).startswith(_MUSL_LOADER) for name in self._names("/lib")
        )
        directories = (
            *library_path,
            *self._configured(),
            *_DEFAULT_DIRECTORIES,
            *self._multiarch(),
            *self._cached(),
        )
        self._directories = directories[:_DIRECTORY_LIMIT]
        self._is_all = len(directories) <= _DIRECTORY_LIMIT

    def find(self, name: str, user: str, needs: Program) -> str | None:
        """Return where the library name lies that user needs; "" if it need not lie anywhere."""
        if self._has_musl and _BUILT_INTO_MUSL.match(name):
            return ""
        own = (*needs.paths, *self._program.paths)
        paths = [_expanded(text, user) for text in own[:_DIRECTORY_LIMIT]]
        places = [f"{directory}/{name}" for directory in (*paths, *self._directories)]
        found = next(filter(self._lookup, [name] if "/" in name else places), None)
        # What $LIB and $PLATFORM stand for is the loader's secret.
        is_known = self._is_all and len(paths) == len(own) and not any("$" in p for p in paths)
        return found if found or is_known else ""

    def _names(self, directory: str) -> list[bytes]:
        inode = self._lookup(directory)
        return sorted((inode and inode.children) or ())

    def _multiarch(self) -> tuple[str, ...]:
        """Return the directories that Debian's loader looks into without being told."""
        return tuple(
            f"{base}/{os.fsdecode(name)}"
            for base in ("/lib", "/usr/lib")
            for name in self._names(base)
            if b"-linux-" in name
        )

    def _configured(self) -> tuple[str, ...]:
        """Return the directories of /etc/ld.so.conf, or of musl's path file."""
        loader = self._program.loader
        if _MUSL_LOADER in loader:
            machine = loader.rpartition(_MUSL_LOADER)[2].partition(".")[0]
            text = self._settings(f"/etc/{_MUSL_LOADER}{machine}.path")
            return tuple(text.replace(":", "\n").split())
        texts = [self._settings("/etc/ld.so.conf")]
        texts += [
            self._settings(f"/etc/ld.so.conf.d/{os.fsdecode(name)}")
            for name in self._names("/etc/ld.so.conf.d")[:_LIBRARY_LIMIT]
            if name.endswith(b".conf")
        ]
        lines = (line.partition("#")[0].strip() for text in texts for line in text.splitlines())
        return tuple(line for line in lines if line.startswith("/"))

    def _cached(self) -> tuple[str, ...]:
        """Return the directories of all that ldconfig found when the image was built."""
        raw = self._rootfs.read_file(b"/etc/ld.so.cache", _CACHE_LIMIT) or b""
        paths = (text for text in raw.split(b"\0") if text.startswith(b"/"))
        return tuple(sorted({os.fsdecode(path.rpartition(b"/")[0]) for path in paths}))

    def _settings(self, path: str) -> str:
        raw = self._rootfs.read_file(os.fsencode(path), _SETTINGS_LIMIT) or b""
        return raw.decode("utf-8", "surrogateescape")


def _expanded(text: str, user: str) -> str:
    origin = os.path.dirname(user)  # noqa: PTH120 - a path in the guest
    for word in ("$ORIGIN", "${ORIGIN}"):
        text = text.replace(word, origin)
    return text
