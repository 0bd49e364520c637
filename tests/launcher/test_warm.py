"""Templates: what two copies share and what not, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.converter.errors import HyperbuildError, InputError
from hyperbuild.converter.progress import Progress
from hyperbuild.launcher.confinement import TEMPLATE_GROUP
from hyperbuild.launcher.errors import BootError, LaunchError
from hyperbuild.launcher.machine import Hold, MachineOptions, PortForward
from hyperbuild.launcher.template import _TRAILER, TemplateError, Templates
from hyperbuild.launcher.vm import Streams, WarmStart
from hyperbuild.launcher.warming import make_template
from tests.launcher.boots import Ran, boot, options
from tests.support.registry import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.launcher.located import BundleFiles

pytestmark = pytest.mark.boot

WHO = (
    "hostname; cat /etc/machine-id /sys/class/net/eth0/address; "
    "ip -4 addr show dev eth0 | grep inet; head -c 16 /dev/urandom | od -An -tx1; date +%s"
)
#: Tells who it is for each line of its input, as one that is asked over the network would.
SERVER = f"httpd -h /www; while read line; do {WHO}; done"


class Warnings(Progress):
    """Keeps what the user is warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, message: str) -> None:
        self.texts.append(message)


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    return Templates(tmp_path / "warm")


def warm(
    files: BundleFiles, templates: Templates, chosen: MachineOptions, hold: Hold = Hold.EXEC
) -> Path:
    with Path(os.devnull).open("wb") as nowhere:
        streams = Streams(nowhere.fileno(), nowhere.fileno())
        return make_template(
            files, chosen, hold, templates, search_path=os.environ["PATH"], streams=streams
        )


def copy(files: BundleFiles, templates: Templates, chosen: MachineOptions, **more: Any) -> Ran:
    return boot(files, chosen, warm=WarmStart(templates, required=True), **more)


def assert_apart(first: list[str], second: list[str], asked: float) -> None:
    """Check two answers to WHO: nothing the same but the time, which is right."""
    assert len(first) == len(second) == 6
    for one, other in zip(first[:5], second[:5], strict=True):
        assert one != other
    for answer in (first, second):
        assert asked - 1 <= int(answer[5]) <= time.time() + 1


@pytest.mark.parametrize("dax", [True, False])
def test_two_copies_differ_before_their_application_runs(
    busybox: BundleFiles, templates: Templates, dax: bool
) -> None:
    chosen = options("sh", "-c", WHO, dax=dax, require_dax=dax)
    warm(busybox, templates, options(dax=dax))
    # Longer than a second: a clock that stood still with the template would be seen.
    time.sleep(1.5)
    asked = time.time()
    first, second = (copy(busybox, templates, chosen) for _ in range(2))
    assert_apart(first.stdout.decode().splitlines(), second.stdout.decode().splitlines(), asked)
    assert first.result.dax is dax
    names = [step.name for step in first.result.timeline.steps()]
    assert names == ["start", "hypervisor", "resumed", "renewed", "app_exec", "exit"]


@pytest.mark.parametrize("hold", [Hold.LISTENING, Hold.HEALTHY])
def test_copies_of_a_running_application_differ_once_it_goes_on(
    busybox: BundleFiles, templates: Templates, hold: Hold
) -> None:
    health = "grep -q ':0050 .* 0A' /proc/net/tcp6" if hold is Hold.HEALTHY else ""
    chosen = options("sh", "-c", SERVER, health_command=health)
    warm(busybox, templates, chosen, hold)
    asked = time.time()
    answers = [copy(busybox, templates, chosen, stdin=b"who\n") for _ in range(2)]
    first, second = (answer.stdout.decode().splitlines() for answer in answers)
    assert_apart(first, second, asked)
    assert answers[0].result.status == 0


