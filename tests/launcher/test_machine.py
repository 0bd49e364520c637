"""Options -> machine: what is read, what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.bundle import MACHINE_OPTIONS, KernelInfo
from hyperbuild.launcher.located import BundleFiles
from hyperbuild.launcher.machine import (
    Accel,
    DiskFile,
    Machine,
    MachineOptions,
    PortForward,
    Tap,
    build_machine,
    parse_env,
    parse_memory,
)
from hyperbuild.launcher.mounts import parse_tmpfs, parse_volume
from tests.launcher.support import DIGEST, IDENTITY, MIB, make_files


@pytest.mark.parametrize(
    ("text", "mib"), [("512M", 512), ("2G", 2048), ("64m", 64), ("1GiB", 1024), ("96MB", 96)]
)
def test_memory_is_read(text: str, mib: int) -> None:
    assert parse_memory(text) == mib


@pytest.mark.parametrize(
    "text", ["", "512", "M", "1.5G", "-1M", "1T", "512 M", "512M,slots=9", "²M"]
)
def test_a_bad_memory_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"say 512M or 2G"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "variable"),
    [("A=b", "A=b"), ("A=", "A="), ("A=b=c", "A=b=c"), ("HERE", "HERE=yes"), ("GONE", "GONE")],
)
def test_variables_are_read_as_docker_does(text: str, variable: str) -> None:
    assert parse_env(text, {"HERE": "yes", "A": "other"}) == variable


@pytest.mark.parametrize("text", ["", "=", "=x", "A=\0"])
def test_a_bad_variable_is_named(text: str) -> None:
    with pytest.raises(InputError, match="NAME=value"):
        parse_env(text, {})


def build(size: int = 4 * MIB, accel: Accel = Accel.TCG, **options: Any) -> Machine:
    return build_machine(
        make_files(size=size),
        MachineOptions(**options),
        IDENTITY,
        initrd=Path("/initrd"),
        accel=accel,
        tsc_khz=2600000,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": 16}, "16 MiB: give 32M to 512G"),
        ({"memory": 1 << 20}, "give 32M"),
        ({"cpus": 0}, "0 CPUs"),
        ({"cpus": 65}, "65 CPUs"),
        ({"ports": (PortForward(1, 1),), "network": False}, "needs a network"),
        ({"ports": (PortForward(1, 1), PortForward(1, 2))}, "given twice"),
        ({"ports": (PortForward(1, 1), PortForward(1, 2, host_ip="127.0.0.1"))}, "given twice"),
        ({"ports": (PortForward(1, 1, host_ip="127.0.0.1"), PortForward(1, 2))}, "given twice"),
        ({"ports": (PortForward(1, 1),), "tap": Tap("t", "10.0.0.2", 8)}, "tap's own address"),
        ({"mounts": (parse_tmpfs("/a"), parse_tmpfs("/a/"))}, "/a is mounted twice"),
        ({"hostname": "a b"}, "host name"),
        ({"hostname": "-x"}, "host name"),
        ({"hostname": "x" * 65}, "host name"),
        ({"require_dax": True, "dax": False}, "contradicts"),
        ({"require_dax": True, "size": 4 * MIB + 4096}, "multiple of 2 MiB"),
        ({"memory": 39, "size": 1024 * MIB}, "an image of 1024 MiB: give .* 40M .*--rootfs blk"),
        ({"counting": True, "cpus": 2}, "one CPU alone"),
        ({"counting": True, "accel": Accel.KVM}, "emulation alone"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(**options)


@pytest.mark.parametrize(
    ("dax", "least", "said"),
    [
        (True, 52, "at least 52M with -m, or read the image by --rootfs blk"),
        (False, 48, "48M with -m$"),
    ],
)
def test_memory_holds_kernel_initramfs_and_what_describes_the_image(
    tmp_path: Path, dax: bool, least: int, said: str
) -> None:
    files = make_files(tmp_path, size=256 * MIB)
    for name, size in (("vmlinux", 20 * MIB), ("initramfs.cpio", 2 * MIB)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, size)

    def fit(memory: int) -> Machine:
        options = MachineOptions(memory=memory, dax=dax)
        initrd = Path("/initrd")
        return build_machine(files, options, IDENTITY, initrd=initrd, accel=Accel.TCG, tsc_khz=None)

    assert fit(least).memory == least
    with pytest.raises(
        InputError, match=f"kernel of 24 MiB and an image of 256 MiB: give .*{said}"
    ):
        fit(least - 1)


def test_one_host_port_serves_tcp_and_udp() -> None:
    ports = (PortForward(53, 53, "tcp"), PortForward(53, 53, "udp"))
    machine = build(ports=ports)
    assert machine.nic is not None
    assert machine.nic.forwards == ports


def test_ports_that_do_not_meet() -> None:
    ports = (
        PortForward(80, 80, host_ip="127.0.0.1"),
        PortForward(80, 81, host_ip="127.0.0.2"),
        PortForward(0, 80),
        PortForward(0, 81),
    )
    machine = build(ports=ports)
    assert machine.nic is not None
    assert machine.nic.forwards == ports


def test_a_bundle_without_kernel_cannot_be_booted() -> None:
    files = make_files().replace(kernel=None)
    with pytest.raises(InputError, match="--no-kernel"):
        build_machine(
            files, MachineOptions(), IDENTITY, initrd=Path("/i"), accel=Accel.TCG, tsc_khz=None
        )


def test_an_unaligned_rootfs_becomes_a_block_device() -> None:
    assert build().disks[0].pmem
    assert not build(size=4 * MIB + 4096).disks[0].pmem
    assert not build(dax=False).disks[0].pmem


def lacking(*options: str) -> BundleFiles:
    """Return a bundle whose kernel is known to lack options."""
    files = make_files()
    has = tuple(name for name in MACHINE_OPTIONS if name not in options)
    kernel = KernelInfo("6.1", DIGEST, DIGEST, has)
    return files.replace(bundle=files.bundle.replace(kernel=kernel))


def build_lacking(option: str, **options: Any) -> Machine:
    return build_machine(
        lacking(option),
        MachineOptions(**options),
        IDENTITY,
        initrd=Path("/initrd"),
        accel=Accel.TCG,
        tsc_khz=None,
    )


@pytest.mark.parametrize(
    ("option", "options", "said"),
    [
        ("CONFIG_SMP", {"cpus": 2}, "which --cpus 2 needs"),
        ("CONFIG_FS_DAX", {"require_dax": True}, "which --require-dax needs"),
        ("CONFIG_EXT4_FS", {"disk": DiskFile(Path("/d"))}, "which --disk needs"),
        ("CONFIG_EXT4_FS", {"mounts": (parse_volume("a:/b", Path("/v")),)}, "which -v a:/b needs"),
        ("CONFIG_EROFS_FS", {}, "which its rootfs.erofs needs"),
    ],
)
def test_a_kernel_without_what_the_machine_needs_is_refused(
    option: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"has no {option}, {said}; .*--profile"):
        build_lacking(option, **options)


def test_a_kernel_without_dax_reads_its_root_from_a_disk() -> None:
    assert not build_lacking("CONFIG_FS_DAX").disks[0].pmem


def test_words_for_emulation_stay_out_of_kvm() -> None:
    emulated = build().command_line
    assert {"no_timer_check", "nolapic_timer", "tsc_early_khz=2600000"} <= set(emulated)
    assert "nolapic_timer" not in build(cpus=2).command_line
    assert not any(
        word.startswith(("tsc", "no_timer", "nolapic", "noreplace", "rodata", "percpu"))
        for word in build(accel=Accel.KVM).command_line
    )
