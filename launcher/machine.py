"""What a VM is made of, in no hypervisor's words: the user's options and the Machine they give."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hyperbuild.launcher.bundle import Bundle, HashTreeInfo, RootfsInfo
    from hyperbuild.launcher.identity import Identity
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.mounts import Mount

#: Names of the virtio-serial ports that hyperstart opens (docs/hyperstart.md).
CONTROL_PORT = "sh.hyper.channel.0"
STREAM_PORT = "sh.hyper.channel.1"

#: A pmem device starts and ends on the CPU's large pages, or the guest kernel drops DAX.
DAX_ALIGNMENT = 2 << 20

#: The rate of the time stamp counter of a guest whose instructions are counted.
COUNTING_KHZ = 1_000_000

#: MiB below which nothing boots; where kernels are linked to begin; what the kernel's own data,
#: hyperstart and a small application take.
_SMALLEST_MEMORY = 32
_KERNEL_START = 16
_ROOM = 8
#: Bytes of a mapped file for each byte of RAM that the guest's kernel describes its pages with.
_MAPPED_PER_BYTE = 4096 // 64
_LARGEST_MEMORY = 512 << 10
_MIB = 1 << 20
_LARGEST_CPUS = 64
#: MiB of a disk: below that there is no room for a journal.
_SMALLEST_DISK, _LARGEST_DISK = 16, 16 << 20


#: The address that docker's -p binds when none is named.
ANY_ADDRESS = "0.0.0.0"  # noqa: S104


class Accel(StrEnum):
    """How guest instructions run: by KVM, emulated (TCG), or the better of what the host has."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Hold(StrEnum):
    """Where a VM stands still to be copied: nowhere, or before or in the life of its application.

    The values are the words of the boot spec's ``hold``.
    """

    NOWHERE = ""
    EXEC = "exec"
    LISTENING = "listening"
    HEALTHY = "healthy"


class PortForward(Record):
    """A port of the host (0: one to be chosen) that leads to one of the guest, "tcp" or "udp"."""

    host_port: int
    guest_port: int
    protocol: str = "tcp"
    host_ip: str = ANY_ADDRESS

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}/{self.protocol}"


class DiskFile(Record):
    """A file to keep what the guest writes; size in MiB, for one that isn't there yet."""

    path: Path
    size: int | None = None


class Tap(Record):
    """A tap device of the host by name, and what the guest is there; no gateway is an empty one."""

    name: str
    address: str
    prefix: int
    gateway: str = ""


class MachineOptions(Record):
    """What the user may choose about one VM.

    memory is in MiB, timeout and grace in seconds. args replace the image's Cmd (none: keep it),
    env holds what ``parse_env`` returns. An empty hostname gets a random one. Without network the
    guest has its loopback alone. dax maps the root file system as persistent memory where its
    size and the kernel allow; require_dax makes anything less an error. counting has the guest's
    instructions be its clock, which needs emulation; watch has hyperstart look for the first
    port that is listened on and the first good health, watch_ports for every port. health_command,
    for the image's shell, replaces the image's own check. Without disk the guest's writes lie in
    its memory. user, workdir and entrypoint replace the image's, as docker's options do (an empty
    entrypoint is none); publish_all publishes what the image exposes. hosts are (name, address) of
    /etc/hosts, "host-gateway" being the host's; nameservers stand instead of the network's own. A
    tap is instead of the hypervisor's network. With tty, (rows, columns) of it, the application
    has a terminal.
    """

    memory: int = 256
    cpus: int = 1
    ports: tuple[PortForward, ...] = ()
    publish_all: bool = False
    env: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    entrypoint: str | None = None
    hostname: str = ""
    tty: tuple[int, int] | None = None
    network: bool = True
    tap: Tap | None = None
    hosts: tuple[tuple[str, str], ...] = ()
    nameservers: tuple[str, ...] = ()
    dax: bool = True
    require_dax: bool = False
    accel: Accel = Accel.AUTO
    counting: bool = False
    watch: bool = False
    watch_ports: bool = False
    health_command: str = ""
    disk: DiskFile | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    timeout: float | None = None
    grace: float = 10.0


class Disk(Record):
    """A file the guest sees as a device: pmem (mapped, DAX) or a block device; size in bytes.

    With ``verity`` it is used through a device that verifies what is read.
    """

    path: Path
    size: int
    pmem: bool
    read_only: bool = True
    verity: HashTreeInfo | None = None