def test_a_copy_takes_command_environment_name_and_ports_of_its_own(
    busybox: BundleFiles, templates: Templates
) -> None:
    warm(busybox, templates, options())
    port = free_port()
    script = 'hostname; echo "$A $HOSTNAME"; httpd -h /www; read line'
    chosen = options(
        *("sh", "-c", script),
        env=("A=b",),
        hostname="mine",
        ports=(PortForward(port, 80, "tcp", "127.0.0.1"),),
    )
    process, told = launched(busybox, templates, chosen)
    with process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"mine\n", b"b mine\n"]
        assert b"It works" in fetched(port)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0, told.read_text()


def test_many_copies_run_at_once_and_leave_the_template_as_it_was(
    busybox: BundleFiles, templates: Templates
) -> None:
    chosen = options("sh", "-c", SERVER)
    path = warm(busybox, templates, chosen, Hold.LISTENING)
    before = zlib.crc32(path.read_bytes())
    started = [launched(busybox, templates, chosen)[0] for _ in range(4)]
    answers = [process.communicate(b"who\n", timeout=100)[0] for process in started]
    assert len({answer.split(b"\n")[0] for answer in answers}) == 4
    assert zlib.crc32(path.read_bytes()) == before


def test_the_first_failure_of_a_copy_is_its_own(busybox: BundleFiles, templates: Templates) -> None:
    warm(busybox, templates, options())
    with pytest.raises(LaunchError) as caught:
        copy(busybox, templates, options("no-such"))
    assert caught.value.exit_status == 127


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def blank(path: Path) -> None:
    """Lose a part of the document."""
    with path.open("r+b") as file:
        file.seek(-_TRAILER.size - 50, os.SEEK_END)
        file.write(bytes(20))


def flip(path: Path) -> None:
    """Change a byte of the state, which is followed by the document."""
    rewrite(path, lambda state: bytes([state[0] ^ 1]) + state[1:], honest=False)


def ruin(path: Path) -> None:
    """Put a state there that no hypervisor has written, as if it were right."""
    rewrite(path, lambda state: bytes(len(state)), honest=True)


def age(path: Path) -> None:
    """Have the template made with another CPU and hypervisor."""
    rewrite(path, lambda state: state, honest=True, CPU="386", hypervisor="older")


def rewrite(path: Path, change: Callable[[bytes], bytes], *, honest: bool, **others: str) -> None:
    with path.open("r+b") as file:
        file.seek(-_TRAILER.size, os.SEEK_END)
        magic, size, _ = _TRAILER.unpack(file.read())
        file.seek(-_TRAILER.size - size, os.SEEK_END)
        document = json.loads(file.read(size))
        file.seek(document["ram"])
        state = change(file.read(document["state"]))
        if honest:
            document["crc32"] = zlib.crc32(state)
        document["made_with"].update(others)
        file.seek(document["ram"])
        raw = json.dumps(document).encode()
        file.write(state + raw + _TRAILER.pack(magic, len(raw), zlib.crc32(raw)))
        file.truncate()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "there is no template of this image"),
        (cut, "cut short"),
        (flip, "damaged"),
        (blank, "damaged"),
        (ruin, "could not be restored (QEMU"),
        (age, "made with another hypervisor and another CPU"),
    ],
)
def test_what_cannot_be_restored_is_told_and_boots_from_cold(
    busybox: BundleFiles, templates: Templates, spoil: Callable[[Path], None], said: str
) -> None:
    path = warm(busybox, templates, options())
    spoil(path)
    chosen = options("sh", "-c", "read line; echo $line")
    with pytest.raises(TemplateError) as caught:
        copy(busybox, templates, chosen)
    assert said in str(caught.value)
    assert "hyperbuild warm" in str(caught.value)
    warnings = Warnings()
    ran = boot(busybox, chosen, warm=WarmStart(templates), progress=warnings, stdin=b"all of it\n")
    assert ran.stdout == b"all of it\n"
    (warning,) = warnings.texts
    assert said in warning
    assert warning.endswith("; this boot is a cold one")


