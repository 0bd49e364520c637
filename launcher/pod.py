"""A pod: several containers in one VM, and the order in which they start."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions
    from hyperbuild.launcher.restarting import RestartPolicy

#: As many as hyperstart takes (docs/hyperstart.md, "Pods").
MOST_MEMBERS = 16


class Condition(StrEnum):
    """What one container waits for in another: its start, its health, or its end with status 0."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


class Member(Record):
    """One container of a pod.

    options are those of the whole VM, with what this container mounts and runs; ``after`` names
    other containers and what is waited for there; ``shared`` are directories in memory, by name and
    path, that containers of the pod share by the name.
    """

    name: str
    files: BundleFiles
    options: MachineOptions
    restart: RestartPolicy
    after: tuple[tuple[str, Condition], ...] = ()
    shared: tuple[tuple[str, str], ...] = ()


def check_members(members: Sequence[Member]) -> None:
    """Raise InputError for containers that can never all be started."""
    if not 1 <= len(members) <= MOST_MEMBERS:
        raise InputError(f"{len(members)} containers: a pod has 1 to {MOST_MEMBERS}")
    known = {member.name: member for member in members}
    if len(known) < len(members):
        names = [member.name for member in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two containers are called {twice}; give each its own name")
    for member in members:
        for name, condition in member.after:
            if name not in known or name == member.name:
                raise InputError(
                    f"container {member.name} is to start after {name}, which is no other "
                    f"container of the pod; there are {', '.join(known)}"
                )
            if condition is Condition.HEALTHY and not _has_health(known[name]):
                raise InputError(
                    f"container {member.name} waits for the health of {name}, which has no health "
                    "check; give that one health-cmd, or wait for its start"
                )
    _check_order(known)


def _has_health(member: Member) -> bool:
    from hyperbuild.launcher.health import read_healthcheck

    process = member.files.bundle.process
    return read_healthcheck(process.healthcheck, member.options.health_command) is not None


def _check_order(known: dict[str, Member]) -> None:
    waiting = {name: {other for other, _ in member.after} for name, member in known.items()}
    while ready := [name for name, others in waiting.items() if not others]:
        for name in ready:
            del waiting[name]
        for others in waiting.values():
            others.difference_update(ready)
    if waiting:
        raise InputError(
            f"the containers {', '.join(waiting)} wait for each other; let one of them start first"
        )
