"""When the steps of a boot happened, on one clock: the host's CLOCK_MONOTONIC, in nanoseconds."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Every step that a timeline may have, in the order of a boot, and what has happened by then.
STEPS = {
    "start": "the launcher was executed",
    "hypervisor": "the hypervisor was executed",
    "machine": "the machine began to run: firmware, loader",
    "kernel": "the kernel was entered",
    "initcalls": "the kernel began to set up drivers",
    "resumed": "the template's copy went on",
    "renewed": "the copy had its own identity",
    "init": "hyperstart's first instruction",
    "rootfs": "the root file system was mounted",
    "network": "the network was up",
    "app_exec": "just before the application's execve",
    "listening": "the first TCP port was listened on",
    "healthy": "the health check succeeded for the first time",
    "exit": "the application had ended",
}

#: What hyperstart calls the moments it tells of (docs/hyperstart.md), where steps have other names.
_TOLD = {"exec": "app_exec"}

#: Names that a guest, which is not trusted, can have noted.
_MOST_TOLD = 64


class Step(Record):
    """A step by name and the nanoseconds of the host's CLOCK_MONOTONIC when it happened."""

    name: str
    nanoseconds: int


class Counter(Record):
    """The guest's time stamp counter: its rate in kHz, and its value at hyperstart's start.

    It is zero when the machine begins to run. ``steps`` has its value at earlier steps.
    """

    khz: int
    at_init: int
    steps: Mapping[str, int]


class Timeline:
    """Steps of the host and of the guest, whose clock starts at a time the host must find out.

    A guest's stamp reaches the host late but never early, so the smallest difference between
    receipt and stamp is the best guess of when the guest's clock was zero.
    """

    def __init__(self) -> None:
        self._host: dict[str, int] = {}
        self._guest: dict[str, int] = {}
        self._guest_zero: int | None = None
        self._counter: Counter | None = None

    def mark(self, name: str, nanoseconds: int | None = None) -> None:
        """Note a step of the host, by default of now."""
        self._host[name] = time.monotonic_ns() if nanoseconds is None else nanoseconds

    def mark_guest(self, name: str, stamp: int, received: int) -> bool:
        """Note what the guest told: its CLOCK_BOOTTIME stamp and when the host learned of it.

        Return whether it is news: a guest may say the same, or new things, without an end.
        """
        step = _TOLD.get(name, name)
        if step in self._guest or len(self._guest) == _MOST_TOLD:
            return False
        self._guest[step] = stamp
        zero = received - stamp
        self._guest_zero = zero if self._guest_zero is None else min(zero, self._guest_zero)
        return True

    def count(self, counter: Counter) -> None:
        """Take the steps before hyperstart from counter."""
        self._counter = counter

    def steps(self) -> tuple[Step, ...]:
        """Return all steps on the host's clock, in order of time."""
        zero = self._guest_zero or 0
        guest = [Step(name, stamp + zero) for name, stamp in self._guest.items()]
        known = [*(Step(name, moment) for name, moment in self._host.items()), *guest]
        return tuple(sorted([*known, *self._counted(known)], key=lambda step: step.nanoseconds))

    def _counted(self, known: list[Step]) -> list[Step]:
        """Return the steps told by the counter; none if it did not start with the machine."""
        moments = {step.name: step.nanoseconds for step in known}
        counter = self._counter
        if counter is None or "init" not in moments:
            return []
        values = {"machine": 0, **counter.steps}
        steps = [
            Step(name, moments["init"] - (counter.at_init - value) * 1_000_000 // counter.khz)
            for name, value in values.items()
        ]
        began = moments.get("hypervisor", 0)
        return steps if all(step.nanoseconds >= began for step in steps) else []

    def reached(self, name: str) -> int | None:
        """Return the nanoseconds from the first step to the one called name, if it happened."""
        steps = self.steps()
        found = next((step for step in steps if step.name == name), None)
        return None if found is None else found.nanoseconds - steps[0].nanoseconds

    def counted(self, name: str) -> int | None:
        """Return the counter's value at the step called name, if guest and step told it."""
        counter = self._counter
        if counter is None or "init" not in self._guest:
            return None
        if name in self._guest:
            since = self._guest[name] - self._guest["init"]
            return counter.at_init + since * counter.khz // 1_000_000
        return counter.steps.get(name)

    def document(self) -> dict[str, Any]:
        """Return ``{"clock": …, "steps": [{"name", "ns", "since_start_ms", "took_ms"}, …]}``."""
        listed = []
        start = before = None
        for step in self.steps():
            start = step.nanoseconds if start is None else start
            before = step.nanoseconds if before is None else before
            listed.append(
                {
                    "name": step.name,
                    "ns": step.nanoseconds,
                    "since_start_ms": round((step.nanoseconds - start) / 1e6, 3),
                    "took_ms": round((step.nanoseconds - before) / 1e6, 3),
                }
            )
            before = step.nanoseconds
        return {"clock": "CLOCK_MONOTONIC", "steps": listed}


def process_start(stat: str = "/proc/self/stat") -> int:
    """Return when this process was started, in nanoseconds of CLOCK_MONOTONIC.

    Linux keeps it in clock ticks (10 ms, as a rule) of CLOCK_BOOTTIME: proc(5), field 22.
    """
    with open(stat, "rb") as file:  # noqa: PTH123 - before anything else is loaded
        # The second field, the command, may hold spaces and parentheses.
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    booted = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    slept = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return booted - slept
