"""hyperstart in a VM: what it tells, what the application finds, how each boot ends."""

from __future__ import annotations

import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from tests.initramfs.host import (
    NOW,
    OUTPUT_AT_FIRST,
    SIGNAL,
    STOP,
    microvm,
    pc_with_pmem,
    spec,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.initramfs.conftest import PowerOn
    from tests.initramfs.host import Told

pytestmark = pytest.mark.boot

MIB = 1 << 20


def pattern(size: int) -> bytes:
    """Return what `probe pour` writes."""
    page = bytes(index * 31 % 256 for index in range(4096))
    pages = [bytes((byte + number) % 256 for byte in page) for number in range(256)]
    whole = b"".join(pages[number % 256] for number in range(-(-size // 4096)))
    return whole[:size]


def root_facts(told: Told) -> dict[str, str]:
    """Return what the guest says of its root file system."""
    return {name: text for name, text in (told.facts or {}).items() if name in ("dax", "rootfs")}


def test_a_boot_tells_its_steps_in_order_and_the_status(power_on: PowerOn) -> None:
    with power_on(spec("/bin/probe", "say", "out", "err")) as machine:
        told = machine.finish()
    assert root_facts(told) == {"dax": "0", "rootfs": "erofs"}
    assert told.facts is not None
    kernel, initcalls = map(int, told.facts["stamps"].split(","))
    assert 0 < kernel < initcalls < int(told.facts["counter"])
    assert [name for name, _ in told.events] == ["init", "rootfs", "network", "exec"]
    times = [time for _, time in told.events]
    assert times == sorted(times)
    assert times[0] > 0
    assert (told.stdout, told.stderr, told.status) == (b"out", b"err", 0)
    assert told.order[0] == "hello"


@pytest.mark.parametrize("status", [1, 42, 125, 255])
def test_exit_status_is_the_applications(power_on: PowerOn, status: int) -> None:
    with power_on(spec("probe", "exit", str(status))) as machine:
        assert machine.finish().status == status


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
def test_death_by_signal_is_128_and_its_number(power_on: PowerOn, number: int) -> None:
    with power_on(spec("probe", "die", str(number))) as machine:
        assert machine.finish().status == 128 + number


@pytest.mark.parametrize("fstype", ["erofs", "ext4"])
def test_pmem_is_mapped(power_on: PowerOn, fstype: str, request: pytest.FixtureRequest) -> None:
    disk: Path = request.getfixturevalue(fstype)
    with power_on(spec("probe", "exit", "3"), board=pc_with_pmem(disk, fstype)) as machine:
        told = machine.finish()
    assert root_facts(told) == {"dax": "1", "rootfs": fstype}
    assert told.status == 3


def test_dax_asked_of_a_disk_is_denied_and_told(power_on: PowerOn, ext4: Path) -> None:
    with power_on(
        spec("probe", "exit", "0", rootfs=b"/dev/vda ext4 dax\n"), board=microvm(ext4)
    ) as machine:
        assert root_facts(machine.finish()) == {"dax": "0", "rootfs": "ext4"}


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("nothing", 127, "nothing"),
        ("/bin/nothing", 127, "/bin/nothing"),
        ("plain", 126, "plain"),
        ("/bin/directory", 126, "/bin/directory"),
        ("/bin/garbage", 126, "/bin/garbage"),
        ("/bin/orphan-script", 127, "/bin/orphan-script"),
    ],
)
def test_what_cannot_be_executed(power_on: PowerOn, command: str, status: int, words: str) -> None:
    with power_on(spec(command)) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == status
    assert words in told.error[1]
    assert "exec" not in dict(told.events)


def test_path_passes_over_what_is_not_executable(power_on: PowerOn) -> None:
    with power_on(spec("both", "exit", "5")) as machine:
        assert machine.finish().status == 5


def test_an_error_is_one_printable_line(power_on: PowerOn) -> None:
    with power_on(spec(b"/evil\n\x1b[2J\xff")) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[1].isprintable()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("argv", b"unterminated"),
        ("argv", b"\0"),
        ("containers", b"0"),
        ("containers", b"17"),
        ("containers", b"2"),
        ("user", b"0\n"),
        ("user", b"0  0\n"),
        ("user", b"4294967295 0\n"),
        ("rootfs", b"/dev/vda erofs\n"),
        ("upper", b"/dev/vdb ext4"),
        ("cwd", b"relative"),
        ("mounts", b"tmpfs\0-\0/x\0"),
        ("mounts", b"nfs\0-\0/x\0rw\0"),
        ("readonly", b"all\n"),
        ("net", b"address 10.0.2.15\n"),
        ("hostname", b"two\nlines"),
        ("stop-signal", b"65"),
        ("stop-signal", b"0"),
        ("clock", b"soon"),
        ("seed", b""),
        ("watch", b"everything"),
        ("hold", b"exec"),
        ("tty", b"24\n"),
        ("tty", b"24 65536\n"),
        ("health", b"unterminated"),
        ("machine-id", b"0123456789abcdef\n"),
        ("machine-id", b"0123456789ABCDEF" * 2 + b"\n"),
    ],
)
def test_a_spec_that_breaks_its_rules(power_on: PowerOn, name: str, content: bytes) -> None:
    with power_on({**spec("probe", "exit", "0"), name: content}) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125
    assert name in told.error[1]


