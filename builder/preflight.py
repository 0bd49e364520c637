"""What in an image will keep its application from starting, seen without starting it.

The rules are Linux's and the guest's (docs/hyperstart.md): the command is looked up along PATH, its
``#!`` lines are followed, and an ELF file needs its own machine, its loader and its libraries. The
guest's answer at boot is the last word, so what is found here is told, not enforced.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

from hyperbuild.converter.errors import printable
from hyperbuild.converter.extents import BLOCK_SIZE
from hyperbuild.launcher.spec import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from hyperbuild.converter.convert import Rootfs
    from hyperbuild.converter.tree import Inode
    from hyperbuild.launcher.bundle import Process

#: Linux follows this many ``#!`` lines (BINPRM_MAX_RECURSION), each of at most 256 bytes.
SCRIPT_LEVELS = 4
_SCRIPT_LINE = 256
_LIBRARY_LIMIT = 512
_TAG_LIMIT = 4096
_SETTINGS_LIMIT = 1 << 16
_MACHINES = {
    "amd64": ("EM_X86_64", "EM_386"),
    "386": ("EM_386",),
    "arm64": ("EM_AARCH64", "EM_ARM"),
    "arm": ("EM_ARM",),
    "riscv64": ("EM_RISCV",),
    "ppc64le": ("EM_PPC64",),
    "s390x": ("EM_S390",),
}
_DEFAULT_DIRECTORIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")


@dataclass(frozen=True, slots=True)
class Warn:
    """One finding: its name ("command", "workdir", "machine", "loader", "library") and text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class _Program:
    """What an ELF file says of what it needs."""

    machine: str
    loader: str
    needed: tuple[str, ...]
    paths: tuple[str, ...]


def check_start(process: Process, architecture: str, rootfs: Rootfs) -> list[Warn]:
    """Return what will keep process from starting in rootfs on a CPU of architecture ("amd64")."""
    return list(_Check(process, architecture, rootfs).findings())


class _Check:
    def __init__(self, process: Process, architecture: str, rootfs: Rootfs) -> None:
        self._process = process
        self._architecture = architecture
        self._rootfs = rootfs
        variables = dict(text.partition("=")[::2] for text in process.env)
        self._path = variables.get("PATH", DEFAULT_PATH)
        self._library_path = tuple(filter(None, variables.get("LD_LIBRARY_PATH", "").split(":")))

    def findings(self) -> Iterator[Warn]:
        workdir = self._lookup(self._process.cwd)
        if workdir is not None and not workdir.is_directory:
            yield Warn("workdir", f"the working directory {self._process.cwd} is no directory")
            return
        if not self._process.args or not self._process.args[0]:
            return
        name = self._process.args[0]
        path = self._command(name)
        if path is None:
            place = "in the image" if "/" in name else f"in PATH ({self._path})"
            yield Warn("command", f"the command {name} is not {place}")
        else:
            yield from self._executable(path, "the command", SCRIPT_LEVELS)

    def _lookup(self, path: str) -> Inode | None:
        absolute = path if path.startswith("/") else f"{self._process.cwd}/{path}"
        return self._rootfs.tree.lookup(os.fsencode(absolute))

    def _command(self, name: str) -> str | None:
        """Find a command as execvp does: the first that may be executed, else the first."""
        if "/" in name:
            return name if self._lookup(name) else None
        found = [
            path for part in self._path.split(":") if self._lookup(path := f"{part or '.'}/{name}")
        ]
        runnable = (path for path in found if self._may_execute(self._lookup(path)))
        return next(runnable, found[0] if found else None)

    def _may_execute(self, inode: Inode | None) -> bool:
        if inode is None or not stat.S_ISREG(inode.mode):
            return False
        user = self._process.user
        if user.uid == 0:
            return bool(inode.mode & 0o111)
        if inode.uid == user.uid:
            return bool(inode.mode & 0o100)
        if inode.gid in (user.gid, *user.groups):
            return bool(inode.mode & 0o010)
        return bool(inode.mode & 0o001)

    def _executable(self, path: str, what: str, levels: int) -> Iterator[Warn]:
        inode = self._lookup(path)
        if inode is None:
            yield Warn("command", f"{what} {path} is not in the image")
            return
        if not self._may_execute(inode):
            yield Warn("command", f"{what} {path} is no file that its user may execute")
            return
        head = _read(self._rootfs, inode, _SCRIPT_LINE)
        if head.startswith(b"#!"):
            words = head[2:].partition(b"\n")[0].split()
            if not words or not levels:
                yield Warn("command", f"{what} {path} names no interpreter that Linux would reach")
                return
            yield from self._executable(
                os.fsdecode(words[0]), f"the interpreter of {path},", levels - 1
            )
            if words[0].endswith(b"/env") and words[1:] and words[1][:1] != b"-":
                wanted = os.fsdecode(words[1])
                if b"=" not in words[1] and self._command(wanted) is None:
                    yield Warn("command", f"the interpreter of {path}, {wanted}, is not in PATH")
        elif head.startswith(b"\x7fELF"):
            yield from self._elf(path, inode)
        else:
            yield Warn("command", f"{what} {path} is neither an ELF file nor a script with #!")

    def _elf(self, path: str, inode: Inode) -> Iterator[Warn]:
        program = _read_elf(self._rootfs, inode)
        if program is None:
            yield Warn("machine", f"{path} is a damaged ELF file")
            return
        machines = _MACHINES.get(self._architecture)
        if machines and program.machine not in machines:
            yield Warn("machine", f"{path} is for {program.machine}, not for {self._architecture}")
            return
        if program.loader and self._lookup(program.loader) is None:
            yield Warn("loader", f"{program.loader}, the ELF loader of {path}, is not in the image")
            return
        if program.loader:
            yield from self._libraries(path, program)

    def _libraries(self, path: str, program: _Program) -> Iterator[Warn]:
        """Look for what the program needs, and what that needs, as its loader will."""
        directories = (
            *self._library_path,
            *self._configured(program.loader),
            *_DEFAULT_DIRECTORIES,
        )
        seen: set[str] = set()
        pending = [(path, program)]
        while pending and len(seen) < _LIBRARY_LIMIT:
            user, needs = pending.pop()
            own = tuple(self._expand(text, user) for text in (*needs.paths, *program.paths))
            for name in needs.needed:
                if name in seen:
                    continue
                seen.add(name)
                found = next(filter(self._lookup, self._places(name, (*own, *directories))), None)
                if found is None:
                    yield Warn("library", f"{name}, which {user} needs, is not in the image")
                    continue
                inode = self._lookup(found)
                library = _read_elf(self._rootfs, inode) if inode else None
                if library:
                    pending.append((found, library))

    def _places(self, name: str, directories: tuple[str, ...]) -> Iterator[str]:
        if "/" in name:
            yield name
            return
        for directory in directories:
            yield f"{directory}/{name}"
        # Debian's loader looks into its multiarch directories without being told.
        for base in ("/lib", "/usr/lib"):
            inode = self._lookup(base)
            for entry in (inode and inode.children) or ():
                if b"-linux-" in entry:
                    yield f"{base}/{os.fsdecode(entry)}/{name}"

    def _expand(self, text: str, user: str) -> str:
        origin = os.path.dirname(user)  # noqa: PTH120 - a path in the guest
        for word in ("$ORIGIN", "${ORIGIN}"):
            text = text.replace(word, origin)
        return text

    def _configured(self, loader: str) -> tuple[str, ...]:
        """Return the directories of /etc/ld.so.conf, or of musl's path file."""
        if "ld-musl-" in loader:
            machine = loader.rpartition("ld-musl-")[2].partition(".")[0]
            text = self._settings(f"/etc/ld-musl-{machine}.path")
            return tuple(text.replace(":", "\n").split())
        texts = [self._settings("/etc/ld.so.conf")]
        folder = self._lookup("/etc/ld.so.conf.d")
        texts += [
            self._settings(f"/etc/ld.so.conf.d/{os.fsdecode(name)}")
            for name in sorted((folder and folder.children) or ())[:_LIBRARY_LIMIT]
            if name.endswith(b".conf")
        ]
        lines = (line.partition("#")[0].strip() for text in texts for line in text.splitlines())
        return tuple(line for line in lines if line.startswith("/"))

    def _settings(self, path: str) -> str:
        raw = self._rootfs.read_file(os.fsencode(path), _SETTINGS_LIMIT) or b""
        return raw.decode("utf-8", "surrogateescape")


