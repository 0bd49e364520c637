"""What a VM costs its host, read from /proc: CPU time and memory of its hypervisor.

Memory is the proportional set size (PSS): what several processes map, files and templates of other
VMs above all, counts for each by its part, so that the figures of all VMs can be added up.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from hyperbuild.converter.records import Record

_PROC = Path("/proc")


class Usage(Record):
    """At one moment (seconds of time.monotonic): CPU seconds used so far, bytes of PSS, processes.

    ``supervisor`` is the PSS of the VM's supervisor, which ``memory`` does not count.
    """

    moment: float
    cpu: float
    memory: int
    supervisor: int
    processes: int


def read_usage(supervisor: int) -> Usage:
    """Read the usage of all processes that a VM's supervisor has started.

    What has ended meanwhile counts as nothing.
    """
    children = children_of(supervisor)
    return Usage(
        moment=time.monotonic(),
        cpu=sum(map(_cpu_seconds, children)),
        memory=sum(map(_pss, children)),
        supervisor=_pss(supervisor),
        processes=len(children),
    )


def children_of(pid: int) -> list[int]:
    """Return the processes that pid has started and that still are there."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(_PROC / f"{pid}/task"):  # noqa: PTH208
            with suppress(OSError):
                text = (_PROC / f"{pid}/task/{task}/children").read_text()
                found += map(int, text.split())
    return found


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        # The second field, the command, may hold spaces and parentheses.
        fields = (_PROC / f"{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in (_PROC / f"{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
