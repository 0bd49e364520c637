"""When the steps of a boot happened, on one clock: the host's CLOCK_MONOTONIC, in nanoseconds."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Step:
    """A step by name and the nanoseconds of the host's CLOCK_MONOTONIC when it happened."""

    name: str
    nanoseconds: int


class Timeline:
    """Steps of the host and of the guest, whose clock starts at a time the host must find out.

    A guest's stamp reaches the host late but never early, so the smallest difference between
    receipt and stamp is the best guess of when the guest's clock was zero.
    """

    def __init__(self) -> None:
        self._host: list[Step] = []
        self._guest: list[Step] = []
        self._guest_zero: int | None = None

    def mark(self, name: str, nanoseconds: int | None = None) -> None:
        """Note a step of the host, by default of now."""
        self._host.append(Step(name, time.monotonic_ns() if nanoseconds is None else nanoseconds))

    def mark_guest(self, name: str, stamp: int, received: int) -> None:
        """Note a step of the guest: its CLOCK_BOOTTIME stamp and when the host learned of it."""
        self._guest.append(Step(name, stamp))
        zero = received - stamp
        self._guest_zero = zero if self._guest_zero is None else min(zero, self._guest_zero)

    def steps(self) -> tuple[Step, ...]:
        """Return all steps on the host's clock, in order of time."""
        zero = self._guest_zero or 0
        guest = [Step(step.name, step.nanoseconds + zero) for step in self._guest]
        return tuple(sorted([*self._host, *guest], key=lambda step: step.nanoseconds))

    def to_json(self) -> str:
        """Return ``{"clock": …, "steps": [{"name", "ns", "since_start_ms"}, …]}``."""
        steps = self.steps()
        start = steps[0].nanoseconds if steps else 0
        listed = [
            {
                "name": step.name,
                "ns": step.nanoseconds,
                "since_start_ms": round((step.nanoseconds - start) / 1e6, 3),
            }
            for step in steps
        ]
        return json.dumps({"clock": "CLOCK_MONOTONIC", "steps": listed}, indent=2) + "\n"

    def render_text(self) -> str:
        """Return a table: each step, milliseconds since the first, milliseconds since the last."""
        steps = self.steps()
        lines = [f"{'step':<12}{'at ms':>10}{'+ ms':>10}"]
        for step, before in zip(steps, (*steps[:1], *steps), strict=False):
            at = (step.nanoseconds - steps[0].nanoseconds) / 1e6
            since = (step.nanoseconds - before.nanoseconds) / 1e6
            lines.append(f"{step.name:<12}{at:>10.1f}{since:>10.1f}")
        return "\n".join(lines) + "\n"


def process_start(stat: Path = Path("/proc/self/stat")) -> int:
    """Return when this process was started, in nanoseconds of CLOCK_MONOTONIC.

    Linux keeps it in clock ticks (10 ms, as a rule) of CLOCK_BOOTTIME: proc(5), field 22.
    """
    # The second field, the command, may hold spaces and parentheses.
    ticks = int(stat.read_bytes().rpartition(b")")[2].split()[19])
    booted = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    slept = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return booted - slept
