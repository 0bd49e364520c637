"""``hyperbuild cp``: files out of a VM that runs, and into it, as docker has it.

hyperstart packs and unpacks them itself, so that the image needs no tar.
"""

from __future__ import annotations

import os
import posixpath
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hyperbuild.builder.unpacking import unpack
from hyperbuild.converter.errors import HyperbuildError, InputError, NotFoundError, printable
from hyperbuild.converter.files import named_output
from hyperbuild.launcher.remote import Guest

if TYPE_CHECKING:
    from typing import IO

    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.instances import Instances
    from hyperbuild.launcher.remote import RemoteCommand

_CHUNK = 64 << 10
_PIPE = "-"


def copy(
    instances: Instances, source: str, target: str, console: Progress, container: str = ""
) -> None:
    """Copy between VM:PATH and a path of this host; "-" is an archive on stdout or from stdin.

    The path is of that container, where the VM is a pod.

    InputError: neither or both of them are in a VM, or they do not fit; HyperbuildError with the
    guest's own words for what it can't read or write.
    """
    from_vm, to_vm = _split(source), _split(target)
    if from_vm and to_vm:
        raise InputError("cp copies between a VM and this host; give one path of each")
    if from_vm:
        name, path = from_vm
        _copy_out(Guest(instances, instances.find(name), container), path, target, console)
    elif to_vm:
        name, path = to_vm
        _copy_in(Guest(instances, instances.find(name), container), source, path)
    else:
        raise InputError("neither of the two is a path in a VM; say VM:PATH for one of them")


def _split(text: str) -> tuple[str, str] | None:
    """Return VM and path of ``VM:PATH``; None for a path of this host (./a:b is one)."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name in ("", ".", ".."):
        return None
    if not path:
        raise InputError(f"{name}: names no path of that VM; say {name}:/ for its root")
    # As under docker, paths of a VM are its root's.
    return name, path if path.startswith("/") else f"/{path}"


def _is_there(guest: Guest, path: str) -> bool:
    """Tell whether path is there in the guest; PATH/. is if that is a directory, links followed."""
    command = guest.run("stat", path)
    try:
        command.check()
    except HyperbuildError:
        return False
    return True


def _is_directory(guest: Guest, path: str) -> bool:
    return _is_there(guest, posixpath.join(path, "."))


def _copy_out(guest: Guest, path: str, target: str, console: Progress) -> None:
    contents_only = path.endswith("/.")
    source = posixpath.normpath(path)
    if target == _PIPE:
        if sys.stdout.isatty():
            raise InputError("an archive on a terminal is no use; give a directory, or a pipe")
        command = guest.run("archive", source)
        for piece in command.output():
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        command.check()
        return
    place = Path(target)
    inside = place.is_dir()
    if not inside and not place.parent.is_dir():
        raise NotFoundError(f"{place.parent} is no directory to copy into; make it first")
    if not inside:
        place = named_output(place)
    root: bytes | None = os.fsencode(place.name)
    if inside:
        root = None if contents_only else os.fsencode(posixpath.basename(source))
        root = root or None
    where = f"{guest.name}:{path}"
    command = guest.run("archive", source)
    output = command.output()
    # The guest's own complaint tells more than an archive that ends early.
    first = next(output, b"")
    if not first:
        command.check()

    def pieces() -> Any:
        yield first
        yield from output

    unpack(pieces(), where, place if inside else place.parent, root, console.warn)
    command.check()


def _copy_in(guest: Guest, source: str, path: str) -> None:
    called = guest.name
    if source == _PIPE:
        if not _is_directory(guest, path):
            raise NotFoundError(f"{called}:{path} is no directory in the VM; make it there first")
        command = guest.run("extract", posixpath.join(path, "."), stdin=True)
        while data := os.read(0, _CHUNK):
            command.write(data)
    else:
        place = Path(source)
        if not os.path.lexists(place):
            raise NotFoundError(f"{printable(source)} is not there to be copied")
        contents_only = source.endswith("/.")
        directory, name = path, place.resolve().name if contents_only else place.name
        if not _is_directory(guest, path):
            directory, name = posixpath.split(path.rstrip("/"))
            missing = path if path.endswith("/") else directory
            if missing == path or not _is_directory(guest, directory):
                raise NotFoundError(
                    f"{called}:{missing} is no directory in the VM; make it there first"
                )
            if place.is_dir() and not place.is_symlink() and _is_there(guest, path):
                raise InputError(
                    f"{printable(source)} is a directory, and {called}:{path} is none; name "
                    "another target"
                )
            contents_only = False
        command = guest.run("extract", posixpath.join(directory, "."), stdin=True)
        _pack(command, place, "." if contents_only else name or place.resolve().name)
    command.end_input()
    command.check()


def _pack(command: RemoteCommand, place: Path, name: str) -> None:
    """Write place as an archive in which it is called name, owned by root as docker has it."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    target = cast("IO[bytes]", command)
    with tarfile.open(mode="w|", fileobj=target, format=tarfile.GNU_FORMAT) as archive:
        archive.add(place, name, filter=owned)
