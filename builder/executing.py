"""``hyperbuild exec``: a command in a VM that runs, with this process's streams and signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.builder.booting import check_terminal
from hyperbuild.converter.errors import HyperbuildError, InputError, printable
from hyperbuild.converter.records import Record
from hyperbuild.launcher.attach import Attachment
from hyperbuild.launcher.client import connect
from hyperbuild.launcher.remote import Guest
from hyperbuild.launcher.terminal import find_terminal, terminal_size

if TYPE_CHECKING:
    from hyperbuild.launcher.instances import Instance, Instances

#: Bytes: no user database is larger.
_DATABASE_LIMIT = 4 << 20


class ExecOptions(Record):
    """The options of ``exec``, as the user wrote them; env is as ``parse_env`` returns it.

    ``container`` is one of a pod ("": its first).
    """

    command: tuple[str, ...]
    interactive: bool
    tty: bool
    detach: bool
    user: str
    workdir: str
    env: tuple[str, ...]
    container: str = ""


def execute(instances: Instances, instance: Instance, options: ExecOptions) -> int:
    """Run a command in a VM and return its status, 0 for one that goes on by itself.

    NotRunningError: there is no such VM; RefusedError: the command can't be started (126, 127).
    """
    check_terminal(interactive=options.interactive and not options.detach, tty=options.tty)
    if options.workdir and not options.workdir.startswith("/"):
        raise InputError(f"-w {printable(options.workdir)} is not an absolute path; correct it")
    terminal = find_terminal(1, 0) if options.tty else None
    wants_input = options.interactive and not options.detach
    request = {
        "do": "exec",
        "args": list(options.command),
        "user": _ids(Guest(instances, instance, options.container), options.user)
        if options.user
        else "",
        "cwd": options.workdir,
        "env": [text for text in options.env if "=" in text],
        "stdin": wants_input,
        "terminal": list(terminal_size(terminal)) if options.tty else None,
        "detach": options.detach,
        "container": options.container,
    }
    attachment = Attachment(
        connect(instances, instance),
        stdin=0 if wants_input else None,
        terminal=None if options.detach else terminal,
    )
    told = attachment.run(request, "started" if options.detach else "exit")
    return int(told.get("exit", 0))


def _ids(guest: Guest, user: str) -> str:
    """Return the numbers of a user (``USER[:GROUP]``) by the VM's own files, as they are now."""
    from hyperbuild.launcher.users import resolve_user

    passwd, group = (_read(guest, f"/etc/{name}") for name in ("passwd", "group"))
    found = resolve_user(user, passwd, group).user
    return " ".join(map(str, (found.uid, found.gid, *found.groups)))


def _read(guest: Guest, path: str) -> bytes:
    """Return the content of a file of the guest; nothing if it has no such file."""
    from hyperbuild.builder.unpacking import Received
    from hyperbuild.converter import tar

    stream = Received(guest.run("archive", path).output(), f"{guest.name}:{path}")
    content = b""
    for member in tar.members(stream):
        if member.stored > _DATABASE_LIMIT:
            raise HyperbuildError(f"{stream.where} is larger than any file of its kind")
        content = stream.read(member.stored)
    return content
