"""What a VM's supervisor is to do, and its start: in a session of its own, with nothing of ours."""

from __future__ import annotations

import fcntl
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.instances import Instance
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions
    from hyperbuild.launcher.pod import Member
    from hyperbuild.launcher.restarting import RestartPolicy
    from hyperbuild.launcher.vm import WarmStart

#: Where the supervisor finds what it is given.
LOCK_FD, CONNECTION_FD = 3, 4
_MODULE = "hyperbuild.launcher.supervisor"
#: Descriptors up to here are the ones that the supervisor finds in their places.
_ABOVE = 10


class Order(Record):
    """What a supervisor is to do; every path in it is absolute.

    ``started_at`` is the timeline's first step, in nanoseconds of CLOCK_MONOTONIC. With ``pod`` the
    VM is one of several containers; files and options are the first's.
    """

    files: BundleFiles
    options: MachineOptions
    search_path: str
    warm: WarmStart | None
    budgets: tuple[Budget, ...]
    restart: RestartPolicy
    interactive: bool
    auto_remove: bool
    log_size: int
    started_at: int
    pod: tuple[Member, ...] = ()


def start(instance: Instance, lock: int, order: Order) -> socket.socket:
    """Start the supervisor of a VM; return the connection on which it takes a first request.

    lock, which ``Instances.create`` has given, becomes the supervisor's.
    """
    ours, theirs = socket.socketpair()
    passed = os.memfd_create("order")
    moved = []
    try:
        with os.fdopen(os.dup(passed), "wb") as file:
            pickle.dump(anchored(order, Path.cwd()), file)
        os.lseek(passed, 0, os.SEEK_SET)
        sources = (passed, lock, theirs.fileno())
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in sources]
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", _MODULE, str(instance.directory)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, moved[0], 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, moved[1], LOCK_FD),
                (os.POSIX_SPAWN_DUP2, moved[2], CONNECTION_FD),
            ],
            setsid=True,
        )
    finally:
        for fd in (*moved, passed, lock):
            os.close(fd)
        theirs.close()
    return ours


def anchored(value: Any, directory: Path) -> Any:
    """Return value with every relative path in it taken from directory: records, tuples, paths."""
    if isinstance(value, Path):
        return directory / value
    if isinstance(value, Record):
        fields = value.as_dict()
        return value.replace(**{name: anchored(one, directory) for name, one in fields.items()})
    if isinstance(value, tuple):
        return tuple(anchored(one, directory) for one in value)
    return value
