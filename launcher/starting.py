"""From a bundle to a hypervisor that runs: all that can fail is done before anything is started."""

from __future__ import annotations

# Sockets without their module's classes, which take as long to load as all the rest.
import _socket
import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.files import open_regular, write_all
from hyperbuild.converter.records import Record
from hyperbuild.initramfs.cpio import spec_segment
from hyperbuild.launcher import qemu
from hyperbuild.launcher.child import spawn
from hyperbuild.launcher.confinement import needs_of, open_for_others
from hyperbuild.launcher.driver import Driver, Wires
from hyperbuild.launcher.host import choose_accel, read_cpu
from hyperbuild.launcher.identity import new_identity
from hyperbuild.launcher.machine import COUNTING_KHZ, Hold, Ram, build_machine
from hyperbuild.launcher.network import read_resolver
from hyperbuild.launcher.ports import check_ports_free
from hyperbuild.launcher.spec import pod_files, spec_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hyperbuild.initramfs.cpio import CpioEntry
    from hyperbuild.launcher.child import Child
    from hyperbuild.launcher.driver import Monitor
    from hyperbuild.launcher.host import Cpu
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import Accel, Machine, MachineOptions
    from hyperbuild.launcher.mounts import GuestMount
    from hyperbuild.launcher.pod import Member
    from hyperbuild.launcher.template import Templates
    from hyperbuild.launcher.timeline import Timeline

#: The hypervisor.
DRIVER: Driver = qemu


class Host(Record):
    """What runs a VM here: the program, on which CPU, how, and the rate that guests may be told.

    Other programs are found along ``search_path``, as in PATH.
    """

    program: str
    cpu: Cpu
    accel: Accel
    tsc_khz: int | None
    search_path: str


class Prepared(Record):
    """A machine that can be started; it inherits descriptors.

    orders are the first bytes for its control port. A VM that is restored begins with the state of
    a descriptor, and where it stood is ``hold``. In a pod the host starts what runs.
    """

    host: Host
    machine: Machine
    descriptors: tuple[int, ...]
    orders: bytes = b""
    state: int | None = None
    hold: Hold = Hold.NOWHERE
    is_pod: bool = False


#: Our ends of a VM's wires: console, control, stream, and the monitor of a machine that needs it.
Ports = tuple[_socket.socket, _socket.socket, _socket.socket, _socket.socket | None]


class Running(Record):
    """A hypervisor, our ends of its wires, and what speaks over the last of them."""

    child: Child
    ports: Ports
    monitor: Monitor | None


def find_host(options: MachineOptions, search_path: str) -> Host:
    """Look for what can run options; ToolError, InputError, UnavailableError if nothing can."""
    program = DRIVER.find(search_path)
    cpu = read_cpu()
    accel = choose_accel(options.accel, cpu)
    tsc_khz = COUNTING_KHZ if options.counting else cpu.tsc_khz
    return Host(program, cpu, accel, tsc_khz, search_path)


@contextmanager
def prepare_cold(
    host: Host,
    files: BundleFiles,
    options: MachineOptions,
    *,
    ram: int | None = None,
    hold: Hold = Hold.NOWHERE,
    pod: Sequence[Member] = (),
) -> Iterator[Prepared]:
    """Prepare a VM that boots; its initrd lives in a memory file.

    ram is the descriptor of a file to be its RAM, hold is where it will stand still. With pod the
    VM is one of several containers, of which files and options are the first's.
    """
    initrd = os.memfd_create("initrd")
    with ExitStack() as stack:
        stack.callback(os.close, initrd)
        descriptors = [initrd] if ram is None else [initrd, ram]
        identity = new_identity(options.hostname)
        machine = build_machine(
            files,
            options,
            identity,
            initrd=_inherited(initrd),
            accel=host.accel,
            tsc_khz=host.tsc_khz,
            ram=None if ram is None else Ram(_inherited(ram), restored=False),
            others=[member.files for member in pod[1:]],
        )
        check_ports_free(options.ports)
        machine, opened = _inheriting(machine, stack)
        descriptors += opened
        containers = [member.options.mounts for member in pod] or [options.mounts]
        mounts: Sequence[Mapping[str, GuestMount]] = [{} for _ in containers]
        entries: tuple[CpioEntry, ...] = ()
        outside = any(mount.needs_host for mounts in containers for mount in mounts)
        if options.tap or options.disk or outside:
            from hyperbuild.launcher.devices import attach

            image = files.bundle.image.manifest_digest
            attached = attach(machine, options, containers, image, host.search_path, stack)
            machine, mounts, entries = attached.machine, attached.mounts, attached.entries
            descriptors += attached.descriptors
        shared = pod[0].shared if pod else ()
        spec = spec_files(
            files.bundle,
            options,
            machine,
            identity,
            clock=time.time_ns(),
            hold=hold,
            resolver=read_resolver(),
            mounts=_guest_mounts(files, options, mounts[0], shared),
        )
        if pod:
            each = [
                _guest_mounts(member.files, member.options, opened, member.shared)
                for member, opened in zip(pod, mounts, strict=True)
            ]
            spec |= pod_files(pod, machine, identity.hostname, each)
        _write_initrd(initrd, files, spec, entries)
        yield Prepared(host, machine, tuple(descriptors), is_pod=bool(pod))


