"""VMs on disk: one directory each, whose states stay true whoever died meanwhile.

ROOT/ID/  vm.json (what was asked, written once), state.json (replaced whole), lock, socket, log.N

The supervisor of a VM holds a lock (flock) on ``lock`` from before the directory can be seen until
the VM has ended and its state says so. So liveness is the lock, never a number that another
process may have by now; a state that says otherwise is mended by whoever sees it (docs/running.md).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, NotFoundError, printable
from hyperbuild.converter.files import is_locked, locked, write_all
from hyperbuild.converter.records import Record
from hyperbuild.launcher.naming import random_names

if TYPE_CHECKING:
    from collections.abc import Mapping

ASKED_NAME, STATE_NAME, LOCK_NAME, SOCKET_NAME = "vm.json", "state.json", "lock", "socket"
LOG_PREFIX = "log."

CREATED, RUNNING, RESTARTING, EXITED = "created", "running", "restarting", "exited"

#: How much of an ID is shown to people.
ID_SHOWN = 12
#: Exit status of a VM that was killed together with its supervisor: 128 and SIGKILL.
KILLED_STATUS = 137

_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}"
_ID_BYTES = 32
_ROOT_LOCK = ".lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Asked(Record):
    """What a VM was to be: vm.json. Written once, read by people and by every command.

    ``created`` is a time as ``timestamp`` gives it, ``restart`` the policy's text, ``log_size`` in
    bytes; ``boot_id`` is the host's at that time. ``options`` are those of its machine.
    ``containers`` are those of a pod: each its name, image and command.
    """

    id: str
    name: str
    image: str
    command: tuple[str, ...]
    created: str
    boot_id: str
    auto_remove: bool
    restart: str
    log_size: int
    interactive: bool
    tty: bool
    ports: tuple[str, ...]
    bundle: Mapping[str, Any]
    options: Mapping[str, Any]
    containers: tuple[Mapping[str, Any], ...] = ()


class State(Record):
    """How a VM is: state.json. ``exit_status`` and ``reason`` are those of its last end.

    ``reason`` is empty for an application that ended by itself. ``health`` is "", "healthy" or
    "unhealthy"; ``restarts`` counts starts after the first; ``pid`` is the supervisor's, for
    people. ``timeline`` is that of the last boot (``Timeline.document``). ``containers`` are those
    of a pod (``Keeper.documents``).
    """

    status: str = CREATED
    exit_status: int | None = None
    reason: str = ""
    started: str = ""
    finished: str = ""
    restarts: int = 0
    health: str = ""
    pid: int | None = None
    timeline: Mapping[str, Any] | None = None
    containers: tuple[Mapping[str, Any], ...] = ()


class Instance(Record):
    """A VM as it was found: its directory, what was asked, its state then."""

    directory: Path
    asked: Asked
    state: State

    @property
    def short_id(self) -> str:
        """What people see of its ID."""
        return self.asked.id[:ID_SHOWN]

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.state.status == EXITED


def timestamp(nanoseconds: int | None = None) -> str:
    """Return a time (since the epoch; by default now) in RFC 3339, cut to the microsecond."""
    seconds, rest = divmod(time.time_ns() if nanoseconds is None else nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest // 1000:06}Z"


def new_id() -> str:
    """Return 64 hexadecimal digits that no other VM has."""
    return os.urandom(_ID_BYTES).hex()


def boot_id() -> str:
    """Return what names this run of the host's kernel."""
    return _BOOT_ID.read_text().strip()


def check_name(name: str) -> None:
    """Raise InputError for a name that is none."""
    if not re.fullmatch(_NAME, name, re.ASCII):
        raise InputError(
            f"name {printable(name)!r} is not one: begin with a letter or a digit, and go on with "
            "letters, digits, '_', '.' or '-', 2 to 128 in all"
        )


def write_state(directory: Path, state: State) -> None:
    """Replace the state of the VM in directory; only who holds its lock may.

    Not synced: after a crash of the host the VM is gone whatever it says.
    """
    _replace(directory / STATE_NAME, state.as_dict())


def socket_address(directory: int) -> str:
    """Return the path of a VM's socket, however deep it lies, by its directory's descriptor."""
    return f"/proc/self/fd/{directory}/{SOCKET_NAME}"


