"""QEMU's command line, exactly; its memory map; its errors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.converter.errors import ContentError, InputError, ToolError
from hyperbuild.launcher.driver import Wires
from hyperbuild.launcher.errors import BootError
from hyperbuild.launcher.machine import (
    Accel,
    Disk,
    Ids,
    Machine,
    MachineOptions,
    PortForward,
    Ram,
    Share,
    Tap,
    build_machine,
)
from hyperbuild.launcher.qemu import BINARY, command, explain, find, monitor, places, pmem_addresses
from tests.launcher.support import IDENTITY, MIB, make_files

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1024 * MIB


def machine(**options: Any) -> Machine:
    return build_machine(
        make_files(Path("/b,c")),
        MachineOptions(**options),
        IDENTITY,
        initrd=Path("/proc/self/fd/9"),
        accel=Accel.TCG,
        tsc_khz=2600000,
    )


def argv(built: Machine) -> list[str]:
    return command("qemu", built, Wires(5, 6, 7, 8 if built.needs_monitor else None))


def test_a_dax_machine_exactly() -> None:
    ports = (PortForward(8080, 80), PortForward(53, 5353, "udp", "127.0.0.1"))
    assert argv(machine(ports=ports)) == [
        "qemu",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "pc,nvdimm=on,usb=off,vmport=off,hpet=off"),
        *("-accel", "tcg,tb-size=64"),
        *("-cpu", "max,erms=off,fsrm=off"),
        *("-bios", "qboot.rom"),
        *("-smp", "1,sockets=1,cores=1,threads=1"),
        *("-m", "256M,slots=1,maxmem=1280M"),
        *("-kernel", "/b,c/vmlinux"),
        *("-initrd", "/proc/self/fd/9"),
        "-append",
        "memmap=4M!0x100000000 acpi=off console=ttyS0 quiet loglevel=1 panic=-1 reboot=t "
        "rdinit=/init no_timer_check tsc=reliable noreplace-smp rodata=off percpu_alloc=page "
        "nolapic_timer tsc_early_khz=2600000",
        *("-chardev", "socket,id=console,fd=5"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,ioeventfd=off,id=serial,max_ports=3"),
        *("-chardev", "socket,id=control,fd=6"),
        *("-device", "virtserialport,bus=serial.0,nr=1,chardev=control,name=sh.hyper.channel.0"),
        *("-chardev", "socket,id=stream,fd=7"),
        *("-device", "virtserialport,bus=serial.0,nr=2,chardev=stream,name=sh.hyper.channel.1"),
        *("-device", "virtio-balloon-pci,free-page-reporting=on"),
        "-object",
        "memory-backend-file,id=pmem0,size=4194304,share=on,readonly=on,"
        "mem-path=/b,,c/rootfs.erofs",
        *("-device", "nvdimm,id=nvdimm0,memdev=pmem0,addr=0x100000000,unarmed=on"),
        "-netdev",
        "user,id=net0,ipv6=off,net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.3",
        *("-device", "virtio-net-pci,ioeventfd=off,netdev=net0,mac=52:54:00:01:02:03,romfile="),
        *("-chardev", "socket,id=monitor,fd=8", "-mon", "chardev=monitor,mode=control"),
    ]


def test_a_block_machine_exactly() -> None:
    built = argv(machine(dax=False, network=False, cpus=2, memory=512))
    assert built[7:17] == [
        *(built[7], "-machine", "microvm,acpi=off", "-accel", "tcg,tb-size=128"),
        *("-cpu", "max,erms=off,fsrm=off"),
        *("-smp", "2,sockets=2,cores=1,threads=1", "-m"),
    ]
    assert built[17] == "512M"
    assert built[23].startswith("acpi=off console=ttyS0 quiet ")
    assert built[-4:] == [
        *("-drive", "if=none,id=disk0,format=raw,read-only=on,file=/b,,c/rootfs.erofs"),
        *("-device", "virtio-blk-device,drive=disk0"),
    ]


def test_counting_makes_instructions_the_clock() -> None:
    built = argv(machine(counting=True))
    assert built[built.index("-accel") : built.index("-cpu")] == [
        *("-accel", "tcg,tb-size=64", "-icount", "shift=0,sleep=off"),
    ]


def test_a_kernel_without_the_machines_bus_is_refused() -> None:
    built = machine().replace(kernel_options=("CONFIG_FS_DAX",))
    with pytest.raises(InputError, match=r"has no CONFIG_VIRTIO_PCI, .*; .*--profile dax"):
        argv(built)
    built = machine(dax=False).replace(kernel_options=("CONFIG_VIRTIO_PCI",))
    with pytest.raises(InputError, match="no CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"):
        argv(built)


def test_a_disk_that_is_written_to() -> None:
    upper = Disk(Path("/d"), 1 << 30, pmem=False, read_only=False)
    built = argv(machine(dax=False).replace(disks=(*machine(dax=False).disks, upper)))
    at = built.index(
        "if=none,id=disk1,format=raw,read-only=off,auto-read-only=off,discard=unmap,file=/d"
    )
    assert built[at + 2].endswith(",drive=disk1,werror=report,rerror=report")
    assert any("id=disk0,format=raw,read-only=on,file=" in word for word in built)


def test_a_disk_that_is_inherited_is_used_as_it_is() -> None:
    upper = Disk(Path("/proc/self/fd/7"), 1 << 30, pmem=False, read_only=False)
    built = argv(machine(dax=False).replace(disks=(upper,)))
    at = built.index("-add-fd")
    assert built[at + 1] == "fd=7,set=7"
    assert built[at + 3].endswith(",file=/dev/fdset/7")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/opt/q/bin/qemu", ("/opt/q/bin/qemu", "/opt/q/lib", "/opt/q/lib64")),
        ("/home/me/qemu/build/qemu", ("/home/me/qemu/build",)),
    ],
)
def test_what_qemu_reads_by_path(program: str, expected: tuple[str, ...]) -> None:
    assert places(program)[:3] == expected


def test_qemu_reads_the_files_of_its_package(tmp_path: Path) -> None:
    link = tmp_path / "qemu"
    link.symlink_to(find(os.environ["PATH"]))
    assert {"/usr/share/qemu", "/usr/lib"} <= set(places(str(link)))


def test_shared_folders() -> None:
    shares = (
        Share(9, "share0", Ids.REAL),
        Share(10, "share1", Ids.MAPPED),
        Share(11, "share2", Ids.OWN, read_only=True),
    )
    built = argv(machine().replace(shares=shares))
    at = built.index("-fsdev")
    assert built[at : at + 12] == [
        "-fsdev",
        "local,id=share0,path=/proc/self/fd/9,security_model=passthrough,multidevs=remap",
        *("-device", "virtio-9p-pci,ioeventfd=off,fsdev=share0,mount_tag=share0"),
        "-fsdev",
        "local,id=share1,path=/proc/self/fd/10,security_model=mapped-xattr,multidevs=remap",
        *("-device", "virtio-9p-pci,ioeventfd=off,fsdev=share1,mount_tag=share1"),
        "-fsdev",
        "local,id=share2,path=/proc/self/fd/11,security_model=none,multidevs=remap,readonly=on",
        *("-device", "virtio-9p-pci,ioeventfd=off,fsdev=share2,mount_tag=share2"),
    ]
    assert "virtio-9p-device,fsdev=share0,mount_tag=share0" in argv(
        machine(dax=False).replace(shares=shares)
    )


@pytest.mark.parametrize(
    ("dax", "most", "said"), [(True, 25, "above them$"), (False, 4, "--rootfs dax")]
)
def test_a_machine_has_room_for_so_many_devices(dax: bool, most: int, said: str) -> None:
    share = Share(9, "s", Ids.REAL)
    assert argv(machine(dax=dax).replace(shares=(share,) * most))
    with pytest.raises(InputError, match=f"no room for so many folders and volumes; .*{said}"):
        argv(machine(dax=dax).replace(shares=(share,) * (most + 1)))


def test_a_tap_is_inherited() -> None:
    built = machine(tap=Tap("tap0", "192.168.7.2", 24))
    assert built.nic is not None
    options = argv(built.replace(nic=built.nic.replace(tap=11)))
    assert options[options.index("-netdev") + 1] == "tap,id=net0,fd=11"


def test_kvm_takes_the_host_cpu() -> None:
    built = argv(machine().replace(accel=Accel.KVM))
    assert built[built.index("-accel") + 1] == "kvm"
    assert built[built.index("-cpu") + 1] == "host"
    assert "-bios" not in built
    assert not any("ioeventfd" in word for word in built)


def test_small_guests_are_packed_tightly() -> None:
    built = argv(machine(memory=48))
    assert built[built.index("-accel") + 1] == "tcg,tb-size=16"
    at = built.index("-m")
    assert built[at : at + 6] == [
        *("-m", "48M,slots=1,maxmem=1072M"),
        *("-object", "memory-backend-memfd,id=ram,size=48M", "-machine", "memory-backend=ram"),
    ]
    assert "memory-backend=ram" in argv(machine(memory=128, dax=False))
    assert "memory-backend=ram" not in argv(machine(memory=129))


def test_free_pages_are_reported_where_the_kernel_can() -> None:
    balloon = "virtio-balloon-device,free-page-reporting=on"
    bus = "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"
    able = machine(dax=False).replace(kernel_options=(bus, "CONFIG_PAGE_REPORTING"))
    assert balloon in argv(able)
    assert balloon not in argv(able.replace(kernel_options=(bus,)))


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (256, 4 * GIB),
        (3583, 4 * GIB),
        (3584, 5 * GIB),
        (4096, 5 * GIB),
        (4097, 6 * GIB),
        (8192, 9 * GIB),
    ],
)
def test_pmem_lies_above_ram(memory: int, expected: int) -> None:
    disk = Disk(Path("/x"), 4 * MIB, pmem=True)
    assert pmem_addresses(memory, [disk, disk]) == [expected, expected + GIB]


@pytest.mark.parametrize("memory", [256, 3583, 3584, 4096, 4097])
@pytest.mark.parametrize("sizes", [[2 * MIB], [4 * MIB, 1026 * MIB, 2 * MIB]])
def test_qemu_agrees_with_the_map(tmp_path: Path, memory: int, sizes: list[int]) -> None:
    """QEMU itself refuses a device at an address outside of its device memory."""
    disks = []
    for index, size in enumerate(sizes):
        path = tmp_path / f"disk{index}"
        with path.open("wb") as file:
            file.truncate(size)
        disks.append(Disk(path, size, pmem=True))
    built = machine(memory=memory, network=False).replace(disks=tuple(disks))
    words = command(BINARY, built, Wires(5, 6, 7))
    for flag in ("-kernel", "-initrd", "-append", "-chardev", "-chardev", "-chardev", "-serial"):
        at = words.index(flag)
        del words[at : at + 2]
    words = [word.replace("chardev=control,", "").replace("chardev=stream,", "") for word in words]
    done = subprocess.run(
        [*words, "-S", "-monitor", "stdio"],
        input=b"info memory-devices\nquit\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for address in pmem_addresses(memory, disks):
        assert f"addr: {address:#x}".encode() in done.stdout


@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("dax", [True, False])
def test_ram_in_a_file_is_the_machines_memory(dax: bool, restored: bool) -> None:
    plain = machine(dax=dax)
    built = plain.replace(ram=Ram(Path("/ram,0"), restored), initrd=None)
    options = argv(built)
    assert "-initrd" not in options
    # What takes pages back would take them out of the file.
    assert not any("balloon" in option for option in options)
    assert any("balloon" in option for option in argv(plain))
    share = "off" if restored else "on"
    at = options.index(f"memory-backend-file,id=ram,size=256M,share={share},mem-path=/ram,,0")
    assert options[at - 1 : at + 3 : 2] == ["-object", "-machine"]
    assert options[at + 2] == "memory-backend=ram"
    assert ("-incoming" in options) is restored
    assert options[-4:] == [
        "-chardev",
        "socket,id=monitor,fd=8",
        "-mon",
        "chardev=monitor,mode=control",
    ]


def requests(port: socket.socket) -> list[dict[str, Any]]:
    return [json.loads(line) for line in port.recv(1 << 16).splitlines()]


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_port_taken_after_the_check_is_explained_too(
    wire: tuple[socket.socket, socket.socket],
) -> None:
    spoken = monitor(wire[0], machine(ports=(PortForward(8080, 80),)))
    spoken.publish()
    assert [request["execute"] for request in requests(wire[1])] == [
        "qmp_capabilities",
        "human-monitor-command",
    ]
    rule = "tcp:0.0.0.0:8080-10.0.2.15:80"
    assert not spoken.feed(b'{"QMP": {"version": {}}}\r\n{"return": {}}\r\n{"return": ""}\r\n')
    with pytest.raises(InputError, match=r"^host port 0\.0\.0\.0:8080/tcp is in use; "):
        text = f"Could not set up host forwarding rule '{rule}'\\r\\n"
        spoken.feed(f'{{"return": "{text}"}}\r\n'.encode())


def test_what_the_monitor_says_of_saving(wire: tuple[socket.socket, socket.socket]) -> None:
    spoken = monitor(wire[0], machine())
    spoken.save(wire[1].fileno())
    setup, done, failed = (
        json.dumps({"event": "MIGRATION", "data": {"status": status}}).encode() + b"\r\n"
        for status in ("setup", "completed", "failed")
    )
    assert not spoken.feed(setup + done[:20])
    assert spoken.feed(done[20:])
    for said, error in (
        (failed, BootError),
        (b'{"error": {"class": "GenericError", "desc": "no such descriptor"}}\n', BootError),
        (b"no JSON\n", ContentError),
    ):
        with pytest.raises(error):
            spoken.feed(said)


def test_the_last_line_of_qemu_is_the_reason() -> None:
    error = explain("warning\nqemu-system-x86_64: could not load kernel 'x': bad\n\n", machine())
    assert str(error) == "QEMU could not run the VM: could not load kernel 'x': bad"
    assert explain(" \n", machine()) is None


def test_qemu_missing_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="apt install qemu-system-x86"):
        find(str(tmp_path))
