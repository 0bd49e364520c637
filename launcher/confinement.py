"""What a hypervisor may have of its host: said before it is started, put into force by jail.py."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.files import open_regular
from hyperbuild.converter.records import Record
from hyperbuild.launcher.machine import Accel, Ids

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.launcher.machine import Machine

#: Users that nobody else has: systemd's table of users (docs/UIDS-GIDS.md) keeps from here to
#: 2^31 unused. A VM's user is this and its hypervisor's process number, so no two VMs share one.
FIRST_USER = 0x70000000

#: Of the group that may open templates; no process has this number, so no VM's user is the same.
TEMPLATE_GROUP = FIRST_USER

#: Capabilities (linux/capability.h): to listen on a port below 1024, and to act on a shared folder
#: for the guest's users.
CAP_NET_BIND_SERVICE = 10
_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID = 0, 1, 3, 4
#: Ports below need a right of their own (net.ipv4.ip_unprivileged_port_start's default).
_FREE_PORTS = 1024

_OTHERS_READ = 0o004


class Folder(Record):
    """A directory of the host, open as ``fd``, that a VM shares.

    With real ids its files keep the guest's owners, which takes rights over all files there.
    """

    fd: int
    read_only: bool
    real_ids: bool

    @property
    def capabilities(self) -> frozenset[int]:
        """Return what takes real ids, if it was started by root: nothing of it makes devices."""
        if not self.real_ids:
            return frozenset()
        if self.read_only:
            return frozenset((_CAP_DAC_OVERRIDE,))
        return frozenset((_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID))


class Needs(Record):
    """What one machine needs of its host beside the files that its hypervisor inherits.

    ``places`` are the paths that it reads itself; ``capabilities`` and ``groups`` are for one that
    was started by root, which has no others.
    """

    places: tuple[str, ...] = ()
    network: bool = True
    kvm: bool = False
    folders: tuple[Folder, ...] = ()
    groups: tuple[int, ...] = ()
    capabilities: frozenset[int] = frozenset()


def needs_of(machine: Machine, places: tuple[str, ...]) -> Needs:
    """Return what machine needs; places as in ``Needs``."""
    forwards = machine.nic.forwards if machine.nic else ()
    privileged = any(port.host_port < _FREE_PORTS for port in forwards)
    return Needs(
        places=places,
        # A tap is inherited: behind it is a network, and none of the host's is needed for it.
        network=machine.nic is not None and machine.nic.tap is None,
        kvm=machine.accel is Accel.KVM,
        folders=tuple(
            Folder(share.fd, share.read_only, share.ids is Ids.REAL) for share in machine.shares
        ),
        groups=(TEMPLATE_GROUP,) if machine.ram else (),
        capabilities=frozenset((CAP_NET_BIND_SERVICE,)) if privileged else frozenset(),
    )


def open_for_others(path: Path) -> int:
    """Open path to be inherited by a hypervisor, which opens what it inherits once more by itself.

    InputError: that is not possible, since we are root and it will not be.
    """
    fd = open_regular(path)
    if os.geteuid() == 0 and not os.fstat(fd).st_mode & _OTHERS_READ:
        os.close(fd)
        raise InputError(
            f"{path} may be read by its owner alone, and a VM that root starts runs as a user of "
            "its own; allow that with chmod o+r"
        )
    return fd


def admit(fd: int) -> None:
    """Let the hypervisors that root starts for templates open fd, a template, for writing too."""
    if os.geteuid() == 0:
        os.fchown(fd, -1, TEMPLATE_GROUP)
        os.fchmod(fd, 0o660)