def test_a_missing_spec_file_is_named(power_on: PowerOn) -> None:
    files = spec("probe", "exit", "0")
    del files["seed"]
    with power_on(files) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125
    assert "seed" in told.error[1]


def test_a_missing_disk_is_named(power_on: PowerOn) -> None:
    with power_on(spec("probe", "exit", "0", rootfs=b"/dev/vdz erofs -\n")) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125
    assert "/dev/vdz" in told.error[1]


def test_a_missing_disk_for_what_is_written_is_named(power_on: PowerOn) -> None:
    with power_on(spec("probe", "exit", "0", upper=b"/dev/vdz ext4 -\n")) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125
    assert "/dev/vdz" in told.error[1]


def test_without_ports_the_console_tells_why(power_on: PowerOn) -> None:
    with power_on(spec("probe", "exit", "0"), ports=False) as machine:
        told = machine.wait()
    assert b"hyperstart: " in told.console


def test_user_groups_and_a_missing_cwd(power_on: PowerOn) -> None:
    files = spec("probe", "whoami", user=b"1000 1001 5 44 1001\n", cwd=b"/srv/deep/er")
    with power_on(files) as machine:
        told = machine.finish()
    assert told.stdout.decode().splitlines() == [
        "uid 1000 1000 gid 1001 1001 groups 5 44 1001",
        "cwd /srv/deep/er",
        "umask 022",
        "leader 1",
        "files 1048576 1048576",
        "hostname guest",
    ]


def test_a_working_directory_that_only_root_may_enter(power_on: PowerOn) -> None:
    with power_on(spec("probe", "exit", "4", user=b"1000 1000\n", cwd=b"/private")) as machine:
        assert machine.finish().status == 4


def test_a_user_may_reopen_its_standard_output(power_on: PowerOn) -> None:
    with power_on(spec("probe", "reopen", user=b"1000 1000\n")) as machine:
        told = machine.finish()
    assert (told.stdout, told.stderr, told.status) == (b"out", b"err", 0)


def test_arguments_environment_and_descriptors(power_on: PowerOn) -> None:
    variables = b"PATH=/bin\0EMPTY=\0TWO=a=b\0TWO=c\0"
    with power_on(spec("probe", "argv", "", "a b", b"\xff", environ=variables)) as machine:
        assert machine.finish().stdout == b"[][a b][\xff]"
    with power_on(spec("probe", "env", environ=variables)) as machine:
        assert machine.finish().stdout == b"[PATH=/bin][EMPTY=][TWO=a=b][TWO=c]"
    with power_on(spec("probe", "fds")) as machine:
        assert machine.finish().stdout == b"0 1 2 "


def test_nothing_is_found_in_an_empty_path(power_on: PowerOn) -> None:
    with power_on(spec("probe", "exit", "0", environ=b"PATH=\0", cwd=b"/bin")) as machine:
        told = machine.finish()
    assert told.error == (127, 'exec "probe": not found in PATH')


