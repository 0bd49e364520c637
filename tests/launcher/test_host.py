"""Which accelerator is taken; KVM's device is a stand-in file here, and never the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import InputError, UnavailableError
from hyperbuild.launcher.host import choose_accel, parse_cpuinfo, read_cpu
from hyperbuild.launcher.machine import Accel

if TYPE_CHECKING:
    from pathlib import Path

HOST = parse_cpuinfo("flags\t\t: fpu vmx constant_tsc\ncpu MHz\t\t: 800.000\n")
GUEST = parse_cpuinfo("flags\t\t: fpu hypervisor constant_tsc\ncpu MHz\t\t: 2596.142\n")


class Untouchable:
    """A device that fails the test when its path is asked for."""

    def __fspath__(self) -> str:
        pytest.fail("the KVM device was opened")


def test_without_virtualization_the_device_is_never_opened() -> None:
    device: Path = Untouchable()  # type: ignore[assignment]
    assert choose_accel(Accel.AUTO, GUEST, device) is Accel.TCG
    assert choose_accel(Accel.TCG, HOST, device) is Accel.TCG
    with pytest.raises(InputError, match="neither vmx nor svm"):
        choose_accel(Accel.KVM, GUEST, device)


def test_with_virtualization_the_device_decides(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    assert choose_accel(Accel.AUTO, HOST, device) is Accel.TCG
    with pytest.raises(UnavailableError, match="No such file"):
        choose_accel(Accel.KVM, HOST, device)
    device.touch()
    assert choose_accel(Accel.AUTO, HOST, device) is Accel.KVM
    assert choose_accel(Accel.KVM, HOST, device) is Accel.KVM


def test_the_tsc_rate_is_known_only_where_mhz_is_it() -> None:
    assert GUEST.tsc_khz == 2596142
    assert HOST.tsc_khz is None
    assert parse_cpuinfo("").tsc_khz is None


def test_this_host_is_read() -> None:
    assert "fpu" in read_cpu().flags
