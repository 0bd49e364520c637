"""What guests try against their host: each route of docs/security.md that begins inside a VM."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.launcher.boots import HANG, boot, options
from tests.launcher.test_confinement import running
from tests.launcher.test_vm import started

if TYPE_CHECKING:
    from hyperbuild.launcher.located import BundleFiles

pytestmark = pytest.mark.boot

MIB = 1 << 20


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("dax", [True, False])
def test_the_guests_root_cannot_change_its_image(busybox: BundleFiles, dax: bool) -> None:
    """Write to the device itself, and read it again past the guest's own cache."""
    device = "/dev/pmem0" if dax else "/dev/vda"
    script = (
        "id -u; busybox blockdev --setrw $D; busybox md5sum $D; "
        "busybox dd if=/dev/urandom of=$D bs=4096 count=256 conv=fsync,notrunc; "
        "echo 3 > /proc/sys/vm/drop_caches; busybox md5sum $D"
    )
    before, status = digest(busybox.rootfs), busybox.rootfs.stat()
    ran = boot(busybox, options("sh", "-c", script, env=(f"D={device}",), dax=dax))
    user, *sums = ran.stdout.decode().splitlines()
    assert user == "0"
    assert len(sums) == 2
    assert sums[0] == sums[1]
    assert digest(busybox.rootfs) == before
    assert busybox.rootfs.stat().st_mtime_ns == status.st_mtime_ns


def test_the_image_is_open_to_be_read_alone(busybox: BundleFiles) -> None:
    with running(busybox) as hypervisor:
        modes = []
        for link in (hypervisor.proc / "fd").iterdir():
            if str(link.readlink()) == str(busybox.rootfs):
                text = (hypervisor.proc / "fdinfo" / link.name).read_text()
                flags = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
                modes.append(int(flags["flags"], 8) & os.O_ACCMODE)
        maps = (hypervisor.proc / "maps").read_text().splitlines()
    assert modes
    assert set(modes) == {os.O_RDONLY}
    mapped = [line.split()[1] for line in maps if line.endswith(str(busybox.rootfs))]
    assert mapped
    assert not any("w" in access for access in mapped)


@pytest.mark.parametrize("what", ["control-flood", "stream-flood", "console-flood"])
def test_a_flood_costs_the_host_no_memory(rogue: BundleFiles, what: str) -> None:
    """Nobody reads the application's output, and the guest never stops."""
    process = started(rogue, options(what, timeout=4.0, grace=0.1))
    most = 0
    while process.poll() is None:
        most = max(most, peak(process.pid))
        time.sleep(0.05)
    assert process.stdout is not None
    process.stdout.close()
    assert process.returncode != 0
    # Python and what was loaded take 30 of them.
    assert 0 < most < 64


def peak(pid: int) -> int:
    """Return the most MiB that process pid has had, 0 if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return max(
        (int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), default=0
    )


def test_a_guest_that_takes_all_its_memory_has_no_more(busybox: BundleFiles) -> None:
    memory = 64
    script = "head -c 1000000000 /dev/zero | busybox tail -c 1000000000; echo ready; sleep 1000"
    with running(busybox, "sh", "-c", script, memory=memory) as hypervisor:
        text = (hypervisor.proc / "smaps_rollup").read_text()
    fields = dict(line.split(":") for line in text.splitlines()[1:])
    used = int(fields["Pss"].split()[0]) >> 10
    # Its own RAM, what was translated (16 MiB at least) and QEMU itself.
    assert memory // 2 < used < memory + 16 + 64


def test_a_guest_that_ignores_all_is_killed(busybox: BundleFiles) -> None:
    deaf = "trap '' TERM INT HUP QUIT USR1; echo on; while :; do :; done"
    ran = boot(busybox, options("sh", "-c", deaf, timeout=4.0, grace=0.2))
    assert (ran.result.status, ran.stdout) == (124, b"on\n")


def listener() -> tuple[socket.socket, list[bytes]]:
    """Listen on the host's loopback; what comes is kept."""
    server = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def accept() -> None:
        try:
            while True:
                client, _ = server.accept()
                with client:
                    heard.append(client.recv(100))
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    return server, heard


@pytest.mark.parametrize("network", [True, False])
def test_what_the_guests_network_reaches_of_the_host(busybox: BundleFiles, network: bool) -> None:
    """The hypervisor's own network leads to the host's loopback: docs/security.md says so."""
    server, heard = listener()
    try:
        port = server.getsockname()[1]
        script = f"echo hello | busybox nc -w 3 10.0.2.2 {port}; ip -o link | busybox wc -l"
        ran = boot(busybox, options("sh", "-c", script, network=network, timeout=HANG))
        deadline = time.monotonic() + HANG
        while network and not heard and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        server.close()
    assert ran.stdout.split()[-1] == (b"2" if network else b"1")
    assert heard == ([b"hello\n"] if network else [])