def test_signals_reach_the_application_unmasked(power_on: PowerOn) -> None:
    with power_on(spec("probe", "files", "/proc/self/status")) as machine:
        lines = dict(line.split(":\t", 1) for line in machine.finish().stdout.decode().splitlines())
    assert int(lines["SigBlk"], 16) == 0
    assert int(lines["SigIgn"], 16) == 0


def test_the_files_that_docker_brings(power_on: PowerOn) -> None:
    files = spec(
        *("probe", "files", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"),
        hosts=b"127.0.0.1 localhost\n",
        resolv_conf=b"nameserver 10.0.2.3\n",
    )
    with power_on(files) as machine:
        told = machine.finish()
    assert told.stdout == b"127.0.0.1 localhost\nguest\nnameserver 10.0.2.3\n"


def test_the_mounts_that_docker_brings(power_on: PowerOn) -> None:
    with power_on(spec("probe", "files", "/proc/mounts")) as machine:
        told = machine.finish()
    mounts = {line.split()[1]: line.split() for line in told.stdout.decode().splitlines()}
    assert {point: fields[2] for point, fields in mounts.items()} == {
        "/": "overlay",
        "/proc": "proc",
        "/sys": "sysfs",
        "/sys/fs/cgroup": "cgroup2",
        "/dev": "devtmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/dev/mqueue": "mqueue",
        "/etc/hosts": "tmpfs",
        "/etc/hostname": "tmpfs",
        "/etc/machine-id": "tmpfs",
        "/etc/resolv.conf": "tmpfs",
    }
    assert "rw" in mounts["/"][3].split(",")
    assert {"gid=5", "mode=620", "ptmxmode=666"} <= set(mounts["/dev/pts"][3].split(","))


def test_devices_and_the_root_directory(power_on: PowerOn) -> None:
    paths = ("/dev/fd", "/dev/stdout", "/dev/null", "/dev/shm", "/")
    with power_on(spec("probe", "stat", *paths)) as machine:
        lines = machine.finish().stdout.decode().splitlines()
    fd, stdout, null, shm, root = (line.split(" ") for line in lines)
    assert (fd[3], stdout[3]) == ("/proc/self/fd", "/proc/self/fd/1")
    assert (null[1], shm[1]) == ("20666", "41777")
    assert root[2] == "0:0"


def test_sysctls_that_docker_sets(power_on: PowerOn) -> None:
    base = "/proc/sys/net/ipv4/"
    names = ("ip_unprivileged_port_start", "ping_group_range")
    with power_on(spec("probe", "files", *(base + name for name in names))) as machine:
        assert machine.finish().stdout.split() == [b"0", b"0", b"2147483647"]


def test_the_clock_is_the_specs_and_randomness_is_ready(power_on: PowerOn) -> None:
    with power_on(spec("probe", "clock")) as machine:
        now, random = machine.finish().stdout.split()
    assert NOW // 10**9 <= int(now) < NOW // 10**9 + 600
    assert random == b"8"


def test_the_network_reaches_the_host(power_on: PowerOn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"hello guest")

        threading.Thread(target=serve, daemon=True).start()
        files = spec(
            *("probe", "fetch", "10.0.2.2", str(port)),
            net=b"address 10.0.2.15/24\ngateway 10.0.2.2\n",
        )
        with power_on(files, netdev=True) as machine:
            told = machine.finish()
    assert (told.stdout, told.status) == (b"hello guest", 0)


def test_a_network_without_an_interface(power_on: PowerOn) -> None:
    with power_on(spec("probe", "exit", "0", net=b"address 10.0.2.15/24\n")) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125


def test_much_output_to_a_slow_reader_is_whole(power_on: PowerOn) -> None:
    size = 20 * MIB
    with power_on(spec("probe", "pour", str(size))) as machine:
        machine.hold_stream = True
        assert not machine.until(lambda told: told.status is not None, patience=3)
        machine.hold_stream = False
        machine.read_size = 8192
        told = machine.finish()
    assert told.stdout == pattern(size)
    assert told.status == 0


def test_the_last_output_survives_a_host_that_reads_it_late(power_on: PowerOn) -> None:
    size = OUTPUT_AT_FIRST
    with power_on(spec("probe", "pour", str(size))) as machine:
        machine.hold_stream = True
        assert machine.until(lambda told: told.status is not None)
        assert not machine.until(lambda _: False, patience=2)
        machine.hold_stream = False
        assert machine.finish().stdout == pattern(size)


def test_a_held_stream_costs_no_cpu(power_on: PowerOn) -> None:
    with power_on(spec("probe", "leave", "0")) as machine:
        machine.finish()
    with power_on(spec("probe", "pour", str(20 * MIB))) as machine:
        machine.hold_stream = True
        assert machine.until(lambda told: len(told.events) == 4)
        machine.until(lambda _: False, patience=3)
        before = machine.cpu_seconds()
        machine.until(lambda _: False, patience=3)
        assert machine.cpu_seconds() - before < 1.5


def test_orphans_are_reaped(power_on: PowerOn) -> None:
    with power_on(spec("probe", "orphans", "20")) as machine:
        assert machine.finish().stdout == b"no zombies\n"


def test_what_the_application_leaves_behind_ends_with_it(power_on: PowerOn) -> None:
    with power_on(spec("probe", "leave", "6")) as machine:
        told = machine.finish()
    assert (told.stdout, told.status) == (b"child\n", 6)


def test_stop_sends_the_stop_signal(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen", stop_signal=b"15")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        machine.send(STOP, struct.pack(">I", 60_000))
        assert machine.finish().status == 7


@pytest.mark.parametrize("grace", [0, 300])
def test_stop_kills_what_ignores_it(power_on: PowerOn, grace: int) -> None:
    with power_on(spec("probe", "ignore")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        machine.send(STOP, struct.pack(">I", grace))
        assert machine.finish().status == 128 + signal.SIGKILL


def test_signals_are_passed_on_and_nonsense_is_skipped(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        machine.signal(signal.SIGHUP)
        assert machine.until(lambda told: b"signal 1\n" in told.stdout)
        machine.send(99, bytes(65536))
        machine.send(SIGNAL, b"\0")
        machine.signal(0xFFFFFFFF)
        machine.signal(signal.SIGTERM, 1)
        machine.send(STOP, b"12345678")
        machine.signal(signal.SIGUSR1)
        assert machine.until(lambda told: b"signal 10\n" in told.stdout)
        machine.signal(signal.SIGTERM)
        told = machine.finish()
    assert (told.stdout, told.status) == (b"ready\nsignal 1\nsignal 10\n", 7)


def test_a_length_over_the_limit_ends_the_guest(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        machine.send_raw(struct.pack(">II", 99, 65537))
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125


def test_standard_input_reaches_the_application(power_on: PowerOn) -> None:
    data = pattern(3 * MIB)
    with power_on(spec("probe", "cat")) as machine:
        for start in range(0, len(data), 50_000):
            machine.send_frame(data[start : start + 50_000])
        machine.send_frame(b"not for it", sequence=7)
        machine.send_frame(b"")
        told = machine.finish()
    assert told.stdout == data
    assert told.status == 0


def test_input_nobody_reads_is_dropped(power_on: PowerOn) -> None:
    with power_on(spec("probe", "deaf")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        for _ in range(20):
            machine.send_frame(bytes(65536))
        machine.send_frame(b"")
        machine.send(STOP, struct.pack(">I", 60_000))
        assert machine.finish().status == 7


def test_a_host_that_closes_control_has_gone(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        machine.control.close()
        machine.wait()


def test_a_closed_stream_lets_the_application_run_on(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        assert machine.until(lambda told: b"ready" in told.stdout)
        machine.stream.close()
        before = machine.cpu_seconds()
        machine.until(lambda _: False, patience=2)
        assert machine.cpu_seconds() - before < 1.0
        machine.signal(signal.SIGTERM)
        assert machine.until(lambda told: told.status is not None)
        assert machine.wait().status == 7
