"""A machine that no host of ours starts: what its kernel and its guest are told beforehand.

It has firmware, disks in some order, a network that gives addresses, and a console; nobody waits at
hyperstart's ports (docs/hyperstart.md, "Alone").
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.identity import Identity
from hyperbuild.launcher.machine import Accel, Disk, Machine
from hyperbuild.launcher.mounts import guest_mounts
from hyperbuild.launcher.spec import spec_files

if TYPE_CHECKING:
    from hyperbuild.launcher.bundle import Bundle
    from hyperbuild.launcher.machine import MachineOptions

#: The device of a root file system whose blocks are verified (launcher/verity.py).
VERIFIED_ROOT = "/dev/dm-0"

#: Seconds after a panic until the machine starts anew, and that a network's cable is waited for.
_PANIC, _CARRIER = 10, 10


def alone_words(bundle: Bundle, options: MachineOptions) -> tuple[str, ...]:
    """Return the kernel's command line: messages on screen and serial port, an address by DHCP.

    The last console is the one that the application writes to.
    """
    words = ["console=tty0", "console=ttyS0,115200", "quiet", f"panic={_PANIC}", "rdinit=/init"]
    if options.network:
        words += ["ip=dhcp", f"carrier_timeout={_CARRIER}"]
    return (*words, *bundle.command_line)


def alone_spec(
    bundle: Bundle, options: MachineOptions, *, root: str, hostname: str
) -> dict[str, bytes]:
    """Return the boot spec of such a machine: file name -> content.

    root is how hyperstart finds the root file system ("UUID=…", "ISO=…", VERIFIED_ROOT); hostname
    counts if options have none. Errors as of ``spec_files``, and InputError for what needs a host.
    """
    _refuse(options)
    machine = Machine(
        kernel=Path(),
        initrd=None,
        command_line=(),
        memory=options.memory,
        cpus=options.cpus,
        accel=Accel.AUTO,
        disks=(Disk(Path(), bundle.rootfs.size, pmem=False),),
        nic=None,
    )
    # What no two machines may share is not in what they share: hyperstart and the kernel draw it.
    nobody = Identity(options.hostname or hostname, machine_id="", mac="", host=0, seed=b"")
    mounts = guest_mounts(options.mounts, bundle.process.volumes, {})
    files = spec_files(bundle, options, machine, nobody, clock=0, mounts=mounts)
    return files | {
        "rootfs": f"{root} {bundle.rootfs.format} -\n".encode(),
        "net": b"dhcp\n" if options.network else b"",
        "machine-id": b"",
        # Nobody would be told.
        "health": b"",
        # A seed is as little to be trusted as the disk that is verified.
        "alone": b"console\n" if root == VERIFIED_ROOT else b"console seed\n",
    }


def _refuse(options: MachineOptions) -> None:
    if options.require_dax:
        raise InputError(
            "require-dax contradicts an output that boots from a disk; drop one of the two"
        )
    if options.tap:
        raise InputError(
            "a tap is one machine's; an output that many boot takes DHCP, or no network"
        )
