"""Real servers in VMs, spoken to by their own protocols, by DAX, disk and small kernel."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HYPERBUILD, KernelOf
from tests.support.images import image
from tests.support.registry import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Talk = Callable[[socket.socket], None]

pytestmark = pytest.mark.boot

#: Seconds that one attempt and all of them may take: emulation is slow, QEMU's ports answer early.
PATIENCE, ALL_PATIENCE = 5.0, 120.0


def http(expected: str) -> Talk:
    def talk(peer: socket.socket) -> None:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := peer.recv(4096):
            answer += piece
        if not answer:
            # The hypervisor takes connections before anybody in the guest does.
            raise ConnectionError
        head, _, body = answer.decode().partition("\r\n\r\n")
        assert " 200 " in head.partition("\r\n")[0]
        assert re.search(expected, body)

    return talk


def exchange(*lines: tuple[bytes, bytes]) -> Talk:
    def talk(peer: socket.socket) -> None:
        for question, expected in lines:
            peer.sendall(question)
            answer = b""
            while len(answer) < len(expected):
                piece = peer.recv(4096)
                if not piece:
                    raise ConnectionError
                answer += piece
            assert answer == expected

    return talk


def postgres(peer: socket.socket) -> None:
    """Log in and count, in version 3 of the wire protocol."""
    words = b"user\0postgres\0database\0postgres\0\0"
    peer.sendall(struct.pack(">II", 8 + len(words), 196608) + words)
    assert _messages(peer)[0] == (b"R", struct.pack(">I", 0))
    query = b"SELECT sum(n) FROM generate_series(1, 100) AS n\0"
    peer.sendall(b"Q" + struct.pack(">I", 4 + len(query)) + query)
    rows = [body for kind, body in _messages(peer) if kind == b"D"]
    assert rows[0].endswith(b"5050")


def _messages(peer: socket.socket) -> list[tuple[bytes, bytes]]:
    """Read messages up to ReadyForQuery."""
    found = []
    while not found or found[-1][0] != b"Z":
        kind, size = struct.unpack(">cI", _exactly(peer, 5))
        found.append((kind, _exactly(peer, size - 4)))
    return found


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


SERVERS: dict[str, tuple[int, Talk, tuple[str, ...]]] = {
    "nginx": (80, http("nginx, in a VM of its own"), ()),
    "busybox": (80, http("hello from busybox"), ()),
    "static": (80, http("hello from scratch"), ("-m", "64M")),
    "redis": (6379, exchange((b"SET k v\r\n", b"+OK\r\n"), (b"GET k\r\n", b"$1\r\nv\r\n")), ()),
    "memcached": (
        11211,
        exchange(
            (b"set k 0 0 1\r\nv\r\n", b"STORED\r\n"), (b"get k\r\n", b"VALUE k 0 1\r\nv\r\nEND\r\n")
        ),
        (),
    ),
    "python": (8000, http(r"hello from python 3\.11\.\d+ as 1000"), ()),
    "nodejs": (3000, http(r"hello from node v18\."), ()),
    "postgresql": (5432, postgres, ("-m", "512M")),
}


@contextmanager
def booted(environment: dict[str, str], *args: str) -> Iterator[subprocess.Popen[str]]:
    argv = [HYPERBUILD, "boot", "--timeout", "200", *args]
    process = subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


def converse(process: subprocess.Popen[str], port: int, talk: Talk) -> None:
    deadline = time.monotonic() + ALL_PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                talk(peer)
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                assert process.stdout is not None
                pytest.fail(f"no answer; the VM said:\n{process.stdout.read()}")
            time.sleep(0.05)


#: The smallest kernel needs the block device, and is enough for each of these.
WAYS = {
    "dax": ("--require-dax",),
    "blk": ("--rootfs", "blk"),
    "micro": ("--profile", "micro"),
}
#: The ways in which a copy is spoken to as well, and the options that shape its template.
COPIED: dict[str, tuple[str, ...]] = {"dax": (), "blk": ("--rootfs", "blk")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SERVERS)
def test_a_real_server_answers_from_its_vm_and_from_a_copy_of_it(
    name: str, way: str, kernel_of: KernelOf, test_cache: Path, hyperbuild_env: dict[str, str]
) -> None:
    kernel_of("micro" if way == "micro" else "dax")
    guest_port, talk, options = SERVERS[name]
    source = f"oci:{image(name, test_cache)}"
    shape = [*WAYS[way], *options]
    starts: list[list[str]] = [[]]
    template = None
    if way in COPIED:
        template = made_template(hyperbuild_env, *COPIED[way], *options, source)
        starts.append(["--require-warm"])
    try:
        for start in starts:
            port = free_port()
            forward = ["-p", f"127.0.0.1:{port}:{guest_port}"]
            with booted(hyperbuild_env, *start, *shape, *forward, source) as process:
                converse(process, port, talk)
                process.terminate()
                assert process.wait(60) == 143
    finally:
        if template:
            template.unlink()


def made_template(environment: dict[str, str], *args: str) -> Path:
    """Make a template, which lies in the cache that all tests share."""
    argv = [HYPERBUILD, "warm", "--when", "listening", *args]
    done = subprocess.run(
        argv, env=environment, check=True, timeout=300, stdout=subprocess.PIPE, text=True
    )
    return Path(done.stdout.strip())
