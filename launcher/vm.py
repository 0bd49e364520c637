"""Running a bundle: from its files to the exit status of its application."""

from __future__ import annotations

import os
import secrets
import socket
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
from hyperbuild.launcher.channel import Event, Exit, Hello
from hyperbuild.launcher.child import spawn
from hyperbuild.launcher.console import diagnose
from hyperbuild.launcher.errors import BootError, LaunchError
from hyperbuild.launcher.host import choose_accel, read_cpu
from hyperbuild.launcher.machine import build_machine
from hyperbuild.launcher.ports import check_ports_free
from hyperbuild.launcher.session import Session, Wiring
from hyperbuild.launcher.signals import signal_numbers
from hyperbuild.launcher.spec import spec_files
from hyperbuild.launcher.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.channel import Message
    from hyperbuild.launcher.child import Child
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import Machine, MachineOptions
    from hyperbuild.launcher.session import Outcome

_SEED_SIZE = 64
#: The last event before the application runs (docs/hyperstart.md).
EXEC = "exec"


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
    started: int | None = None,
    on_started: Callable[[Timeline], None] | None = None,
) -> VMResult:
    """Boot files, carry the application's streams and wait for its end.

    search_path is where programs are found (as in PATH). started, in nanoseconds of
    CLOCK_MONOTONIC, begins the timeline (``timeline.process_start``); on_started is called with
    it when the application is started. While it runs in the main thread, SIGINT, SIGTERM and
    SIGHUP stop the VM: the first asks the application, within the grace of options; the next
    kills. On every way out, the death of this process included, the hypervisor is gone.

    InputError, AccessError, UnavailableError, ToolError: it can't be started as asked;
    LaunchError: hyperstart could not start the application; BootError: the VM failed;
    ContentError: the guest broke the protocol.
    """
    timeline = Timeline()
    timeline.mark("start", started)
    with ExitStack() as stack:
        signals = stack.enter_context(signal_numbers())
        prepared = stack.enter_context(_prepare(files, options, search_path))
        vm = stack.enter_context(_started(prepared, search_path, timeline))
        taken = streams or Streams()
        wiring = Wiring(
            *vm.sockets,
            stdout=taken.stdout,
            stderr=taken.stderr,
            stdin=taken.stdin,
            signals=signals,
        )
        listener = _Listener(prepared.machine, options, timeline, progress, on_started)
        session = Session(
            vm.child, wiring, listener.hear, timeout=options.timeout, grace=options.grace
        )
        outcome = session.run()
        return _conclude(outcome, vm.child.wait(), prepared.machine, timeline)


@dataclass(frozen=True, slots=True)
class _Prepared:
    binary: str
    machine: Machine
    initrd: int


@dataclass(frozen=True, slots=True)
class _Running:
    child: Child
    sockets: tuple[socket.socket, socket.socket, socket.socket]


@contextmanager
def _prepare(files: BundleFiles, options: MachineOptions, search_path: str) -> Iterator[_Prepared]:
    """Do all that can fail before anything is started; the initrd lives in a memory file."""
    binary = qemu.find_qemu(search_path)
    cpu = read_cpu()
    accel = choose_accel(options.accel, cpu)
    initrd = os.memfd_create("initrd")
    try:
        machine = build_machine(
            files,
            options,
            initrd=Path(f"/proc/self/fd/{initrd}"),
            accel=accel,
            tsc_khz=cpu.tsc_khz,
        )
        spec = spec_files(
            files.bundle,
            options,
            machine,
            hostname=options.hostname or secrets.token_hex(6),
            clock=time.time_ns(),
            seed=secrets.token_bytes(_SEED_SIZE),
        )
        _write_initrd(initrd, files, spec)
        check_ports_free(options.ports)
        yield _Prepared(binary, machine, initrd)
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
            here, there = socket.socketpair()
            ours.append(stack.enter_context(here))
            theirs.append(stack.enter_context(there))
            here.setblocking(False)
        descriptors = [there.fileno() for there in theirs]
        argv = qemu.qemu_argv(prepared.binary, prepared.machine, qemu.Sockets(*descriptors))
        timeline.mark("qemu")
        child = spawn(argv, [*descriptors, prepared.initrd], search_path)
        stack.callback(child.close)
        # Only the hypervisor's own copies may hold the other ends open.
        for there in theirs:
            there.close()
        console, control, stream = ours
        yield _Running(child, (console, control, stream))


@dataclass(frozen=True, slots=True)
class _Listener:
    """Puts what the guest tells into the timeline, and judges its proof of DAX."""

    machine: Machine
    options: MachineOptions
    timeline: Timeline
    progress: Progress
    on_started: Callable[[Timeline], None] | None

    def hear(self, message: Message, received: int) -> None:
        if isinstance(message, Event):
            self.timeline.mark_guest(message.name, message.nanoseconds, received)
            if message.name == EXEC and self.on_started:
                self.on_started(self.timeline)
        elif isinstance(message, Exit):
            self.timeline.mark("exit", received)
        elif isinstance(message, Hello) and self.options.dax and message.facts.get("dax") != "1":
            self._complain()

    def _complain(self) -> None:
        text = "the root file system is not mapped by DAX in the guest"
        if not self.machine.disks[0].pmem:
            text += ": its size is no multiple of 2 MiB; convert the image again"
        if self.options.require_dax:
            raise BootError(f"{text}, which --require-dax demands")
        self.progress.warn(text)


def _conclude(outcome: Outcome, returncode: int, machine: Machine, timeline: Timeline) -> VMResult:
    """Turn what is known into a result, or raise what it was that failed."""
    console = outcome.console.text()
    if outcome.error:
        raise outcome.error
    if outcome.failure:
        raise LaunchError(outcome.failure.text, status=outcome.failure.status, console=console)
    status = outcome.exit.status if outcome.exit else None
    if outcome.verdict is not None:
        status = outcome.verdict
    if status is None:
        raise _early_end(outcome, returncode, machine, console)
    return VMResult(
        status=status,
        timeline=timeline,
        dax=None if outcome.facts is None else outcome.facts.get("dax") == "1",
        facts=outcome.facts or {},
        console=console,
    )


def _early_end(outcome: Outcome, returncode: int, machine: Machine, console: str) -> Exception:
    told = diagnose(console) or qemu.explain(outcome.stderr.decode(errors="replace"), machine)
    if told:
        return told
    how = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
    return BootError(
        f"the VM ended ({how} of the hypervisor) before its application did; "
        "give it more memory with -m if it needs it",
        console=console,
    )
