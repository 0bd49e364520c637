"""Boots and ends VMs in every way, many times, and shows that nothing of them is left.

`python -m tests.cycles --cycles 200`. Looked at after each cycle: processes (by a variable that all
descendants of a cycle inherit), the files of its home, store, cache and temporary directory, the
published port, and this process's own descriptors, threads and children, for VMs run inside it.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.launcher.errors import LaunchError
from hyperbuild.launcher.located import open_directory
from hyperbuild.launcher.machine import Accel, MachineOptions, PortForward
from hyperbuild.launcher.vm import Streams, run_vm
from tests.support.images import image
from tests.support.registry import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

HYPERBUILD = Path(sys.executable).parent / "hyperbuild"
_MARK = "HYPERBUILD_CYCLE"
_HOMES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
#: Seconds for a VM to come and to go, for the kernel to clean up after a process that was killed,
#: and the latest moment at which "any moment" strikes.
_PATIENCE, _CLEANUP, _BOOT = 120.0, 10.0, 2.0


class LeftBehindError(Exception):
    """Something of a VM outlived it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One cycle: a directory of its own, the bundle, its root file system's way, a free port."""

    work: Path
    bundle: Path
    rootfs: str
    port: int

    def command(self, *words: str, copy: bool = False) -> subprocess.Popen[str]:
        """Start `hyperbuild boot` of words, or a copy that runs them; its stdout is a pipe."""
        options = ("--timeout", "120", "--rootfs", self.rootfs, "-p", f"127.0.0.1:{self.port}:80")
        warm = ["--require-warm"] if copy else []
        return subprocess.Popen(
            [HYPERBUILD, "boot", *warm, *options, self.bundle, *words],
            env=_homes(self.work),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def inside(self, *words: str, timeout: float = _PATIENCE) -> int:
        """Run words in a VM of this process; return the status."""
        ports = (PortForward(self.port, 80, host_ip="127.0.0.1"),)
        options = MachineOptions(
            args=words, ports=ports, dax=self.rootfs == "dax", accel=Accel.TCG, timeout=timeout
        )
        with Path(os.devnull).open("r+b") as null:
            streams = Streams(null.fileno(), null.fileno())
            files = open_directory(self.bundle)
            return run_vm(files, options, search_path=os.environ["PATH"], streams=streams).status


def _ends(task: Task) -> None:
    with task.command("true") as vm:
        _expect_status(vm.wait(_PATIENCE), 0)


def _copy_ends(task: Task) -> None:
    with task.command("true", copy=True) as vm:
        _expect_status(vm.wait(_PATIENCE), 0)


def _struck(
    number: signal.Signals, *, hypervisor: bool = False, copy: bool = False
) -> Callable[[Task], None]:
    """Return what sends a signal to the command or its hypervisor once the application runs."""

    def way(task: Task) -> None:
        with task.command("sh", "-c", "echo up; exec sleep 1000", copy=copy) as vm:
            if vm.stdout is None or vm.stdout.readline() != "up\n":
                raise RuntimeError("the VM did not come up")
            children = Path(f"/proc/{vm.pid}/task/{vm.pid}/children").read_text()
            os.kill(int(children) if hypervisor else vm.pid, number)
            expected = -number if number is signal.SIGKILL else 128 + number
            _expect_status(vm.wait(_PATIENCE), 125 if hypervisor else expected)

    return way


def _killed_at_any_moment(task: Task) -> None:
    with task.command("sleep", "1000") as vm:
        with suppress(subprocess.TimeoutExpired):
            vm.wait(random.uniform(0, _BOOT))
        vm.kill()


def _ends_inside(task: Task) -> None:
    _expect_status(task.inside("true"), 0)


def _fails_inside(task: Task) -> None:
    with suppress(LaunchError):
        _expect_status(task.inside("/no-such-program"), 127)


def _times_out_inside(task: Task) -> None:
    _expect_status(task.inside("sleep", "1000", timeout=2.0), 124)


WAYS: dict[str, Callable[[Task], None]] = {
    "ends by itself": _ends,
    "SIGTERM": _struck(signal.SIGTERM),
    "SIGINT": _struck(signal.SIGINT),
    "SIGKILL": _struck(signal.SIGKILL),
    "SIGKILL of the hypervisor": _struck(signal.SIGKILL, hypervisor=True),
    "SIGKILL at any moment": _killed_at_any_moment,
    "a copy ends by itself": _copy_ends,
    "SIGKILL of a copy": _struck(signal.SIGKILL, copy=True),
    "SIGKILL of a copy's hypervisor": _struck(signal.SIGKILL, hypervisor=True, copy=True),
    "ends inside this process": _ends_inside,
    "fails inside this process": _fails_inside,
    "times out inside this process": _times_out_inside,
}


def main() -> int:
    """Run the cycles; the exit status is 0 if nothing was left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    cycles = parser.parse_args().cycles
    with tempfile.TemporaryDirectory(prefix="hyperbuild-cycles-") as work:
        try:
            run_cycles(Path(work), cycles)
        except LeftBehindError as error:
            print(f"left behind: {error}", file=sys.stderr)
            return 1
    return 0


def run_cycles(work: Path, cycles: int) -> None:
    """Run cycles, each way of ending in its turn; LeftBehindError names what stayed.

    One VM inside this process comes first, for what is loaded and opened once.
    """
    bundle = _prepare(work)
    _ends_inside(Task(work, bundle, "dax", free_port()))
    files, own = _files(work), _own()
    done = dict.fromkeys(WAYS, 0)
    for number, (rootfs, name) in enumerate(islice(cycle(product(("dax", "blk"), WAYS)), cycles)):
        task = Task(work, bundle, rootfs, free_port())
        mark = os.environ[_MARK] = secrets.token_hex(16)
        WAYS[name](task)
        left = [
            *_processes(mark),
            *(f"file {path}" for path in sorted(_files(work) ^ files)),
            *(f"now {after}, not {before}" for after, before in zip(_own(), own, strict=True)
              if after != before),
            *_port(task.port),
        ]  # fmt: skip
        if left:
            raise LeftBehindError(f"cycle {number} ({name}, {rootfs}): {'; '.join(left)}")
        done[name] += 1
    print(f"{cycles} cycles, nothing left behind; this process has {', '.join(own)}")
    for name, count in done.items():
        print(f"  {count:4} {name}")


def _prepare(work: Path) -> Path:
    for name in _HOMES:
        (work / name).mkdir()
    bundle = work / "bundle"
    argv: list[str | Path] = [HYPERBUILD, "-q", "convert", f"oci:{image('busybox')}:latest"]
    environment = {**os.environ, "XDG_DATA_HOME": str(work / "XDG_DATA_HOME")}
    subprocess.run([*argv, "-o", bundle], check=True, stdout=subprocess.DEVNULL, env=environment)
    for rootfs in ("dax", "blk"):
        subprocess.run(
            [HYPERBUILD, "-q", "warm", "--rootfs", rootfs, bundle],
            check=True,
            stdout=subprocess.DEVNULL,
            env=_homes(work),
        )
    return bundle


def _homes(work: Path) -> dict[str, str]:
    """Return an environment whose every place to write is under work."""
    return {
        **os.environ,
        **{name: str(work / name) for name in _HOMES},
        "HYPERBUILD_ACCEL": "tcg",
    }


def _expect_status(status: int, expected: int) -> None:
    if status != expected:
        raise RuntimeError(f"the VM ended with status {status}, not {expected}")


def _processes(mark: str) -> list[str]:
    """Return those that inherited mark and do not end within _CLEANUP."""
    wanted = f"{_MARK}={mark}".encode()
    deadline = time.monotonic() + _CLEANUP
    while found := [pid for pid in _pids() if wanted in _environment(pid)]:
        if time.monotonic() > deadline:
            return [f"process {pid}" for pid in found]
        time.sleep(0.02)
    return []


def _pids() -> list[int]:
    own = os.getpid()
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if pid != own]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _files(work: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_size) for path in work.rglob("*") if not path.is_dir()}


def _own() -> tuple[str, str, str]:
    """Say what this process holds."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - without a descriptor more
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    return f"{descriptors} descriptors", f"{threads} threads", f"{len(children)} children"


def _port(port: int) -> list[str]:
    """Say so if something holds port beyond _CLEANUP; a process that dies shows no variables."""
    deadline = time.monotonic() + _CLEANUP
    while time.monotonic() < deadline:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return []
        time.sleep(0.02)
    return [f"port {port}"]


if __name__ == "__main__":
    sys.exit(main())