class Instances:
    """All VMs of a user, below ``root``. Whoever looks at one mends its state first."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, asked: Asked) -> tuple[Instance, int]:
        """Enter a VM and return it, and the descriptor that holds its lock.

        An empty name becomes a random one. InputError: the name is taken, or none.
        """
        if asked.name:
            check_name(asked.name)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.root / _ROOT_LOCK):
            names = {other.asked.name: other for other in self._all(mending=True)}
            if asked.name in names:
                raise InputError(
                    f"the name {asked.name} is taken by VM {names[asked.name].short_id}; "
                    f"remove that one (hyperbuild rm {asked.name}) or choose another"
                )
            if not asked.name:
                asked = asked.replace(name=next(n for n in random_names() if n not in names))
            directory = self.root / asked.id
            directory.mkdir(mode=0o700)
            lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = State()
            write_state(directory, state)
            _replace(directory / ASKED_NAME, asked.as_dict())
        return Instance(directory, asked, state), lock

    def all(self) -> list[Instance]:
        """Return all VMs, the youngest first."""
        found = self._all(mending=False)
        return sorted(found, key=lambda one: one.asked.created, reverse=True)

    def find(self, text: str, *, least: int = 1) -> Instance:
        """Return the VM called text, or the one whose ID begins with it (least digits or more).

        NotFoundError if there is none, InputError if there are several.
        """
        found = self._all(mending=False)
        for one in found:
            if text in (one.asked.name, one.asked.id):
                return one
        is_prefix = len(text) >= least and re.fullmatch("[0-9a-f]+", text)
        fitting = [one for one in found if is_prefix and one.asked.id.startswith(text)]
        if len(fitting) > 1:
            shown = ", ".join(f"{one.short_id} ({one.asked.name})" for one in fitting[:3])
            raise InputError(f"{text} is the beginning of several VMs' IDs: {shown}; write more")
        if not fitting:
            raise NotFoundError(
                f"no VM is called {printable(text)!r}; see 'hyperbuild list --all' for all of them"
            )
        return fitting[0]

    def remove(self, instance: Instance) -> bool:
        """Remove a VM that has ended, and all that is left of it; False if it still lives."""
        with locked(self.root / _ROOT_LOCK):
            if _is_held(instance.directory):
                return False
            erase(instance.directory)
        return True

    def _all(self, *, mending: bool) -> list[Instance]:
        """Read every VM. One that is not as its files say is mended, under the root's lock."""
        try:
            names = [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            directory = self.root / name
            one = _read(directory)
            if one is None or (_needs_mending(one) and not _is_held(directory)):
                if mending:
                    one = _mend(directory)
                else:
                    with locked(self.root / _ROOT_LOCK):
                        one = _mend(directory)
            if one:
                found.append(one)
        return found


def erase(directory: Path) -> None:
    """Remove a VM's directory: first what makes it one, so that who dies halfway leaves none."""
    with suppress(FileNotFoundError):
        (directory / ASKED_NAME).unlink()
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):  # noqa: PTH208
            with suppress(FileNotFoundError):
                (directory / name).unlink()
        directory.rmdir()


def _needs_mending(one: Instance) -> bool:
    """Tell whether this is a state in which a VM is never left by its supervisor."""
    return not one.is_over or one.asked.auto_remove


def _mend(directory: Path) -> Instance | None:
    """Make the state of a VM true, nobody else doing so meanwhile; None if it is not there now."""
    one = _read(directory)
    # A directory that is being made is made under the same lock: this one never was whole.
    if one is None:
        erase(directory)
        return None
    if not _needs_mending(one) or _is_held(directory):
        return one
    # Of one that was never started nobody has been told.
    if one.state.status == CREATED or one.asked.auto_remove:
        erase(directory)
        return None
    reason = "its supervisor was killed, and the VM with it"
    if one.asked.boot_id != boot_id():
        reason = "the host went down while it ran"
    state = one.state.replace(
        status=EXITED, exit_status=KILLED_STATUS, reason=reason, finished=timestamp(), health="",
        containers=tuple(_ended(container) for container in one.state.containers),
    )  # fmt: skip
    write_state(directory, state)
    with suppress(FileNotFoundError):
        (directory / SOCKET_NAME).unlink()
    return one.replace(state=state)


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a pod's container whose VM is gone; who had ended before has its own."""
    if container["status"] == EXITED:
        return container
    gone = {"exit_status": KILLED_STATUS, "reason": "the VM ended", "finished": timestamp()}
    return {**container, "status": EXITED, "health": "", **(gone if container["started"] else {})}


def _is_held(directory: Path) -> bool:
    """Tell whether the VM's supervisor lives."""
    return is_locked(directory / LOCK_NAME, alone=True)


def _read(directory: Path) -> Instance | None:
    """Read a VM's files; None for a directory that is none."""
    try:
        one = Instance(directory, Asked(**_document(directory / ASKED_NAME)), State())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    try:
        state = State(**_document(directory / STATE_NAME))
    except (OSError, ValueError, TypeError, AttributeError):
        # A crash of the host may cut the file short: that VM is not there any more, but was.
        state = State(status=RUNNING)
    return one.replace(state=state)


def _document(path: Path) -> dict[str, Any]:
    """Return the object that a file of ours has; ValueError or AttributeError if it has none."""
    found = json.loads(path.read_bytes())
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document as path, which is the old one or the new one at every moment."""
    draft = path.with_name(f".{path.name}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, json.dumps(document, indent=1).encode() + b"\n")
    finally:
        os.close(fd)
    draft.rename(path)