class Ids(StrEnum):
    """Whose the files of a shared folder are, and who a file belongs to that the guest makes.

    REAL: the same on both sides, for which the hypervisor needs root's rights there. MAPPED: the
    hypervisor's user on the host; for the guest, what it said itself, kept in extended attributes
    (user.*) beside the data. OWN: the hypervisor's user, on both sides.
    """

    REAL = "real"
    MAPPED = "mapped"
    OWN = "own"


class Share(Record):
    """A directory of the host that the guest finds by its tag, and nothing outside of it.

    ``fd`` is a descriptor of it that the hypervisor inherits.
    """

    fd: int
    tag: str
    ids: Ids
    read_only: bool = False


#: The network that a hypervisor makes for its VM alone.
NETWORK = "10.0.2.0/24"


class Ram(Record):
    """A file that is the guest's RAM: what it writes goes there, or (restored) stays with the VM.

    A restored VM begins with what the file has, and with the state that comes with it.
    """

    path: Path
    restored: bool


class Nic(Record):
    """A network interface with static addresses; the network behind it is the hypervisor's own.

    Or it is a tap device, if there is a descriptor ``tap`` of one: then only addresses count.
    """

    mac: str
    address: str
    forwards: tuple[PortForward, ...] = ()
    network: str = NETWORK
    gateway: str = "10.0.2.2"
    nameserver: str = "10.0.2.3"
    tap: int | None = None


class Machine(Record):
    """What any hypervisor must provide: memory in MiB, disks in the guest's order, and so on.

    A VM that is restored needs no ``initrd`` any more. ``command_line`` holds the kernel words that
    no hypervisor's layout decides; a driver adds its own. The two ports of ``CONTROL_PORT`` and
    ``STREAM_PORT`` and a serial console go without saying. ``kernel_options`` are those the kernel
    is known to have (None: nothing is known); counting as in MachineOptions. Without ``ram`` the
    guest's RAM is memory that nobody else sees.
    """

    kernel: Path
    initrd: Path | None
    command_line: tuple[str, ...]
    memory: int
    cpus: int
    accel: Accel
    disks: tuple[Disk, ...]
    nic: Nic | None
    kernel_options: tuple[str, ...] | None = None
    counting: bool = False
    ram: Ram | None = None
    shares: tuple[Share, ...] = ()

    @property
    def is_restored(self) -> bool:
        """Whether it goes on from a template, instead of booting."""
        return self.ram is not None and self.ram.restored

    @property
    def needs_monitor(self) -> bool:
        """Whether something is asked of the hypervisor while it runs."""
        return self.ram is not None or bool(self.nic and self.nic.forwards)


def build_machine(
    files: BundleFiles,
    options: MachineOptions,
    identity: Identity,
    *,
    initrd: Path | None,
    accel: Accel,
    tsc_khz: int | None,
    ram: Ram | None = None,
    others: Sequence[BundleFiles] = (),
) -> Machine:
    """Join a bundle and options into a Machine that boots initrd (template and spec segment).

    accel is decided (not AUTO); tsc_khz is the rate of the host's time stamp counter if known.
    others are the bundles of a pod's further containers: only their root file systems count.
    The disk of options and its mounts are still to be added: they may have to be made.
    InputError: the bundle has no kernel, or options ask for what it can't give.
    """
    if files.kernel is None:
        raise InputError(
            f"{files.rootfs.parent} was made with --no-kernel and can't be booted; "
            "convert the image again without it"
        )
    check_options(options)
    if options.counting and accel is not Accel.TCG:
        raise InputError("instructions are counted by emulation alone; use the accelerator tcg")
    known = files.bundle.kernel.options if files.bundle.kernel else None
    all_files = (files, *others)
    roots = tuple(root_disk(one.rootfs, one.bundle.rootfs, options, known) for one in all_files)
    _check_fit(files, roots, options)
    for one in all_files:
        name = one.bundle.rootfs.format
        need_option(known, f"CONFIG_{name.upper()}_FS", f"its rootfs.{name}")
    words = kernel_words(files.bundle, accel, options.cpus, tsc_khz)
    if any(root.verity for root in roots):
        from hyperbuild.launcher.verity import check_kernel, verity_word

        check_kernel(known)
        words = (*words, verity_word(roots))
    return Machine(
        kernel=files.kernel,
        initrd=initrd,
        command_line=words,
        memory=options.memory,
        cpus=options.cpus,
        accel=accel,
        disks=roots,
        nic=_nic(identity, options) if options.network else None,
        kernel_options=known,
        counting=options.counting,
        ram=ram,
    )


