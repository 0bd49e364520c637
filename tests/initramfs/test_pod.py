"""Pods: several roots in one guest, in which the host starts what it likes."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.initramfs.host import CLEAR, STOP, Board, microvm, spec

if TYPE_CHECKING:
    from tests.initramfs.conftest import PowerOn
    from tests.initramfs.host import Machine, Told

pytestmark = pytest.mark.boot

INPUT, BUILTIN = 1, 4
SHARED = b"pod\0data\0/data\0rw\0"


def two_roots(disk: Path) -> Board:
    """Return a microvm that has disk twice."""
    board = microvm(disk)
    drive = f"if=none,id=other,format=raw,read-only=on,file={disk}"
    return Board(
        (*board.argv, "-drive", drive, "-device", "virtio-blk-device,drive=other"),
        board.bus,
        board.rootfs,
    )


def pod(**changes: bytes) -> dict[str, bytes]:
    """Return the spec of two containers; changes are of the second's files."""
    second = {
        "environ": b"PATH=/bin\0WHO=second\0",
        "cwd": b"/srv/second",
        "user": b"7 8 8\n",
        "rootfs": b"/dev/vdb erofs -\n",
        "upper": b"",
        "mounts": SHARED,
        "readonly": b"root\n",
    } | changes
    first = spec(environ=b"PATH=/bin\0WHO=first\0", mounts=SHARED, containers=b"2")
    return first | {f"1/{name}": content for name, content in second.items()}


def run(machine: Machine, process: int, *argv: str, **more: object) -> bytes:
    """Have the guest run argv to its end; return what it wrote."""
    machine.exec(process, *argv, **more)  # type: ignore[arg-type]
    assert machine.until(lambda told: told.is_over(process)), machine.told
    return bytes(machine.told.streams[2 * process + 1])


def end(machine: Machine) -> Told:
    machine.send(STOP, struct.pack(">I", 1000))
    return machine.finish()


def member(name: str, content: bytes) -> bytes:
    """Return a tar archive of one file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def put(machine: Machine, process: int, directory: str, container: int) -> bytes:
    """Have hyperstart write the file "note" into directory; return its errors."""
    machine.exec(process, "extract", directory, container=container, flags=INPUT | BUILTIN)
    assert machine.until(lambda told: process in told.started), machine.told
    machine.send_frame(member("note", b"from %d" % container), 2 * process + 1)
    machine.send_frame(b"", 2 * process + 1)
    assert machine.until(lambda told: told.is_over(process)), machine.told
    return bytes(machine.told.streams[2 * process + 2])


def test_containers_of_a_pod(power_on: PowerOn, erofs: Path) -> None:
    with power_on(pod(), board=two_roots(erofs)) as machine:
        assert machine.until(lambda told: told.facts and "ready" in dict(told.events))
        assert machine.told.ended == {1, 2}, "there is no application that could write"
        # Each has its own environment, user, directory and root; they share what is to be shared.
        assert b"[WHO=first]" in run(machine, 1, "probe", "env")
        assert b"[WHO=second]" in run(machine, 2, "probe", "env", container=1)
        assert b"uid 7 7 gid 8 8" in run(machine, 3, "probe", "whoami", container=1)
        assert put(machine, 4, "/data", 0) == b""
        assert run(machine, 5, "probe", "files", "/data/note", container=1) == b"from 0"
        assert put(machine, 6, "/dev/shm", 1) == b""
        assert run(machine, 7, "probe", "files", "/dev/shm/note") == b"from 1"
        assert put(machine, 8, "/", 0) == b""
        assert run(machine, 9, "probe", "files", "/note") == b"from 0"
        assert run(machine, 10, "probe", "files", "/note", container=1) == b""
        assert b"Read-only" in put(machine, 11, "/usr", 1)
        machine.exec(12, "probe", container=2)
        assert machine.until(lambda told: 12 in told.refused)
        assert machine.told.refused[12] == (125, "exec: there is no container 2")
        told = end(machine)
        assert (told.status, told.error) == (0, None)


def test_what_a_container_left_is_cleared(power_on: PowerOn, erofs: Path) -> None:
    with power_on(pod(), board=two_roots(erofs)) as machine:
        machine.exec(1, "probe", "serve", "80")
        machine.exec(2, "probe", "serve", "81", container=1)
        assert machine.until(lambda told: {1, 2} <= set(told.started))
        machine.send(CLEAR, struct.pack(">I", 1))
        machine.send(CLEAR, struct.pack(">I", 9))
        assert machine.until(lambda told: told.is_over(2))
        assert machine.told.statuses == {2: 137}
        # The port is free again; who is asked to end a pod ends all that runs, and no more begins.
        machine.exec(3, "probe", "serve", "81", container=1)
        machine.exec(4, "probe", "ignore", "15")
        assert machine.until(lambda told: {3, 4} <= set(told.started))
        machine.send(STOP, struct.pack(">I", 200))
        machine.exec(5, "probe", "exit", "0")
        told = machine.finish()
        assert told.status == 0
        assert {one: told.statuses[one] for one in (1, 3)} == {1: 143, 3: 143}
        assert told.refused[5][1] == "exec: the pod is ending"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rootfs", b"/dev/vdz erofs -\n", "/dev/vdz: the VM has no such device"),
        ("cwd", b"second", "boot spec: 1/cwd is not an absolute path"),
        ("user", b"7\n", "boot spec: 1/user is malformed"),
        ("mounts", b"pod\0../data\0/data\0rw\0", "boot spec: 1/mounts is malformed"),
    ],
)
def test_a_container_that_cannot_be(
    power_on: PowerOn, erofs: Path, name: str, content: bytes, told: str
) -> None:
    with power_on(pod(**{name: content}), board=two_roots(erofs)) as machine:
        assert machine.finish().error == (125, told)


def test_a_pod_is_not_held(power_on: PowerOn) -> None:
    with power_on(spec(hold=b"exec\n")) as machine:
        assert machine.finish().error == (125, "boot spec: hold is not for a pod")
