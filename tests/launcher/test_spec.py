"""What the guest is told to run: docker's rules for argv and environment, hyperstart's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.bundle import Finding, User
from hyperbuild.launcher.errors import LaunchError
from hyperbuild.launcher.machine import Accel, Disk, DiskFile, MachineOptions, Tap, build_machine
from hyperbuild.launcher.mounts import GuestMount, parse_volume
from hyperbuild.launcher.spec import DEFAULT_PATH, arguments, environment, spec_files
from tests.launcher.support import IDENTITY, make_files, make_process

LOCAL_HOSTS = (
    b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    b"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\n"
    b"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)


def spec(options: MachineOptions | None = None, **process: Any) -> dict[str, bytes]:
    files = make_files(**process)
    chosen = options or MachineOptions()
    machine = build_machine(
        files, chosen, IDENTITY, initrd=Path("/i"), accel=Accel.TCG, tsc_khz=None
    )
    return spec_files(
        files.bundle,
        chosen,
        machine,
        IDENTITY,
        clock=1_700_000_000_000_000_000,
    )


def test_the_files_are_those_of_the_contract() -> None:
    assert spec(user=User(101, 102, (5, 6)), env=("A=b", "C="), cwd="/srv") == {
        "containers": b"1",
        "argv": b"/entry\0default\0",
        "environ": b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0"
        b"HOSTNAME=host\0A=b\0C=\0HOME=/root\0",
        "cwd": b"/srv",
        "user": b"101 102 102 5 6\n",
        "rootfs": b"/dev/pmem0 erofs dax\n",
        "upper": b"",
        "mounts": b"",
        "readonly": b"",
        "hostname": b"host",
        "machine-id": b"0123456789abcdef" * 2 + b"\n",
        "net": b"address 10.0.2.15/24\ngateway 10.0.2.2\n",
        "hosts": LOCAL_HOSTS + b"10.0.2.15\thost\n",
        "resolv.conf": b"nameserver 10.0.2.3\n",
        "stop-signal": b"15",
        "clock": b"1700000000000000000",
        "seed": b"\1\0",
        "watch": b"",
        "hold": b"",
        "health": b"",
        "health-times": b"",
        "tty": b"",
    }


def test_a_block_device_without_network() -> None:
    files = spec(MachineOptions(dax=False, network=False))
    assert files["rootfs"] == b"/dev/vda erofs -\n"
    assert files["net"] == b""
    assert files["resolv.conf"] == b""
    assert files["hosts"] == LOCAL_HOSTS + b"127.0.1.1\thost\n"


@pytest.mark.parametrize(("dax", "device"), [(True, b"vda"), (False, b"vdb")])
def test_a_disk_is_named_as_the_guest_will_see_it(dax: bool, device: bytes) -> None:
    files = make_files()
    upper = Disk(Path("/d"), 1 << 30, pmem=False, read_only=False)
    options = MachineOptions(dax=dax, disk=DiskFile(Path("/d")))
    machine = build_machine(
        files,
        options,
        IDENTITY,
        initrd=Path("/i"),
        accel=Accel.TCG,
        tsc_khz=None,
    )
    machine = machine.replace(disks=(*machine.disks, upper))
    told = spec_files(files.bundle, options, machine, IDENTITY, clock=0)
    assert told["upper"] == b"/dev/" + device + b" ext4 -\n"
    # A volume that is written to is no upper directory.
    told = spec_files(files.bundle, MachineOptions(), machine, IDENTITY, clock=0)
    assert told["upper"] == b""


def test_mounts_and_a_root_that_is_read_only() -> None:
    mounts = [
        GuestMount("9p", "share0", "/a b", ("ro",)),
        GuestMount("volume", "-", "/c"),
    ]
    files = make_files()
    machine = build_machine(
        files, MachineOptions(), IDENTITY, initrd=Path("/i"), accel=Accel.TCG, tsc_khz=None
    )
    options = MachineOptions(read_only=True)
    told = spec_files(files.bundle, options, machine, IDENTITY, clock=0, mounts=mounts)
    assert told["mounts"] == b"9p\0share0\0/a b\0ro\0volume\0-\0/c\0rw\0"
    assert told["readonly"] == b"root\n"


def test_a_host_of_the_users_and_a_nameserver() -> None:
    hosts = (("db", "1.2.3.4"), ("up", "host-gateway"))
    files = spec(MachineOptions(hosts=hosts, nameservers=("9.9.9.9", "1.1.1.1")))
    assert files["hosts"].endswith(b"\thost\n1.2.3.4\tdb\n10.0.2.2\tup\n")
    assert files["resolv.conf"] == b"nameserver 9.9.9.9\nnameserver 1.1.1.1\n"
    with pytest.raises(InputError, match="needs a network with a gateway"):
        spec(MachineOptions(hosts=hosts, network=False))


def test_a_tap_without_a_gateway() -> None:
    files = spec(MachineOptions(tap=Tap("tap0", "192.168.7.2", 24)))
    assert files["net"] == b"address 192.168.7.2/24\n"
    assert files["resolv.conf"] == b""


def test_arguments_replace_cmd_and_follow_entrypoint() -> None:
    assert arguments(make_process(), ()) == ("/entry", "default")
    assert arguments(make_process(), ("a", "b")) == ("/entry", "a", "b")
    assert arguments(make_process(entrypoint=(), args=("sh",)), ("ls",)) == ("ls",)


def env(process: dict[str, Any], **options: Any) -> dict[str, str]:
    composed = environment(make_process(**process), "host", MachineOptions(**options))
    return dict(variable.split("=", 1) for variable in composed)


def test_the_environment_is_composed_as_docker_does() -> None:
    process = {"env": ("A=1", "B=2", "A=3", "B", "HOME="), "home": "/home/it"}
    assert list(env(process, env=("C=4", "HOSTNAME")).items()) == [
        ("PATH", DEFAULT_PATH),
        ("C", "4"),
        ("A", "3"),
        ("B", "2"),
        ("HOME", "/home/it"),
    ]
    assert env({"env": ("PATH=/bin", "A=1", "B=2")}, env=("A=9", "B", "E==")) == {
        "PATH": "/bin",
        "HOSTNAME": "host",
        "A": "9",
        "E": "=",
        "HOME": "/root",
    }
    assert env({"env": ("HOME=/x",)})["HOME"] == "/x"
    assert env({"home": ""})["HOME"] == "/"
    assert "TERM" not in env({})
    assert env({}, tty=(24, 80))["TERM"] == "xterm"


def test_bytes_of_the_command_line_stay_bytes() -> None:
    assert spec(MachineOptions(args=("\udcff",)))["argv"] == b"/entry\0\xff\0"


@pytest.mark.parametrize(
    ("process", "error", "said"),
    [
        ({"args": (), "entrypoint": ()}, InputError, "names no command"),
        ({"args": ("",)}, InputError, "names no command"),
        ({"args": ("/a\0b",)}, InputError, "NUL"),
        ({"args": ("\ud800",)}, InputError, "not Unicode"),
        ({"env": ("A=\0",)}, InputError, "NUL"),
        ({"cwd": "relative"}, InputError, "not an absolute path"),
        ({"cwd": "/a\nb"}, InputError, "not an absolute path"),
        ({"cwd": ""}, InputError, "not an absolute path"),
    ],
)
def test_what_cannot_be_run_is_refused(
    process: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        spec(**process)


@pytest.mark.parametrize("name", ["command", "machine", "loader", "library", "workdir", "user"])
def test_what_was_found_at_convert_time_is_refused_before_anything_starts(name: str) -> None:
    with pytest.raises(LaunchError, match=f"{name}: it is so; correct the image") as caught:
        spec(findings=(Finding(name, "it is so", 126),))
    assert caught.value.exit_status == 126


@pytest.mark.parametrize(
    ("name", "entrypoint", "options", "is_refused"),
    [
        ("command", (), {"args": ("/other",)}, False),
        ("library", (), {"args": ("/other",)}, False),
        ("command", (), {"args": ("/entry", "again")}, True),
        ("command", ("/entry",), {"args": ("/other",)}, True),
        ("workdir", (), {"args": ("/other",)}, True),
        ("user", (), {"args": ("/other",)}, True),
        ("command", ("/entry",), {"env": ("PATH=/opt",)}, False),
        ("library", ("/entry",), {"env": ("LD_LIBRARY_PATH=/opt",)}, False),
        ("user", ("/entry",), {"env": ("PATH=/opt",)}, True),
        ("command", ("/entry",), {"env": ("PATHS=/opt",)}, True),
        ("command", ("/entry",), {"mounts": (parse_volume("/a:/b", Path("/v")),)}, False),
        ("workdir", ("/entry",), {"mounts": (parse_volume("/a:/b", Path("/v")),)}, False),
        ("user", ("/entry",), {"mounts": (parse_volume("/a:/b", Path("/v")),)}, True),
        ("command", ("/entry",), {"mounts": (parse_volume("/b", Path("/v")),)}, True),
    ],
)
def test_a_finding_about_a_command_that_the_user_replaced_is_none(
    name: str, entrypoint: tuple[str, ...], options: dict[str, Any], is_refused: bool
) -> None:
    process = {"findings": (Finding(name, "it is so", 126),), "entrypoint": entrypoint}
    if is_refused:
        with pytest.raises(LaunchError):
            spec(MachineOptions(**options), **process)
    else:
        assert spec(MachineOptions(**options), **process)["argv"]