def block_device(disks: Sequence[Disk], index: int) -> str:
    """Return the path by which the guest finds disks[index], which is no pmem."""
    return f"/dev/vd{chr(ord('a') + sum(not disk.pmem for disk in disks[:index]))}"


def root_device(disks: Sequence[Disk], index: int) -> str:
    """Return the path by which the guest finds disks[index], whichever kind it is."""
    if disks[index].verity:
        return f"/dev/dm-{sum(disk.verity is not None for disk in disks[:index])}"
    if not disks[index].pmem:
        return block_device(disks, index)
    return f"/dev/pmem{sum(disk.pmem for disk in disks[:index])}"


def _nic(identity: Identity, options: MachineOptions) -> Nic:
    tap = options.tap
    if tap:
        network = f"{tap.address}/{tap.prefix}"
        return Nic(identity.mac, tap.address, network=network, gateway=tap.gateway)
    address = NETWORK.rpartition(".")[0] + f".{identity.host}"
    return Nic(identity.mac, address, options.ports)


def root_disk(
    path: Path, rootfs: RootfsInfo, options: MachineOptions, known: tuple[str, ...] | None
) -> Disk:
    """Return the disk for the root file system: pmem if wanted and possible.

    known are the kernel's options, as in Machine. InputError where require_dax can't be met.
    """
    aligned = rootfs.size > 0 and rootfs.size % DAX_ALIGNMENT == 0
    if options.require_dax:
        if rootfs.verity:
            from hyperbuild.launcher.verity import no_dax

            raise no_dax("--require-dax")
        if not options.dax:
            raise InputError(
                "--require-dax contradicts the choice of a block device; drop one of the two"
            )
        if not aligned:
            raise InputError(
                f"{path} can't be mapped for DAX: its size is no multiple of 2 MiB; "
                "convert it again"
            )
        need_option(known, "CONFIG_FS_DAX", "--require-dax")
    capable = (known is None or "CONFIG_FS_DAX" in known) and not rootfs.verity
    pmem = options.dax and aligned and capable
    return Disk(path, rootfs.size, pmem=pmem, verity=rootfs.verity)


def need_option(known: tuple[str, ...] | None, option: str, what: str) -> None:
    """Raise InputError if the kernel is known to lack option, which what needs."""
    if known is not None and option not in known:
        raise InputError(
            f"the bundle's kernel has no {option}, which {what} needs; "
            "convert the image again with --profile dax or full"
        )


