"""A bundle's process as the options of one VM change it, by docker's rules."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, NotFoundError, printable
from hyperbuild.launcher.spec import ABOUT_COMMAND

if TYPE_CHECKING:
    from hyperbuild.converter.browse import ImageFiles
    from hyperbuild.launcher.bundle import Process
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions
    from hyperbuild.launcher.users import Account

#: As when the image was converted.
_DATABASE_LIMIT = 4 << 20
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
    from hyperbuild.converter.browse import browse
    from hyperbuild.launcher.users import resolve_user

    with browse(files.rootfs) as image:
        databases = (_read(image, f"etc/{name}".encode()) for name in ("passwd", "group"))
        try:
            return resolve_user(user, *databases)
        except NotFoundError as error:
            raise InputError(
                f"-u {printable(user)}: {error}; name one that is, or a number"
            ) from error


def _read(image: ImageFiles, path: bytes) -> bytes:
    """Return the content of a file, empty if there is none or it is too large to be one."""
    info = image.find(path)
    if info is None or not stat.S_ISREG(info.mode):
        return b""
    return image.read(info, _DATABASE_LIMIT) or b""