@contextmanager
def prepare_warm(
    host: Host, files: BundleFiles, options: MachineOptions, templates: Templates
) -> Iterator[Prepared]:
    """Prepare a copy of a template; TemplateError if there is none that fits."""
    from hyperbuild.launcher.channel import encode_spec
    from hyperbuild.launcher.template import ingredients

    identity = new_identity(options.hostname)

    def machine(ram: Path) -> Machine:
        return build_machine(
            files,
            options,
            identity,
            initrd=None,
            accel=host.accel,
            tsc_khz=host.tsc_khz,
            ram=Ram(ram, restored=True),
        )

    made_with = ingredients(DRIVER, host.program, host.cpu, files, machine(Path("/")))
    with templates.open(files, options, made_with) as template, ExitStack() as stack:
        built = machine(_inherited(template.fd))
        spec = spec_files(
            files.bundle,
            options,
            built,
            identity,
            clock=time.time_ns(),
            resolver=read_resolver(),
            mounts=_guest_mounts(files, options, {}),
        )
        check_ports_free(options.ports)
        built, opened = _inheriting(built, stack)
        yield Prepared(
            host,
            built,
            (template.fd, template.state, *opened),
            encode_spec(spec),
            template.state,
            template.hold,
        )


def _inheriting(machine: Machine, stack: ExitStack) -> tuple[Machine, list[int]]:
    """Open kernel and disks of machine, whose program will find nothing by their own paths.

    stack closes them. InputError, UnavailableError: one can't be opened.
    """
    opened = []

    def inherit(path: Path) -> Path:
        fd = open_for_others(path)
        stack.callback(os.close, fd)
        opened.append(fd)
        return _inherited(fd)

    disks = tuple(disk.replace(path=inherit(disk.path)) for disk in machine.disks)
    return machine.replace(kernel=inherit(machine.kernel), disks=disks), opened


def _guest_mounts(
    files: BundleFiles,
    options: MachineOptions,
    attached: Mapping[str, GuestMount],
    shared: Sequence[tuple[str, str]] = (),
) -> list[GuestMount]:
    volumes = files.bundle.process.volumes
    if not (options.mounts or volumes or shared):
        return []
    from hyperbuild.launcher.mounts import guest_mounts

    return guest_mounts(options.mounts, volumes, attached, shared)


def _inherited(fd: int) -> Path:
    """Return the path by which a program that inherits fd can open it."""
    return Path(f"/proc/self/fd/{fd}")


def _write_initrd(
    fd: int, files: BundleFiles, spec: Mapping[str, bytes], more: Iterable[CpioEntry]
) -> None:
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
    write_all(fd, b"\0" * (-size % 4) + spec_segment(spec, more))


@contextmanager
def started(prepared: Prepared, timeline: Timeline) -> Iterator[Running]:
    """Start the hypervisor, wired by socket pairs; at the end it is gone."""
    with ExitStack() as stack:
        ours, theirs = [], []
        for _ in range(4 if prepared.machine.needs_monitor else 3):
            here, there = _socket.socketpair()
            stack.callback(here.close)
            stack.callback(there.close)
            here.setblocking(False)
            ours.append(here)
            theirs.append(there)
        wires = Wires(*(there.fileno() for there in theirs))
        argv = DRIVER.command(prepared.host.program, prepared.machine, wires)
        console, control, stream, *others = ours
        port = others[0] if others else None
        monitor = DRIVER.monitor(port, prepared.machine) if port else None
        if monitor and prepared.state is not None:
            monitor.restore(prepared.state)
        timeline.mark("hypervisor")
        inherited = [*(there.fileno() for there in theirs), *prepared.descriptors]
        needs = needs_of(prepared.machine, DRIVER.places(prepared.host.program))
        child = spawn(argv, inherited, needs)
        stack.callback(child.close)
        # Only the hypervisor's own copies may hold the other ends open.
        for there in theirs:
            there.close()
        yield Running(child, (console, control, stream, port), monitor)
