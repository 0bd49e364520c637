"""``hyperbuild exec``: a command in a VM that runs, with the streams and signals of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record
from hyperbuild.launcher.attach import Attachment, RefusedError
from hyperbuild.launcher.client import collect, connect
from hyperbuild.launcher.terminal import find_terminal, terminal_size
from hyperbuild.launcher.users import resolve_user

if TYPE_CHECKING:
    from hyperbuild.launcher.instances import Instance, Instances

#: Bytes: no user database is larger.
_DATABASE_LIMIT = 4 << 20


class ExecOptions(Record):
    """The options of ``exec``, as the user wrote them; env is as ``parse_env`` returns it."""

    command: tuple[str, ...]
    interactive: bool
    tty: bool
    detach: bool
    user: str
    workdir: str
    env: tuple[str, ...]


def execute(instances: Instances, instance: Instance, options: ExecOptions) -> int:
    """Run a command in a VM and return its status, 0 for one that goes on by itself.

    NotRunningError: there is no such VM; RefusedError: the command can't be started (126, 127).
    """
    if options.workdir and not options.workdir.startswith("/"):
        raise InputError(f"-w {printable(options.workdir)} is not an absolute path; correct it")
    terminal = find_terminal(0, 1, 2) if options.tty else None
    if options.tty and options.interactive and terminal is None:
        raise InputError("-it needs a terminal, and stdin is none; drop -t")
    wants_input = options.interactive and not options.detach
    request = {
        "do": "exec",
        "args": list(options.command),
        "user": _ids(instances, instance, options.user) if options.user else "",
        "cwd": options.workdir,
        "env": [text for text in options.env if "=" in text],
        "stdin": wants_input,
        "terminal": terminal_size(terminal) if options.tty else None,
        "detach": options.detach,
    }
    attachment = Attachment(
        connect(instances, instance),
        stdin=0 if wants_input else None,
        terminal=None if options.detach else terminal,
    )
    return int(attachment.run(request).get("exit", 0))


def _ids(instances: Instances, instance: Instance, user: str) -> str:
    """Return the numbers of a user (``USER[:GROUP]``) by the VM's own files, as they are now."""
    passwd, group = (_read(instances, instance, f"/etc/{name}") for name in ("passwd", "group"))
    found = resolve_user(user, passwd, group).user
    return " ".join(map(str, (found.uid, found.gid, *found.groups)))


def _read(instances: Instances, instance: Instance, path: str) -> bytes:
    """Return the content of a file of the guest; nothing if it has no such file."""
    request: dict[str, Any] = {"do": "exec", "args": ["archive", path], "builtin": True}
    try:
        status, archive = collect(instances, instance, request, _DATABASE_LIMIT)
    except RefusedError:
        return b""
    if status or len(archive) < _BLOCK:
        return b""
    # One member, of a name that is short.
    size = int(archive[_SIZE].rstrip(b"\0 ") or b"0", 8) if archive[_SIZE].strip(b"01234567\0 ") == b"" else 0
    return archive[_BLOCK : _BLOCK + size]


_BLOCK = 512
_SIZE = slice(124, 136)
