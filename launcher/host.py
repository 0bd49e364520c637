"""What this host's CPU offers a VM, from /proc/cpuinfo, and whether KVM may be used."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hyperbuild.converter.errors import InputError, UnavailableError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.machine import Accel

_CPUINFO = Path("/proc/cpuinfo")
_KVM = Path("/dev/kvm")

#: Enough of /proc/cpuinfo for its first CPU; the rest repeats.
_CPUINFO_HEAD = 16 << 10


class Cpu(Record):
    """The host's first CPU: feature flags as Linux names them, MHz as it shows them now."""

    flags: frozenset[str]
    mhz: float | None

    @property
    def virtualizes(self) -> bool:
        """Whether the CPU (or the hypervisor below) lets its guests run in hardware."""
        return bool(self.flags & {"vmx", "svm"})

    @property
    def tsc_khz(self) -> int | None:
        """The rate of the time stamp counter, where "cpu MHz" is known to be it.

        A guest with a constant TSC is shown the TSC's rate; bare metal shows the current clock.
        """
        if self.mhz is None or not {"hypervisor", "constant_tsc"} <= self.flags:
            return None
        return round(self.mhz * 1000)


def parse_cpuinfo(text: str) -> Cpu:
    """Read the first CPU of a /proc/cpuinfo; what is not there is left out."""
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    mhz = re.search(r"^cpu MHz\s*:\s*([0-9.]+)$", text, re.MULTILINE)
    return Cpu(frozenset(flags[1].split() if flags else ()), float(mhz[1]) if mhz else None)


def read_cpu(path: Path = _CPUINFO) -> Cpu:
    """Read the host's first CPU."""
    with path.open("rb") as file:
        return parse_cpuinfo(file.read(_CPUINFO_HEAD).decode(errors="replace"))


def choose_accel(wanted: Accel, cpu: Cpu, device: Path = _KVM) -> Accel:
    """Return KVM or TCG. The device is opened only where the CPU can virtualize.

    InputError: KVM is wanted on a CPU without it; UnavailableError: its device can't be opened.
    """
    if wanted is Accel.TCG:
        return Accel.TCG
    if not cpu.virtualizes:
        if wanted is Accel.AUTO:
            return Accel.TCG
        raise InputError(
            "KVM is wanted, but this CPU shows neither vmx nor svm; "
            "turn virtualization on in the firmware, or use the accelerator tcg"
        )
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if wanted is Accel.AUTO:
            return Accel.TCG
        raise UnavailableError(
            f"KVM is wanted, but {device} can't be opened ({error.strerror}); "
            "join the group kvm and load its module, or use the accelerator tcg"
        ) from error
    return Accel.KVM
