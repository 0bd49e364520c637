"""Runs whole processes and says what they cost."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

# Where this is set, each start of the program would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one or more processes: wall and CPU (user + system) in seconds, peak memory in bytes."""

    wall: float
    cpu: float
    peak: int

    def then(self, other: Cost) -> Cost:
        """Return the cost of this and then other: times add up, memory is the larger."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))


def cost_of(
    argv: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    stdin: str | Path = os.devnull,
) -> Cost:
    """Run argv to its end, stdin a file; a failure is a RuntimeError with all that it said.

    CPU and memory are the kernel's account (wait4) of the process and all descendants that it
    waited for; memory is the largest of them, not their sum.
    """
    with tempfile.TemporaryFile("w+") as said, open(stdin, "rb") as source:  # noqa: PTH123
        start = time.monotonic()
        process = subprocess.Popen(
            argv,
            env=os.environ | dict(environment or {}),
            stdin=source,
            stdout=said,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{argv[0]} failed with {process.returncode}: {said.read()}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def alternate(rounds: int, *contenders: Callable[[], T]) -> list[list[T]]:
    """Run each of contenders in turn, rounds times; return the results of each.

    Taking turns spreads what else the machine does over all of them.
    """
    results: list[list[T]] = [[] for _ in contenders]
    for _ in range(rounds):
        for found, contender in zip(results, contenders, strict=True):
            found.append(contender())
    return results


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Return the medians, each on its own."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        int(statistics.median(cost.peak for cost in costs)),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table: the first column flush left, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> str:
    """Return one line on what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0] if names else 'unknown CPU'}, Linux {os.uname().release}"
