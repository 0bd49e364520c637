"""Real boots, from outside: what goes in comes out, and nothing stays behind."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import ContentError, InputError, ToolError
from hyperbuild.launcher.bundle import Signal, User
from hyperbuild.launcher.errors import BootError, LaunchError
from hyperbuild.launcher.machine import MachineOptions, PortForward
from hyperbuild.launcher.timeline import STEPS
from hyperbuild.launcher.vm import Streams, run_vm
from tests.launcher.boots import HANG, boot, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.launcher.located import BundleFiles

pytestmark = pytest.mark.boot

#: Steps of copies, and those that somebody must ask for.
UNSEEN = ("resumed", "renewed", "listening", "healthy")


@pytest.mark.parametrize("dax", [True, False])
def test_streams_status_proof_and_timeline(busybox: BundleFiles, dax: bool) -> None:
    ran = boot(busybox, options("sh", "-c", "echo out; echo err >&2; exit 42", dax=dax))
    assert (ran.result.status, ran.stdout, ran.stderr) == (42, b"out\n", b"err\n")
    assert ran.result.dax is dax
    assert ran.result.facts["rootfs"] == "erofs"
    names = [step.name for step in ran.result.timeline.steps()]
    assert names == [name for name in STEPS if name not in UNSEEN]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)],
)
def test_the_status_is_the_applications(busybox: BundleFiles, script: str, status: int) -> None:
    assert boot(busybox, options("sh", "-c", script)).result.status == status


@pytest.mark.parametrize(("command", "status"), [("no-such", 127), ("/bin/text", 126)])
def test_what_cannot_start_is_named(busybox: BundleFiles, command: str, status: int) -> None:
    with pytest.raises(LaunchError, match=command) as caught:
        boot(busybox, options(command))
    assert caught.value.exit_status == status


def test_output_is_byte_exact_through_a_slow_pipe(busybox: BundleFiles) -> None:
    reader, writer = os.pipe()
    seen = bytearray()

    def read() -> None:
        while data := os.read(reader, 1000):
            seen.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    bundle = busybox.bundle
    result = run_vm(
        busybox.replace(bundle=bundle),
        options("cat", "/bin/busybox", "/bin/busybox"),
        search_path=os.environ["PATH"],
        streams=Streams(stdout=writer),
    )
    os.close(writer)
    thread.join()
    os.close(reader)
    assert result.status == 0
    assert seen == Path("/bin/busybox").read_bytes() * 2


def test_a_reader_that_leaves_stops_the_application(busybox: BundleFiles) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run_vm(
        busybox,
        options("yes", grace=2.0),
        search_path=os.environ["PATH"],
        streams=Streams(stdout=writer),
    )
    os.close(writer)
    assert result.status in {128 + signal.SIGTERM, 128 + signal.SIGKILL}


def test_without_input_the_application_reads_its_end(busybox: BundleFiles) -> None:
    assert boot(busybox, options("wc", "-c")).stdout.strip() == b"0"


@pytest.mark.parametrize("dax", [True, False])
def test_the_guest_has_as_many_cpus_as_asked(busybox: BundleFiles, dax: bool) -> None:
    assert boot(busybox, options("busybox", "nproc", cpus=3, dax=dax)).stdout == b"3\n"


def test_input_arrives_and_ends(busybox: BundleFiles) -> None:
    data = bytes(range(256)) * 2000
    ran = boot(busybox, options("cat"), stdin=data)
    assert ran.stdout == data


def test_user_directory_environment_and_name(busybox: BundleFiles) -> None:
    script = 'id -u; id -g; id -G; pwd; echo "$A|$B|$HOME"; cat /etc/hostname; echo $HOSTNAME'
    ran = boot(
        busybox,
        options("sh", "-c", script, env=("A=x y",), hostname="tester"),
        user=User(1000, 1001, (7, 8)),
        cwd="/srv/made",
        home="/home/it",
        env=("A=1", "B=2"),
    )
    assert ran.stdout.decode().split("\n") == [
        "1000",
        "1001",
        "1001 7 8",
        "/srv/made",
        "x y|2|/home/it",
        "tester",
        "tester",
        "",
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(
    files: BundleFiles, chosen: MachineOptions, before: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a launcher in a process of its own, its stdout a pipe; before are words before it."""
    given = [pickle.dumps(item).hex() for item in (files, chosen)]
    return subprocess.Popen(
        [*before, sys.executable, "-m", "tests.launcher.launch", *given],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def finish(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(HANG)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_http_through_a_forwarded_port(busybox: BundleFiles) -> None:
    port = free_port()
    ports = (PortForward(port, 80, host_ip="127.0.0.1"),)
    # httpd listens by the time that the shell, its parent after it went to the background, speaks.
    script = "httpd -h /www; echo ready; sleep 1000"
    process = started(busybox, options("sh", "-c", script, ports=ports))
    try:
        assert first_line(process) == b"ready\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=HANG) as answer:
            assert answer.read() == b"<h1>It works</h1>"
        with pytest.raises(InputError, match=f"127.0.0.1:{port}/tcp is in use; .*-p"):
            boot(busybox, options("true", ports=ports))
    finally:
        process.send_signal(signal.SIGTERM)
        assert finish(process) == 143


def hypervisor(launcher: int) -> int:
    """Return a pidfd of the launcher's child, which is QEMU by now."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    assert len(children) == 1
    assert b"qemu-system" in Path(f"/proc/{children[0]}/cmdline").read_bytes()
    return os.pidfd_open(int(children[0]))


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_hypervisor_outlives_its_launcher(
    busybox: BundleFiles, number: signal.Signals, status: int
) -> None:
    script = "trap 'echo asked; exit 5' TERM; echo ready; sleep 1000 & wait"
    process = started(busybox, options("sh", "-c", script))
    assert first_line(process) == b"ready\n"
    pidfd = hypervisor(process.pid)
    process.send_signal(number)
    if number != signal.SIGKILL:
        assert first_line(process) == b"asked\n"
    assert finish(process) == status
    assert select.select([pidfd], [], [], HANG)[0], "QEMU is still there"
    os.close(pidfd)


def test_the_second_signal_kills(busybox: BundleFiles) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 1000 & wait; done"
    process = started(busybox, options("sh", "-c", script, grace=1000))
    assert first_line(process) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert first_line(process) == b"asked\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == 130


def test_a_hypervisor_killed_from_outside_is_reported(busybox: BundleFiles) -> None:
    given = options("sh", "-c", "echo ready; sleep 1000")
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            run_vm(busybox, given, search_path=os.environ["PATH"], streams=Streams(stdout=writer))
        except BootError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert os.read(reader, 100) == b"ready\n"
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{thread.native_id}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    thread.join(HANG)
    os.close(reader)
    os.close(writer)
    assert "signal 9" in str(failures[0])


def test_a_timeout_asks_then_kills(busybox: BundleFiles) -> None:
    polite = "trap 'echo bye; exit 0' QUIT; while :; do sleep 1000 & wait; done"
    ran = boot(busybox, options("sh", "-c", polite, timeout=5.0), stop_signal=Signal("SIGQUIT", 3))
    assert (ran.result.status, ran.stdout) == (124, b"bye\n")
    stubborn = "trap '' TERM; echo on; while :; do sleep 1000; done"
    ran = boot(busybox, options("sh", "-c", stubborn, timeout=5.0, grace=0.5))
    assert (ran.result.status, ran.stdout) == (124, b"on\n")


@pytest.mark.parametrize("what", ["mute", "deaf"])
def test_a_guest_that_does_nothing_is_timed_out(rogue: BundleFiles, what: str) -> None:
    assert boot(rogue, options(what, timeout=3.0, grace=0.1)).result.status == 124


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("control-nonsense", "guest: a control message of 4008636142 bytes"),
        ("stream-nonsense", "guest: a stream frame of 4008636142 bytes"),
        ("hello-nonsense", "says hello twice"),
        ("old-protocol", "version 1 of its protocol, not 5"),
    ],
)
def test_a_guest_that_speaks_nonsense_is_ended(rogue: BundleFiles, what: str, said: str) -> None:
    with pytest.raises(ContentError, match=said):
        boot(rogue, options(what))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("panic", "kernel panicked: Attempted to kill init!"),
        ("complaint", "hyperstart failed: no ports, say"),
        ("flood", "the VM ended"),
        ("leave", "the VM ended"),
    ],
)
def test_a_guest_that_just_ends_is_a_failure(rogue: BundleFiles, what: str, said: str) -> None:
    with pytest.raises(BootError, match=said) as caught:
        boot(rogue, options(what))
    assert caught.value.exit_status == 125
    assert len(caught.value.console) <= 64 << 10


def test_require_dax_believes_the_guest_alone(rogue: BundleFiles) -> None:
    with pytest.raises(BootError, match="--require-dax"):
        boot(rogue, options("no-dax", require_dax=True))


def test_an_initramfs_without_init_panics(busybox: BundleFiles, tmp_path: Path) -> None:
    empty = tmp_path / "initramfs.cpio"
    empty.touch()
    with pytest.raises(BootError, match=r"kernel panicked: .*root fs"):
        boot(busybox.replace(initramfs=empty), options("true"))


def test_a_kernel_that_is_none_is_explained(busybox: BundleFiles, tmp_path: Path) -> None:
    other = tmp_path / "vmlinux"
    other.write_bytes(b"\0" * 4096)
    with pytest.raises(BootError, match=r"QEMU could not run the VM: .*kernel"):
        boot(busybox.replace(kernel=other), options("true"))


def test_qemu_missing_is_said_with_its_package(busybox: BundleFiles, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="apt install qemu-system-x86"):
        run_vm(busybox, options("true"), search_path=str(tmp_path))


def test_nothing_stays_open(busybox: BundleFiles) -> None:
    boot(busybox, options("true"))
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    others = children.read_text()
    before = sorted(Path("/proc/self/fd").iterdir())
    boot(busybox, options("true"))
    with pytest.raises(LaunchError):
        boot(busybox, options("no-such"))
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert children.read_text() == others
