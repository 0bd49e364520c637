"""Boot budgets: how late a step may come, in time or in guest instructions."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record
from hyperbuild.launcher.errors import BootError
from hyperbuild.launcher.timeline import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.launcher.timeline import Timeline

#: Steps that can be late: all but the one that the others are counted from.
PHASES = tuple(STEPS)[1:]
#: Steps at which the guest's instructions are known.
COUNTED = ("kernel", "initcalls", "init", "rootfs", "network", "app_exec", "listening")

_COUNT = "insns"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(us|ms|s)", re.ASCII)
_INSTRUCTIONS = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([kMG]?)", re.ASCII)
_NANOSECONDS = {"us": 1e3, "ms": 1e6, "s": 1e9}
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


class BudgetError(BootError):
    """A step came later than its budget allows, or not at all."""


class Budget(Record):
    """``phase`` may come at most ``limit`` after the start: nanoseconds, or instructions."""

    phase: str
    limit: int
    instructions: bool = False

    def __str__(self) -> str:
        if self.instructions:
            return f"{_COUNT}:{self.phase}={self.limit / 1e6:g}M"
        return f"{self.phase}={self.limit / 1e6:g}ms"

    def check(self, timeline: Timeline) -> None:
        """Raise BudgetError if the phase came too late; one that has not come yet is fine."""
        spent = (timeline.counted if self.instructions else timeline.reached)(self.phase)
        if spent is None or spent <= self.limit:
            return
        if self.instructions:
            raise BudgetError(
                f"over budget: {spent / 1e6:.2f} M guest instructions to {self.phase}, "
                f"{self.limit / 1e6:.2f} M allowed; look at the timeline with --report"
            )
        name, took = _longest(timeline, self.phase)
        raise BudgetError(
            f"over budget: {self.phase} came after {spent / 1e6:.0f} ms, "
            f"{self.limit / 1e6:.0f} ms allowed; most of it went into {name} ({took / 1e6:.0f} ms)"
        )

    def check_reached(self, timeline: Timeline) -> None:
        """Raise BudgetError if the phase never came."""
        self.check(timeline)
        if timeline.reached(self.phase) is None:
            raise BudgetError(
                f"over budget: {self.phase} was never reached; boot without --budget to see why"
            )
        if self.instructions and timeline.counted(self.phase) is None:
            raise BudgetError(
                f"the guest does not count instructions at {self.phase}; "
                "make the bundle again with hyperbuild convert"
            )


def _longest(timeline: Timeline, phase: str) -> tuple[str, int]:
    """Return the step up to phase that took longest, and its nanoseconds."""
    longest = (phase, 0)
    for before, step in pairwise(timeline.steps()):
        longest = max(longest, (step.name, step.nanoseconds - before.nanoseconds), key=_took)
        if step.name == phase:
            break
    return longest


def _took(step: tuple[str, int]) -> int:
    return step[1]


def parse_budget(text: str) -> Budget:
    """Read ``PHASE=400ms``, ``insns=18M`` (to init) or ``insns:PHASE=30M``.

    InputError lists the phases if it names none of them.
    """
    name, _, value = text.partition("=")
    kind, colon, phase = name.partition(":")
    if kind == _COUNT:
        phase = phase if colon else "init"
        _check_phase(text, phase, COUNTED)
        return Budget(phase, _scaled(text, _INSTRUCTIONS, value, _UNITS), instructions=True)
    _check_phase(text, name, PHASES)
    return Budget(name, _scaled(text, _DURATION, value, _NANOSECONDS))


def _check_phase(text: str, phase: str, phases: Iterable[str]) -> None:
    if phase not in phases:
        raise InputError(
            f"budget {printable(text)!r} names no phase of a boot; there are: {', '.join(phases)}"
        )


def _scaled(text: str, pattern: re.Pattern[str], value: str, units: dict[str, float]) -> int:
    match = pattern.fullmatch(value)
    if match is None or float(match[1]) == 0:
        raise InputError(
            f"budget {printable(text)!r} is no limit; say app_exec=400ms, insns=18M, "
            "or insns:app_exec=30M"
        )
    return round(float(match[1]) * units[match[2]])
