"""Running a bundle: from its files to the exit status of its application.

Until the hypervisor runs every millisecond is the user's, so what only a running VM needs is
imported after that, while the machine comes up.
"""

from __future__ import annotations

# Sockets without their module's classes, which take as long to load as all the rest.
import _socket
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.files import open_regular, write_all
from hyperbuild.converter.progress import QUIET
from hyperbuild.initramfs.cpio import spec_segment
from hyperbuild.launcher import qemu
from hyperbuild.launcher.child import spawn
from hyperbuild.launcher.driver import Driver, Wires
from hyperbuild.launcher.host import choose_accel, read_cpu
from hyperbuild.launcher.machine import COUNTING_KHZ, build_machine
from hyperbuild.launcher.ports import check_ports_free
from hyperbuild.launcher.signals import signal_numbers
from hyperbuild.launcher.spec import spec_files
from hyperbuild.launcher.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.child import Child
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import Machine, MachineOptions

#: The hypervisor.
DRIVER: Driver = qemu

_SEED_SIZE = 64


@dataclass(frozen=True, slots=True)
class Streams:
    """The user's descriptors; without stdin the application reads an end of file."""

    stdout: int = 1
    stderr: int = 2
    stdin: int | None = None


@dataclass(frozen=True, slots=True)
class VMResult:
    """How a VM ended.

    ``status`` is the application's (128+N for death by signal N), 124 after a timeout, 128+N if
    signal N told the launcher to stop. ``dax`` is hyperstart's proof (None: it never said);
    ``facts`` is all it said of the guest; ``console`` is the end of the guest's console.
    """

    status: int
    timeline: Timeline
    dax: bool | None
    facts: Mapping[str, str]
    console: str


def run_vm(
    files: BundleFiles,
    options: MachineOptions,
    *,
    search_path: str,
    streams: Streams | None = None,
    progress: Progress = QUIET,
    timeline: Timeline | None = None,
    budgets: Sequence[Budget] = (),
    on_started: Callable[[Timeline], None] | None = None,
) -> VMResult:
    """Boot files, carry the application's streams and wait for its end.

    search_path is where programs are found (as in PATH). timeline, whose first step is the
    caller's, is filled in whatever comes; on_started is called with it when the application is
    started. While it runs in the main thread, SIGINT, SIGTERM and SIGHUP stop the VM: the first
    asks the application, within the grace of options; the next kills. On every way out, the death
    of this process included, the hypervisor is gone.

    InputError, AccessError, UnavailableError, ToolError: it can't be started as asked;
    LaunchError: hyperstart could not start the application; BudgetError: one of budgets is
    exceeded, which ends the VM; BootError: the VM failed; ContentError: the guest broke the
    protocol.
    """
    if timeline is None:
        timeline = Timeline()
        timeline.mark("start")
    with ExitStack() as stack:
        signals = stack.enter_context(signal_numbers())
        prepared = stack.enter_context(_prepare(files, options, search_path))
        vm = stack.enter_context(_started(prepared, search_path, timeline))
        from hyperbuild.launcher.listener import Listener, conclude
        from hyperbuild.launcher.session import Session, Wiring

        taken = streams or Streams()
        wiring = Wiring(
            *vm.sockets,
            stdout=taken.stdout,
            stderr=taken.stderr,
            stdin=taken.stdin,
            signals=signals,
        )
        listener = Listener(
            prepared.machine,
            timeline,
            tuple(budgets),
            progress,
            tsc_khz=prepared.tsc_khz,
            dax_wanted=options.dax,
            dax_required=options.require_dax,
            on_started=on_started,
        )
        session = Session(
            vm.child, wiring, listener.hear, timeout=options.timeout, grace=options.grace
        )
        outcome = session.run()
        explain = DRIVER.explain(outcome.stderr.decode(errors="replace"), prepared.machine)
        result = conclude(outcome, vm.child.wait(), explain, timeline)
        listener.check_reached()
        return result


@dataclass(frozen=True, slots=True)
class _Prepared:
    binary: str
    machine: Machine
    initrd: int
    tsc_khz: int | None


@dataclass(frozen=True, slots=True)
class _Running:
    child: Child
    sockets: tuple[_socket.socket, _socket.socket, _socket.socket]


@contextmanager
def _prepare(files: BundleFiles, options: MachineOptions, search_path: str) -> Iterator[_Prepared]:
    """Do all that can fail before anything is started; the initrd lives in a memory file."""
    binary = DRIVER.find(search_path)
    cpu = read_cpu()
    accel = choose_accel(options.accel, cpu)
    tsc_khz = COUNTING_KHZ if options.counting else cpu.tsc_khz
    initrd = os.memfd_create("initrd")
    try:
        machine = build_machine(
            files,
            options,
            initrd=Path(f"/proc/self/fd/{initrd}"),
            accel=accel,
            tsc_khz=tsc_khz,
        )
        spec = spec_files(
            files.bundle,
            options,
            machine,
            hostname=options.hostname or os.urandom(6).hex(),
            clock=time.time_ns(),
            seed=os.urandom(_SEED_SIZE),
        )
        _write_initrd(initrd, files, spec)
        check_ports_free(options.ports)
        yield _Prepared(binary, machine, initrd, tsc_khz)
    finally:
        os.close(initrd)


def _write_initrd(fd: int, files: BundleFiles, spec: Mapping[str, bytes]) -> None:
    if files.initramfs is None:
        raise InputError(
            f"{files.rootfs.parent} has no initramfs and can't be booted; convert the image again"
        )
    template = open_regular(files.initramfs)
    try:
        size = os.fstat(template).st_size
        done = 0
        while done < size and (sent := os.sendfile(fd, template, done, size - done)):
            done += sent
    finally:
        os.close(template)
    # The kernel looks for the next segment at a multiple of four.
    write_all(fd, b"\0" * (-size % 4) + spec_segment(spec))


@contextmanager
def _started(prepared: _Prepared, search_path: str, timeline: Timeline) -> Iterator[_Running]:
    """Start the hypervisor, wired by socket pairs; at the end it is gone."""
    with ExitStack() as stack:
        ours, theirs = [], []
        for _ in range(3):
            here, there = _socket.socketpair()
            stack.callback(here.close)
            stack.callback(there.close)
            here.setblocking(False)
            ours.append(here)
            theirs.append(there)
        descriptors = [there.fileno() for there in theirs]
        argv = DRIVER.command(prepared.binary, prepared.machine, Wires(*descriptors))
        timeline.mark("hypervisor")
        child = spawn(argv, [*descriptors, prepared.initrd], search_path)
        stack.callback(child.close)
        # Only the hypervisor's own copies may hold the other ends open.
        for there in theirs:
            there.close()
        console, control, stream = ours
        yield _Running(child, (console, control, stream))
