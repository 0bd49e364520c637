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


def check_health(members: Sequence[Member]) -> None:
    """Raise InputError for a container that waits for the health of one that has no check."""
    known = {member.name: member for member in members}
    for member in members:
        for name, condition in member.after:
            if condition is Condition.HEALTHY and not _has_health(known[name]):
                raise InputError(
                    f"container {member.name} waits for the health of {name}, which has no health "
                    "check; give that one health-cmd, or wait for its start"
                )


def _has_health(member: Member) -> bool:
    from hyperbuild.launcher.health import read_healthcheck

    process = member.files.bundle.process
    return read_healthcheck(process.healthcheck, member.options.health_command) is not None
