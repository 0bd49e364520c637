"""What in an image will keep its application from starting, seen without starting it.

The rules are Linux's and the guest's (docs/hyperstart.md): the command is looked up along PATH, its
``#!`` lines are followed, and an ELF file needs its own machine, its loader and its libraries. What
is found is a warning when the image is converted and an error at boot, so a doubt is no finding.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from hyperbuild.builder.libraries import missing_libraries
from hyperbuild.builder.programs import read_head, read_program
from hyperbuild.launcher.bundle import Finding
from hyperbuild.launcher.spec import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.converter.convert import Rootfs
    from hyperbuild.converter.oci import Platform
    from hyperbuild.converter.tree import Inode
    from hyperbuild.launcher.bundle import Process

#: Linux follows this many ``#!`` lines (BINPRM_MAX_RECURSION), each of at most 256 bytes.
SCRIPT_LEVELS = 4
_SCRIPT_LINE = 256
_MACHINES = {
    "amd64": ("EM_X86_64", "EM_386"),
    "386": ("EM_386",),
    "arm64": ("EM_AARCH64", "EM_ARM"),
    "arm": ("EM_ARM",),
    "riscv64": ("EM_RISCV",),
    "ppc64le": ("EM_PPC64",),
    "s390x": ("EM_S390",),
}
#: What the kernels that are joined with images run.
_BOOTABLE = ("amd64", "386")
#: Mounted before the application starts: what is there is not the image's.
_MOUNTED = ("/proc/", "/dev/", "/sys/")
_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127


def check_start(process: Process, platform: Platform, rootfs: Rootfs, *, bootable: bool) -> Process:
    """Add to process's findings what will keep it from starting in rootfs, made for platform.

    bootable says that the image is joined with a kernel, which must fit too.
    """
    found = _Check(process, platform.architecture, rootfs).findings()
    if bootable and platform.architecture not in _BOOTABLE:
        text = f"the image is for {platform}, and its VM is of {_BOOTABLE[0]}"
        found = iter([Finding("machine", text, _NOT_EXECUTABLE)])
    return process.replace(findings=(*process.findings, *found))


class _Check:
    def __init__(self, process: Process, architecture: str, rootfs: Rootfs) -> None:
        self._process = process
        self._architecture = architecture
        self._rootfs = rootfs
        variables = dict(text.partition("=")[::2] for text in process.env)
        self._path = variables.get("PATH", DEFAULT_PATH)
        self._library_path = tuple(filter(None, variables.get("LD_LIBRARY_PATH", "").split(":")))

    def findings(self) -> Iterator[Finding]:
        workdir = self._workdir()
        if workdir:
            yield workdir
            return
        if not self._process.args or not self._process.args[0]:
            return
        name = self._process.args[0]
        path = self._command(name)
        if path is None:
            place = "in the image" if "/" in name else f"in PATH ({self._path})"
            yield Finding("command", f"the command {name} is not {place}", _NOT_FOUND)
        else:
            yield from self._executable(path, "the command", SCRIPT_LEVELS)

    def _workdir(self) -> Finding | None:
        """Say why the guest can neither enter the working directory nor make it."""
        cwd = self._process.cwd
        path, directory = "", self._rootfs.tree.root
        for name in filter(None, cwd.split("/")):
            path += f"/{name}"
            inode = self._lookup(path)
            if inode is None:
                if os.fsencode(name) in (directory.children or {}):
                    text = f"the working directory {cwd} leads through {path}, a broken link"
                    return Finding("workdir", text, _FAILED)
                return None
            if not inode.is_directory:
                what = "" if path == cwd else f": {path} is a file"
                return Finding(
                    "workdir", f"the working directory {cwd} is no directory{what}", _FAILED
                )
            directory = inode
        return None

    def _lookup(self, path: str) -> Inode | None:
        absolute = path if path.startswith("/") else f"{self._process.cwd}/{path}"
        return self._rootfs.tree.lookup(os.fsencode(absolute))

    def _command(self, name: str) -> str | None:
        """Find a command as execvp does: the first that may be executed, else the first."""
        if "/" in name:
            return name if name.startswith(_MOUNTED) or self._lookup(name) else None
        parts = self._path.split(":") if self._path else []
        found = [path for part in parts if self._lookup(path := f"{part or '.'}/{name}")]
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

    def _executable(self, path: str, what: str, levels: int) -> Iterator[Finding]:
        if path.startswith(_MOUNTED):
            return
        inode = self._lookup(path)
        if inode is None:
            yield Finding("command", f"{what} {path} is not in the image", _NOT_FOUND)
            return
        if not self._may_execute(inode):
            text = f"{what} {path} is no file that its user may execute"
            yield Finding("command", text, _NOT_EXECUTABLE)
            return
        head = read_head(self._rootfs, inode, _SCRIPT_LINE)
        if head.startswith(b"#!"):
            yield from self._script(path, what, head, levels)
        elif head.startswith(b"\x7fELF"):
            yield from self._elf(path, inode)
        else:
            text = f"{what} {path} is neither an ELF file nor a script with #!"
            yield Finding("command", text, _NOT_EXECUTABLE)

    def _script(self, path: str, what: str, head: bytes, levels: int) -> Iterator[Finding]:
        words = head[2:].partition(b"\n")[0].split()
        if not words or not levels:
            text = f"{what} {path} names no interpreter that Linux would reach"
            yield Finding("command", text, _NOT_EXECUTABLE)
            return
        interpreter = f"the interpreter of {path},"
        yield from self._executable(os.fsdecode(words[0]), interpreter, levels - 1)
        if words[0].endswith(b"/env") and words[1:] and words[1][:1] != b"-":
            wanted = os.fsdecode(words[1])
            if b"=" not in words[1] and self._command(wanted) is None:
                yield Finding("command", f"{interpreter} {wanted}, is not in PATH", _NOT_FOUND)

    def _elf(self, path: str, inode: Inode) -> Iterator[Finding]:
        program = read_program(self._rootfs, inode)
        if program is None:
            yield Finding("machine", f"{path} is a damaged ELF file", _NOT_EXECUTABLE)
            return
        machines = _MACHINES.get(self._architecture)
        if machines and program.machine not in machines:
            text = f"{path} is for {program.machine}, not for {self._architecture}"
            yield Finding("machine", text, _NOT_EXECUTABLE)
            return
        if not program.loader:
            return
        if self._lookup(program.loader) is None:
            text = f"{program.loader}, the ELF loader of {path}, is not in the image"
            yield Finding("loader", text, _NOT_EXECUTABLE)
            return
        # A loader that finds a library missing ends with 127 itself.
        for name, user in missing_libraries(
            path, program, self._rootfs, self._lookup, self._library_path
        ):
            text = f"{name}, which {user} needs, is not in the image"
            yield Finding("library", text, _NOT_FOUND)
