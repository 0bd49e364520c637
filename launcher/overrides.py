"""A bundle's process as the options of one VM change it, by docker's rules."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, NotFoundError, printable
from hyperbuild.launcher.spec import ABOUT_COMMAND

if TYPE_CHECKING:
    from hyperbuild.converter.verify_reader import FileInfo, ImageReader
    from hyperbuild.launcher.bundle import Process
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions
    from hyperbuild.launcher.users import Account

#: As when the image was converted.
_DATABASE_LIMIT = 4 << 20
#: As many as Linux follows.
_SYMLINKS = 40

_NOT_EXECUTABLE = 126


def overridden(files: BundleFiles, options: MachineOptions) -> BundleFiles:
    """Return files with user, workdir and entrypoint of options in the process of their bundle.

    A user is looked up in the image's own /etc/passwd and /etc/group. What was found to keep the
    process from starting goes where it is about what is replaced. InputError: there is no such
    user or group.
    """
    process = files.bundle.process
    if options.entrypoint is not None:
        process = _with_entrypoint(process, options.entrypoint)
    if options.workdir:
        process = _without(process.replace(cwd=options.workdir), "workdir")
    if options.user:
        process = _with_user(process, options.user, files)
    return files.replace(bundle=files.bundle.replace(process=process))


def _with_entrypoint(process: Process, entrypoint: str) -> Process:
    # The image's Cmd was written for the entrypoint that goes.
    argv = (entrypoint,) if entrypoint else ()
    return _without(process.replace(entrypoint=argv, args=argv), *ABOUT_COMMAND)


def _with_user(process: Process, user: str, files: BundleFiles) -> Process:
    account = find_account(user, files)
    process = _without(process.replace(user=account.user, home=account.home), "user")
    # Another user may be allowed to execute what the image's was not.
    findings = (
        finding
        for finding in process.findings
        if finding.name != "command" or finding.status != _NOT_EXECUTABLE
    )
    return process.replace(findings=tuple(findings))


def _without(process: Process, *names: str) -> Process:
    findings = (finding for finding in process.findings if finding.name not in names)
    return process.replace(findings=tuple(findings))


def find_account(user: str, files: BundleFiles) -> Account:
    """Look USER[:GROUP] up in the image's own databases; InputError if one is not there."""
    from hyperbuild.converter.files import open_regular
    from hyperbuild.converter.verify import open_image
    from hyperbuild.launcher.users import resolve_user

    fd = open_regular(files.rootfs)
    try:
        reader = open_image(fd)
    finally:
        os.close(fd)
    try:
        databases = (_read(reader, f"etc/{name}".encode()) for name in ("passwd", "group"))
        return resolve_user(user, *databases)
    except NotFoundError as error:
        raise InputError(f"-u {printable(user)}: {error}; name one that is, or a number") from error
    finally:
        reader.close()


def _read(reader: ImageReader, path: bytes) -> bytes:
    """Return the content of a file, empty if there is none or it is too large to be one."""
    info = _find(reader, path)
    if info is None or not stat.S_ISREG(info.mode) or info.size > _DATABASE_LIMIT:
        return b""
    return b"".join(reader.content(info))


def _find(reader: ImageReader, path: bytes) -> FileInfo | None:
    """Follow path from the root, symlinks too; all of them stay inside."""
    trail = [reader.stat(reader.root_nid)]
    rest, links = [part for part in reversed(path.split(b"/")) if part], 0
    while rest:
        name = rest.pop()
        if not stat.S_ISDIR(trail[-1].mode):
            return None
        if name == b"..":
            del trail[max(len(trail) - 1, 1) :]
            continue
        found = next((nid for entry, nid, _ in reader.entries(trail[-1]) if entry == name), None)
        if found is None:
            return None
        info = reader.stat(found)
        if stat.S_ISLNK(info.mode):
            links += 1
            target = b"".join(reader.content(info))
            if links > _SYMLINKS:
                return None
            if target.startswith(b"/"):
                del trail[1:]
            rest += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
        else:
            trail.append(info)
    return trail[-1]
