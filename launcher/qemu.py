"""The QEMU driver, and the only file that knows QEMU's options, errors and memory map.

Sources: qemu(1), QEMU's hw/i386 (pc_piix.c, pc.c) for where memory devices are placed, and its
QAPI reference (qapi/migration.json) for what a VM that is saved and restored is told.
"""

from __future__ import annotations

import json
import re
from _socket import SCM_RIGHTS, SOL_SOCKET
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError, HyperbuildError, InputError, ToolError
from hyperbuild.launcher.errors import BootError
from hyperbuild.launcher.machine import CONTROL_PORT, STREAM_PORT, Accel, Ids, need_option
from hyperbuild.launcher.programs import find_program

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence

    from hyperbuild.launcher.driver import Wires
    from hyperbuild.launcher.machine import Disk, Machine, Nic, PortForward, Share

BINARY = "qemu-system-x86_64"

#: How devices are named on each bus, and the kernel's option for it.
_PCI = ("pci", "CONFIG_VIRTIO_PCI")
_MMIO = ("device", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES")

#: The emulator keeps what it translated in a quarter of the guest's memory, and in no less than
#: this many MiB: with fewer it translates the same code over and over.
_TRANSLATED_PART = 4
_LEAST_TRANSLATED = 16

#: System calls that QEMU gives up before its guest begins (seccomp): old ones, those that change
#: its user, start programs, or move it between CPUs.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

#: Directories of its data and firmware, beneath where it is installed.
_DATA = ("lib", "lib64", "share/qemu", "share/seabios")

#: Up to this many MiB the guest's RAM is a memory file, which the host fills by small pages. What
#: QEMU allocates otherwise comes in huge ones: faster by some percent, and larger by 8 to 10 MB.
_TIGHT = 128

_GIB = 1 << 30

#: A RAM file that is shared is not part of the state; progress is told by events of _MOVED.
_MIGRATION = (
    "migrate-set-capabilities",
    {
        "capabilities": [
            {"capability": name, "state": True} for name in ("x-ignore-shared", "events")
        ]
    },
)
_MOVED = "MIGRATION"

_NETDEV = "net0"

#: What QEMU calls the ways to keep ids in a shared folder.
_IDS = {Ids.REAL: "passthrough", Ids.MAPPED: "mapped-xattr", Ids.OWN: "none"}

#: So many devices there is room for: transports of a microvm, slots of a pc less the board's own.
_ROOM = {"device": 8, "pci": 28}

#: Below 4 GiB the pc machine keeps this much RAM if more than _LOW_LIMIT is asked for.
_LOW_RAM = 3 << 30
_LOW_LIMIT = 0xE0000000


def find(search_path: str) -> str:
    """Return QEMU's path, searched along search_path; ToolError if it isn't installed."""
    program = find_program(BINARY, search_path)
    if program is None:
        raise ToolError(f"{BINARY} is not on the PATH; run: apt install qemu-system-x86")
    return program


def places(program: str) -> tuple[str, ...]:
    """Return what program reads by path: itself, its modules, its firmware."""
    real = Path(program).resolve()
    if real.parent.name not in ("bin", "sbin"):
        # Where it was compiled, with all that it needs around it.
        return (str(real.parent),)
    return (str(real), *(f"{real.parents[1]}/{name}" for name in _DATA))


def version(program: str) -> str:
    """Return the first line of what program says of itself; ToolError if it does not run."""
    import subprocess

    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, errors="replace"
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ToolError(f"{program} does not run; reinstall qemu-system-x86") from error
    return done.stdout.partition("\n")[0]


def command(program: str, machine: Machine, wires: Wires) -> list[str]:
    """Return the command that boots machine at once: pc if a disk is pmem, else microvm.

    InputError: the kernel is known to lack the bus of that machine.
    """
    pmem = [disk for disk in machine.disks if disk.pmem]
    bus, option = _PCI if pmem else _MMIO
    need_option(machine.kernel_options, option, "the machine's bus")
    queued = _queued(machine.accel, bus)
    _check_room(machine, bus)
    argv = [
        program,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-sandbox", _SANDBOX),
        *("-machine", _machine_type(bool(pmem))),
        *_acceleration(machine),
        *_processor(machine.accel, bool(pmem)),
        *("-smp", _cpus(machine.cpus)),
        *("-m", _memory(machine.memory, pmem)),
        *_backing(machine),
        *("-kernel", str(machine.kernel)),
        *(("-initrd", str(machine.initrd)) if machine.initrd else ()),
        *("-append", " ".join((*_layout_words(machine.memory, pmem), *machine.command_line))),
        *_serial(wires, queued),
        *_reporting(machine, bus),
    ]
    addresses = iter(pmem_addresses(machine.memory, pmem))
    for index, disk in enumerate(machine.disks):
        argv += _pmem(disk, index, next(addresses)) if disk.pmem else _block(disk, index, queued)
    for share in machine.shares:
        argv += _share(share, queued)
    if machine.nic:
        argv += _network(machine.nic, queued)
    if machine.is_restored:
        argv += ["-incoming", "defer"]
    if wires.monitor is not None:
        argv += ["-chardev", f"socket,id=monitor,fd={wires.monitor}"]
        argv += ["-mon", "chardev=monitor,mode=control"]
    return argv


def _check_room(machine: Machine, bus: str) -> None:
    """Raise InputError for more devices than there is room for, serial and balloon included."""
    blocks = sum(not disk.pmem for disk in machine.disks)
    if 2 + blocks + len(machine.shares) + bool(machine.nic) > _ROOM[bus]:
        raise InputError(
            "the machine has no room for so many folders and volumes; share a folder above them"
            + (", or map the image (--rootfs dax)" if bus == "device" else "")
        )


class QMPMonitor:
    """QEMU's QMP on our end of its socket: requests as JSON lines, answers likewise."""

    def __init__(self, port: socket, machine: Machine) -> None:
        self._port = port
        self._machine = machine
        self._line = b""
        self._saves = False
        port.sendall(_requests(("qmp_capabilities", {})))

    def save(self, state: int) -> None:
        """Ask for the VM's state, its RAM file excepted, to be written to the descriptor state."""
        self._saves = True
        # A descriptor that QEMU has inherited is good for what comes in alone.
        rights = [(SOL_SOCKET, SCM_RIGHTS, pack("i", state))]
        self._port.sendmsg([_requests(("getfd", {"fdname": "state"}))], rights)
        unlimited = ("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        self._port.sendall(_requests(_MIGRATION, unlimited, ("migrate", {"uri": "fd:state"})))

    def restore(self, state: int) -> None:
        """Tell a QEMU that is not started yet to begin with state, which it will inherit."""
        self._port.sendall(_requests(_MIGRATION, ("migrate-incoming", {"uri": f"fd:{state}"})))

    def publish(self) -> None:
        """Open the ports that lead to the guest."""
        if self._machine.nic:
            rules = (_rule(self._machine.nic, port) for port in self._machine.nic.forwards)
            lines = ({"command-line": f"hostfwd_add {_NETDEV} {rule}"} for rule in rules)
            self._port.sendall(_requests(*(("human-monitor-command", line) for line in lines)))

    def feed(self, data: bytes) -> bool:
        """Take bytes of the socket; return whether a VM that was to be saved is.

        The error of what could not be done is raised.
        """
        *lines, self._line = (self._line + data).split(b"\n")
        return True in [self._is_saved(line) for line in lines if line.strip()]

    def _is_saved(self, line: bytes) -> bool:
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ContentError("QEMU's monitor said what is no JSON") from error
        refusal = message.get("return") or message.get("error", {}).get("desc")
        if refusal:
            raise explain(str(refusal), self._machine) or BootError(f"QEMU: {refusal}")
        status = message.get("data", {}).get("status") if message.get("event") == _MOVED else None
        # One that can't restore a VM ends, and says why on its stderr.
        if status == "failed" and self._saves:
            raise BootError("QEMU could not save the VM")
        return self._saves and bool(status == "completed")


def monitor(port: socket, machine: Machine) -> QMPMonitor:
    """Return the monitor of machine, on our end port of its socket; it may not be started yet."""
    return QMPMonitor(port, machine)


def _requests(*commands: tuple[str, dict[str, Any]]) -> bytes:
    return b"".join(
        json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
        for name, arguments in commands
    )


def pmem_addresses(memory: int, disks: Sequence[Disk]) -> list[int]:
    """Return the guest-physical addresses of disks beside memory MiB of RAM on the pc machine.

    Memory devices start at the first GiB boundary above RAM and 4 GiB. Each disk gets a boundary
    of its own, so that the guest can add each to its memory map whatever their sizes.
    """
    ram = memory << 20
    above = ram - _LOW_RAM if ram >= _LOW_LIMIT else 0
    address = 4 * _GIB + _round_up(above)
    addresses = []
    for disk in disks:
        addresses.append(address)
        address += _round_up(disk.size)
    return addresses


def explain(stderr: str, machine: Machine) -> HyperbuildError | None:
    """Return what QEMU's words on leaving early mean, None if it said nothing."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return None
    if rule := re.search(r"Could not set up host forwarding rule '(\w+):([^']*?)-", stderr):
        for port in machine.nic.forwards if machine.nic else ():
            if (rule[1], rule[2]) == (port.protocol, f"{port.host_ip}:{port.host_port}"):
                return InputError(
                    f"host port {port} is in use; stop what listens there or choose another with -p"
                )
    line = lines[-1].partition(": ")[2] or lines[-1]
    return BootError(f"QEMU could not run the VM: {line}")


def _acceleration(machine: Machine) -> list[str]:
    if machine.accel is Accel.KVM:
        return ["-accel", "kvm"]
    translated = max(machine.memory // _TRANSLATED_PART, _LEAST_TRANSLATED)
    # One virtual nanosecond for each instruction, and none slept away: counts repeat exactly.
    counting = ("-icount", "shift=0,sleep=off") if machine.counting else ()
    return ["-accel", f"tcg,tb-size={translated}", *counting]


def _round_up(size: int) -> int:
    return -(-size // _GIB) * _GIB


def _processor(accel: Accel, pci: bool) -> list[str]:
    """Choose the CPU and what emulation alone gains from.

    An emulator runs "fast" string instructions byte by byte, and kernel and libc choose them by
    erms and fsrm. qboot is all the firmware that a PVH kernel needs; SeaBIOS looks for disks and
    screens.
    """
    if accel is Accel.KVM:
        return ["-cpu", "host"]
    argv = ["-cpu", "max,erms=off,fsrm=off"]
    return [*argv, "-bios", "qboot.rom"] if pci else argv


def _queued(accel: Accel, bus: str) -> str:
    # An emulator's virtqueues are served sooner by the CPU's thread than by another one.
    return f"{bus},ioeventfd=off" if accel is Accel.TCG and bus == "pci" else bus


def _cpus(count: int) -> str:
    # One socket each: without ACPI the guest knows of CPUs by the firmware's MP table, which lists
    # only the first of each socket.
    return f"{count},sockets={count},cores=1,threads=1"


def _machine_type(pmem: bool) -> str:
    if pmem:
        return "pc,nvdimm=on,usb=off,vmport=off,hpet=off"
    return "microvm,acpi=off"


def _memory(memory: int, pmem: Sequence[Disk]) -> str:
    if not pmem:
        return f"{memory}M"
    # QEMU counts room for each slot's alignment itself.
    room = sum(_round_up(disk.size) for disk in pmem) >> 20
    return f"{memory}M,slots={len(pmem)},maxmem={memory + room}M"


def _backing(machine: Machine) -> list[str]:
    ram, size = machine.ram, f"id=ram,size={machine.memory}M"
    if ram:
        share = "off" if ram.restored else "on"
        path = str(ram.path).replace(",", ",,")
        backend = f"memory-backend-file,{size},share={share},mem-path={path}"
    elif machine.memory <= _TIGHT:
        backend = f"memory-backend-memfd,{size}"
    else:
        return []
    return ["-object", backend, "-machine", "memory-backend=ram"]


def _layout_words(memory: int, pmem: Sequence[Disk]) -> list[str]:
    """Tell the kernel of each pmem device: quicker than its finding them by ACPI."""
    words = [
        f"memmap={disk.size >> 20}M!{address:#x}"
        for disk, address in zip(pmem, pmem_addresses(memory, pmem), strict=True)
    ]
    return [*words, "acpi=off"]


def _serial(wires: Wires, bus: str) -> list[str]:
    # Each port of the device costs the guest two queues: only as many as are used (0 is reserved).
    return [
        *("-chardev", f"socket,id=console,fd={wires.console}"),
        *("-serial", "chardev:console"),
        *("-device", f"virtio-serial-{bus},id=serial,max_ports=3"),
        *("-chardev", f"socket,id=control,fd={wires.control}"),
        *("-device", f"virtserialport,bus=serial.0,nr=1,chardev=control,name={CONTROL_PORT}"),
        *("-chardev", f"socket,id=stream,fd={wires.stream}"),
        *("-device", f"virtserialport,bus=serial.0,nr=2,chardev=stream,name={STREAM_PORT}"),
    ]


def _reporting(machine: Machine, bus: str) -> list[str]:
    # A balloon that nobody inflates: the guest tells of free pages, and the host takes them back.
    # Those of a RAM file would be punched out of it, though other VMs map it.
    known = machine.kernel_options
    if machine.ram or (known is not None and "CONFIG_PAGE_REPORTING" not in known):
        return []
    return ["-device", f"virtio-balloon-{bus},free-page-reporting=on"]


def _pmem(disk: Disk, index: int, address: int) -> list[str]:
    backend = f"memory-backend-file,id=pmem{index},size={disk.size},share=on"
    if disk.read_only:
        backend += ",readonly=on"
    # A read-only backing is refused unless the device is unarmed, which says just that.
    unarmed = ",unarmed=on" if disk.read_only else ""
    return [
        *("-object", f"{backend},mem-path={_escaped(disk)}"),
        *("-device", f"nvdimm,id=nvdimm{index},memdev=pmem{index},addr={address:#x}{unarmed}"),
    ]


def _block(disk: Disk, index: int, bus: str) -> list[str]:
    access, errors = "read-only=on", ""
    if not disk.read_only:
        # QEMU would open it to be read at first, and only later to be written. What the guest
        # deletes is given back to the host. A full host is an error to the guest, which else would
        # stand still until somebody asks QEMU to go on.
        access = "read-only=off,auto-read-only=off,discard=unmap"
        errors = ",werror=report,rerror=report"
    add, file = _adopted(disk)
    return [
        *add,
        *("-drive", f"if=none,id=disk{index},format=raw,{access},file={file}"),
        *("-device", f"virtio-blk-{bus},drive=disk{index}{errors}"),
    ]


def _adopted(disk: Disk) -> tuple[list[str], str]:
    """Return options that name a disk, and its name.

    A descriptor is used as it is: to open its file once more QEMU may lack the right.
    """
    match = re.fullmatch(r"/proc/self/fd/(\d+)", str(disk.path))
    if not match:
        return [], _escaped(disk)
    return ["-add-fd", f"fd={match[1]},set={match[1]}"], f"/dev/fdset/{match[1]}"


def _share(share: Share, bus: str) -> list[str]:
    # Files of several file systems below the folder could have one number; they get others.
    access = f"security_model={_IDS[share.ids]},multidevs=remap"
    access += ",readonly=on" if share.read_only else ""
    return [
        *("-fsdev", f"local,id={share.tag},path=/proc/self/fd/{share.fd},{access}"),
        *("-device", f"virtio-9p-{bus},fsdev={share.tag},mount_tag={share.tag}"),
    ]


def _escaped(disk: Disk) -> str:
    # In an option's value a comma is written twice.
    return str(disk.path.absolute()).replace(",", ",,")


def _rule(nic: Nic, port: PortForward) -> str:
    return f"{port.protocol}:{port.host_ip}:{port.host_port}-{nic.address}:{port.guest_port}"


def _network(nic: Nic, bus: str) -> list[str]:
    netdev = _user_network(nic) if nic.tap is None else f"tap,id={_NETDEV},fd={nic.tap}"
    no_rom = ",romfile=" if bus.startswith("pci") else ""
    return [
        *("-netdev", netdev),
        *("-device", f"virtio-net-{bus},netdev={_NETDEV},mac={nic.mac}{no_rom}"),
    ]


def _user_network(nic: Nic) -> str:
    addresses = f"net={nic.network},host={nic.gateway},dns={nic.nameserver}"
    return f"user,id={_NETDEV},ipv6=off,{addresses}"