class _Window(io.RawIOBase):
    """A file of the root file system as a seekable stream; nothing is read ahead."""

    def __init__(self, rootfs: Rootfs, inode: Inode) -> None:
        self._fd = rootfs.fd
        self._start = inode.block * BLOCK_SIZE
        self._size = inode.size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._size)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._fd, count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _read(rootfs: Rootfs, inode: Inode, size: int) -> bytes:
    return _Window(rootfs, inode).read(min(size, inode.size)) or b"" if inode.size else b""


def _read_elf(rootfs: Rootfs, inode: Inode) -> _Program | None:
    """Read headers and dynamic section of an ELF file; None if it is damaged or none."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    if not stat.S_ISREG(inode.mode) or not inode.size:
        return None
    stream = io.BufferedReader(_Window(rootfs, inode), BLOCK_SIZE)
    loader, needed, paths = "", [], []
    try:
        elf = ELFFile(cast("IO[bytes]", stream))
        for segment in islice(elf.iter_segments(), _TAG_LIMIT):
            if isinstance(segment, InterpSegment):
                loader = printable(segment.get_interp_name())
            elif isinstance(segment, DynamicSegment):
                for tag in islice(segment.iter_tags(), _TAG_LIMIT):
                    if tag.entry.d_tag == "DT_NEEDED":
                        needed.append(str(getattr(tag, "needed")))  # noqa: B009 - made by the tag's kind
                    elif tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                        kind = tag.entry.d_tag.removeprefix("DT_").lower()
                        text = str(getattr(tag, kind))
                        paths += text.split(":")
        machine = str(elf["e_machine"])
    except (
        ELFError, ConstructError, ValueError, OverflowError, AttributeError, TypeError, KeyError,
        AssertionError, MemoryError, RecursionError, OSError,
    ):  # fmt: skip
        # A hostile file may be wrong in any way that the library did not foresee.
        return None
    return _Program(machine, loader, tuple(needed), tuple(paths))
