"""What one more idle nginx VM costs the host's memory, with 1, 5 and 20 of them running."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.boot import HYPERBUILD, wait_for_page
from benchmarks.measure import machine, table
from tests.support.images import image
from tests.support.registry import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The kernel's profile, and how a VM gets its root file system and begins: options of `hyperbuild
#: boot`, and of the `hyperbuild warm` before it for those that are copies.
MODES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cold, DAX": ("dax", ("--rootfs", "dax", "--require-dax")),
    "cold, virtio-blk": ("dax", ("--rootfs", "blk")),
    "cold, virtio-blk, `micro`": ("micro", ("--rootfs", "blk")),
    "warm, DAX": ("dax", ("--rootfs", "dax", "--require-warm")),
    "warm, virtio-blk": ("dax", ("--rootfs", "blk", "--require-warm")),
    "warm, virtio-blk, `micro`": ("micro", ("--rootfs", "blk", "--require-warm")),
}

#: Seconds between two looks, in how many looks all must be still, and for how long that is awaited.
_INTERVAL, _STILL_LOOKS, _LONGEST = 2.0, 4, 180.0
#: A VM is still if it took no more than this part of a CPU and all kept their memory so exactly.
_STILL_CPU, _STILL_MEMORY = 0.05, 0.005
_TICKS = os.sysconf("SC_CLK_TCK")

METHOD = """
PSS in MB, as /proc/PID/smaps_rollup says: a page that N processes map counts 1/N in each. VMs are
started one after the other, each once the one before has answered with status 200; memory is read
when none of them has computed and all have kept their memory for {still:.0f} s. "One more" is what
each VM since the line above added, QEMU alone or with its `hyperbuild boot` ("`boot`"); TCG, one
CPU each.
Machine: {machine}.
"""


@dataclass(frozen=True, slots=True)
class Vm:
    """One running VM: ``command`` is `hyperbuild boot`, ``hypervisor`` the pid of its child."""

    command: subprocess.Popen[bytes]
    hypervisor: int


@dataclass(frozen=True, slots=True)
class Memory:
    """PSS in bytes over all VMs: of the hypervisors, and of the commands that started them."""

    count: int
    hypervisors: int
    commands: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.hypervisors + self.commands


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="1,5,20", help="numbers of VMs, rising")
    parser.add_argument("--memory", default="256M,64M", help="what each VM is given")
    parser.add_argument("--modes", default=";".join(MODES), help="which, with ';' between them")
    options = parser.parse_args()
    os.environ["HYPERBUILD_ACCEL"] = "tcg"
    counts = [int(text) for text in options.counts.split(",")]
    head = (
        "nginx",
        "VMs",
        "QEMU each",
        "`hyperbuild boot` each",
        "one more QEMU",
        "one more, both",
    )
    rows: list[list[str]] = []
    cache = os.environ.get("XDG_CACHE_HOME", "")
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        source = f"oci:{image('nginx')}:latest"
        for memory, mode in product(options.memory.split(","), options.modes.split(";")):
            profile, words = MODES[mode]
            bundle = Path(work) / profile
            convert = (HYPERBUILD, "-q", "convert", "--profile", profile, source, "-o", bundle)
            subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
            os.environ["XDG_CACHE_HOME"] = work
            if "--require-warm" in words:
                _make_template(bundle, ("-m", memory, *words[:2]))
            found = measure(bundle, counts, ("-m", memory, *words))
            os.environ["XDG_CACHE_HOME"] = cache
            rows += _rows(f"{mode}, `-m {memory}`", found)
    print("\n## density\n\n" + table(head, rows))
    print(METHOD.strip().format(machine=machine(), still=_INTERVAL * _STILL_LOOKS))


def _make_template(bundle: Path, options: Sequence[str]) -> None:
    """Save the VM as its application listens; copies map one file, and own what they write."""
    argv = (HYPERBUILD, "-q", "warm", "--when", "listening", *options, bundle)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(bundle: Path, counts: Sequence[int], options: Sequence[str]) -> list[Memory]:
    """Return the memory of as many idle VMs of bundle as each of counts, in one rising run."""
    found = []
    with ExitStack() as stack:
        vms: list[Vm] = []
        for count in counts:
            while len(vms) < count:
                vms.append(stack.enter_context(_serving(bundle, options)))
            found.append(_settled(vms))
    return found


@contextmanager
def _serving(bundle: Path, options: Sequence[str]) -> Iterator[Vm]:
    """Run a VM that has served its page once."""
    port = free_port()
    argv: list[str | Path] = [HYPERBUILD, "boot", "-p", f"127.0.0.1:{port}:80", *options, bundle]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as command:
        try:
            wait_for_page(port, command)
            (child,) = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
            yield Vm(command, int(child))
        finally:
            command.terminate()


def _settled(vms: Sequence[Vm]) -> Memory:
    """Wait until vms are idle and their guests have given back what they will; read the memory."""
    deadline = time.monotonic() + _LONGEST
    still, before, spent = 0, _read(vms), _cpu(vms)
    while still < _STILL_LOOKS:
        time.sleep(_INTERVAL)
        now, ticks = _read(vms), _cpu(vms)
        busiest = max(after - earlier for after, earlier in zip(ticks, spent, strict=True))
        moved = abs(now.total - before.total) > before.total * _STILL_MEMORY
        still = 0 if moved or busiest > _STILL_CPU * _INTERVAL * _TICKS else still + 1
        before, spent = now, ticks
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(vms)} VMs did not become idle in {_LONGEST:.0f} s")
    return before


def _read(vms: Sequence[Vm]) -> Memory:
    return Memory(
        len(vms),
        sum(proportional_set_size(vm.hypervisor) for vm in vms),
        sum(proportional_set_size(vm.command.pid) for vm in vms),
    )


def proportional_set_size(pid: int) -> int:
    """Return the PSS of process pid in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has no PSS")


def _cpu(vms: Sequence[Vm]) -> list[int]:
    """Return the clock ticks that each hypervisor has spent so far."""
    stats = (Path(f"/proc/{vm.hypervisor}/stat").read_text() for vm in vms)
    return [sum(map(int, text.rpartition(")")[2].split()[11:13])) for text in stats]


def _rows(title: str, found: Sequence[Memory]) -> list[list[str]]:
    rows = []
    before = Memory(0, 0, 0)
    for memory in found:
        each = (memory.hypervisors / memory.count, memory.commands / memory.count)
        more = memory.count - before.count
        one_more = (
            (memory.hypervisors - before.hypervisors) / more,
            (memory.total - before.total) / more,
        )
        figures = [f"{figure / 1e6:.1f}" for figure in (*each, *one_more)]
        rows.append([title, str(memory.count), *figures])
        before = memory
    return rows


if __name__ == "__main__":
    main()