def _check_fit(files: BundleFiles, roots: Sequence[Disk], options: MachineOptions) -> None:
    """Raise InputError where kernel, images and options do not go together."""
    bundle = files.bundle
    known = bundle.kernel.options if bundle.kernel else None
    if options.cpus > 1:
        need_option(known, "CONFIG_SMP", f"--cpus {options.cpus}")
    if options.disk:
        need_option(known, "CONFIG_EXT4_FS", "--disk")
    for mount in options.mounts:
        if mount.is_disk:
            need_option(known, "CONFIG_EXT4_FS", f"-v {mount}")
    mapped = sum(root.size for root in roots if root.pmem) // _MAPPED_PER_BYTE
    images = sum(root.size for root in roots) // _MIB
    # While it is unpacked, the initramfs is there twice.
    loaded = _size(files.kernel) + 2 * _size(files.initramfs)
    least = _KERNEL_START + -(-(loaded + mapped) // _MIB) + _ROOM
    if options.memory < least:
        unmapped = ", or read the image by --rootfs blk" if mapped >= _MIB else ""
        raise InputError(
            f"memory of {options.memory} MiB is too small for a kernel of {loaded // _MIB} MiB and "
            f"an image of {images} MiB: give at least {least}M with -m{unmapped}"
        )


def _size(path: Path | None) -> int:
    """Return the size of a file in bytes, 0 if it is not there (whoever opens it will say so)."""
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0


def kernel_words(bundle: Bundle, accel: Accel, cpus: int, tsc_khz: int | None) -> tuple[str, ...]:
    """Return the kernel command line as far as it doesn't depend on the hypervisor.

    Under emulation each word saves the guest a measurement or a pass over its own code.
    """
    words = [
        "console=ttyS0",
        "quiet",
        "loglevel=1",
        "panic=-1",
        "reboot=t",
        "rdinit=/init",
    ]
    if accel is Accel.TCG:
        words += ["no_timer_check", "tsc=reliable", "noreplace-smp"]
        words += ["rodata=off", "percpu_alloc=page"]
        words += ["nolapic_timer"] if cpus == 1 else []
        words += [f"tsc_early_khz={tsc_khz}"] if tsc_khz else []
    return (*words, *bundle.command_line)


def check_options(options: MachineOptions) -> None:
    """Raise InputError for options that no machine can have."""
    if not _SMALLEST_MEMORY <= options.memory <= _LARGEST_MEMORY:
        raise InputError(
            f"memory of {options.memory} MiB: give {_SMALLEST_MEMORY}M to {_LARGEST_MEMORY >> 10}G"
        )
    if not 1 <= options.cpus <= _LARGEST_CPUS:
        raise InputError(f"{options.cpus} CPUs: give 1 to {_LARGEST_CPUS}")
    if options.counting and options.cpus > 1:
        raise InputError("instructions are counted on one CPU alone; drop --cpus or the budget")
    if options.ports and not options.network:
        raise InputError("-p needs a network; drop it or --network none")
    if options.ports and options.tap:
        raise InputError("all ports are open on a tap's own address; drop -p")
    if options.hostname and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", options.hostname):
        raise InputError(
            f"host name {options.hostname!r} is not one; use up to 64 letters, digits, '-' and '.'"
        )
    _check_ports(options.ports)
    _check_targets(options.mounts)


def _check_ports(ports: Sequence[PortForward]) -> None:
    seen: dict[tuple[int, str], set[str]] = {}
    for port in ports:
        taken = seen.setdefault((port.host_port, port.protocol), set())
        # Who listens on all addresses leaves none to others.
        clashes = {port.host_ip, ANY_ADDRESS} if port.host_ip != ANY_ADDRESS else taken
        if port.host_port and taken & clashes:
            raise InputError(f"host port {port} is given twice; give each once")
        taken.add(port.host_ip)


def _check_targets(mounts: Sequence[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        if mount.target in seen:
            raise InputError(f"{mount.target} is mounted twice; give each path once")
        seen.add(mount.target)


def parse_memory(text: str) -> int:
    """Read ``512M`` or ``2G`` (also ``512MiB``, ``2g``) as MiB; InputError otherwise."""
    match = re.fullmatch(r"(\d{1,9})([mg])(?:i?b)?", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise InputError(f"memory {text!r} is not a size; say 512M or 2G")
    return int(match[1]) << (10 if match[2] in "gG" else 0)


def parse_workdir(text: str) -> str:
    """Return an absolute path without dots in it; InputError for any other."""
    if not text.startswith("/"):
        raise InputError(f"-w {printable(text)!r} is no absolute path; say {printable('/' + text)}")
    from posixpath import normpath

    return "/" + normpath(text).strip("/")


def parse_disk(text: str) -> DiskFile:
    """Read ``FILE[:SIZE]``, the size as ``parse_memory`` does; InputError otherwise."""
    from pathlib import Path

    path, colon, size = text.rpartition(":")
    if not colon:
        return DiskFile(Path(text))
    if not path:
        raise InputError(f"disk {printable(text)!r} is no FILE:SIZE; say state.img:10G, for one")
    return DiskFile(Path(path), parse_disk_size(size))


def parse_disk_size(text: str) -> int:
    """Read the size of a disk as MiB, as ``parse_memory``; InputError otherwise."""
    try:
        number = parse_memory(text)
    except InputError:
        number = 0
    if not _SMALLEST_DISK <= number <= _LARGEST_DISK:
        raise InputError(
            f"{printable(text)!r} is no size of a disk: give {_SMALLEST_DISK}M to "
            f"{_LARGEST_DISK >> 10}G, as in 10G"
        )
    return number


def parse_env(text: str, environ: Mapping[str, str]) -> str:
    """Read ``NAME=value``, or ``NAME`` whose value is looked up in environ, as docker's -e.

    Returns "NAME=value", or "NAME" alone if environ lacks it: then the guest shall not have it.
    """
    name, equals, _ = text.partition("=")
    if not name or "\0" in text:
        raise InputError(f"variable {printable(text)!r} is not NAME=value or NAME")
    if equals or name not in environ:
        return text
    return f"{name}={environ[name]}"