def test_one_that_does_not_fit_does_not_stand_before_one_that_does(
    busybox: BundleFiles, templates: Templates
) -> None:
    chosen = options("echo", "of the exec")
    path = warm(busybox, templates, chosen)
    better = templates.path(busybox, chosen, Hold.LISTENING)
    better.write_bytes(path.read_bytes())
    age(better)
    assert copy(busybox, templates, chosen).stdout == b"of the exec\n"
    age(path)
    with pytest.raises(TemplateError, match="for other options"):
        copy(busybox, templates, chosen)


@pytest.mark.parametrize(
    "changes",
    [{"memory": 128}, {"network": False}, {"dax": False}, {"args": ("echo",)}, {"env": ("A=1",)}],
)
def test_a_running_template_is_for_its_own_options_alone(
    busybox: BundleFiles, templates: Templates, changes: dict[str, Any]
) -> None:
    chosen = options("sh", "-c", SERVER)
    warm(busybox, templates, chosen, Hold.LISTENING)
    with pytest.raises(TemplateError, match="no template of this image for these options"):
        copy(busybox, templates, chosen.replace(**changes))


@pytest.mark.parametrize(
    ("chosen", "hold", "error", "said"),
    [
        (options("true"), Hold.LISTENING, BootError, "ended with status 0 before it was listening"),
        (options("true"), Hold.HEALTHY, InputError, "no health check; give one with --health-cmd"),
        (
            options("sleep", "1000", timeout=4.0, grace=0.1),
            Hold.LISTENING,
            BootError,
            "not listening in time; give it longer with --timeout",
        ),
        (options("no-such"), Hold.LISTENING, LaunchError, "no-such"),
    ],
)
def test_a_template_that_cannot_be_made_leaves_nothing(
    busybox: BundleFiles,
    templates: Templates,
    chosen: MachineOptions,
    hold: Hold,
    error: type[HyperbuildError],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        warm(busybox, templates, chosen, hold)
    assert not templates.root.exists() or list(templates.root.iterdir()) == []


def test_a_failing_health_check_ends_the_making(busybox: BundleFiles, templates: Templates) -> None:
    second = 1_000_000_000
    check = {"Test": ["CMD", "false"], "Interval": second // 10, "Retries": 2}
    process = busybox.bundle.process.replace(healthcheck=check)
    sick = busybox.replace(bundle=busybox.bundle.replace(process=process))
    with pytest.raises(BootError, match="health check has failed"):
        warm(sick, templates, options("sleep", "1000"), Hold.HEALTHY)


def test_a_killed_launcher_leaves_no_hypervisor_and_no_template(
    busybox: BundleFiles, templates: Templates
) -> None:
    process, _ = launched(busybox, templates, options("sleep", "1000"), "listening")
    with process:
        deadline = time.monotonic() + 60
        while not (found := hypervisors(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        process.kill()
    while any(Path(f"/proc/{pid}/stat").exists() for pid in found):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not any(path.name[0] != "." for path in templates.root.iterdir())
    warm(busybox, templates, options())
    assert len(list(templates.root.iterdir())) == 1


def test_the_template_is_its_owners_alone(busybox: BundleFiles, templates: Templates) -> None:
    status = warm(busybox, templates, options()).stat()
    # The group is that of root's confined VMs alone.
    assert status.st_mode & 0o777 == (0o600 if os.geteuid() else 0o660)
    assert status.st_gid == (os.getegid() if os.geteuid() else TEMPLATE_GROUP)
    assert templates.root.stat().st_mode & 0o777 == 0o700


def launched(
    files: BundleFiles, templates: Templates, chosen: MachineOptions, hold: str = ""
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a copy, or the making of a template, in a process of its own."""
    told = templates.root.parent / f"stderr-{time.monotonic_ns()}"
    arguments = (str(templates.root), hold, pickled(files), pickled(chosen))
    with told.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher.launch_warm", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    return process, told


def pickled(value: object) -> str:
    return pickle.dumps(value).hex()


def hypervisors(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def fetched(port: int) -> bytes:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
