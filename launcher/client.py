"""What other commands ask of a running VM's supervisor, and what they read about it in /proc."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import HyperbuildError, InputError, UnavailableError
from hyperbuild.launcher import wire
from hyperbuild.launcher.instances import CREATED, socket_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.launcher.instances import Instance, Instances

_CHUNK = 64 << 10
#: Seconds that a supervisor may take from its start until it listens, and between two looks.
_BEGINNING, _PAUSE = 10.0, 0.02
_PEER = struct.Struct("3i")


class NotRunningError(InputError):
    """What is asked needs a VM that runs."""


def connect(instances: Instances, instance: Instance) -> socket.socket:
    """Connect to the supervisor of a VM; NotRunningError if it has none any more."""
    deadline = time.monotonic() + _BEGINNING
    while not instance.is_over:
        try:
            return _connect(instance.directory)
        except (FileNotFoundError, ConnectionRefusedError):
            # It is about to listen, or has just gone.
            if time.monotonic() > deadline and instance.state.status == CREATED:
                raise UnavailableError(
                    f"the supervisor of VM {instance.asked.name} does not answer; "
                    f"end it with hyperbuild rm -f {instance.asked.name}"
                ) from None
            time.sleep(_PAUSE)
        instance = instances.find(instance.asked.id)
    raise NotRunningError(
        f"VM {instance.asked.name} is not running; see 'hyperbuild list --all' for its end"
    )


def _connect(directory: Path) -> socket.socket:
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(socket_address(place))
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(place)
    return sock


def frames(sock: socket.socket) -> Iterator[wire.Frame]:
    """Yield what a supervisor sends until it closes."""
    decoder = wire.Decoder()
    while data := _receive(sock):
        yield from decoder.feed(data)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_CHUNK)
    except ConnectionError:
        return b""


def ask(instances: Instances, instance: Instance, **request: Any) -> dict[str, Any] | None:
    """Ask and return the last that is told; None if the supervisor went without a word.

    What is told as an error is raised.
    """
    with connect(instances, instance) as sock:
        sock.sendall(wire.encode_request(request))
        last = None
        for frame in frames(sock):
            if frame.kind == wire.TOLD:
                last = wire.told(frame)
    if last and "error" in last:
        raise HyperbuildError(f"VM {instance.asked.name}: {last['error']}")
    return last


def wait(instances: Instances, instance: Instance) -> int:
    """Wait for a VM's end, or the next one if it is to start again; return its exit status."""
    return _await_end(instances, instance, do="wait")


def stop(instances: Instances, instance: Instance, grace: float | None) -> int:
    """Stop a VM: its stop signal, grace seconds, SIGKILL. One that has ended is left as it is."""
    return _await_end(instances, instance, do="stop", grace=grace)


def _await_end(instances: Instances, instance: Instance, **request: Any) -> int:
    told = None
    with suppress(NotRunningError):
        told = ask(instances, instance, **request)
    if told and "exit" in told:
        return int(told["exit"])
    # Its supervisor is gone: the state, mended, tells the rest.
    status = instances.find(instance.asked.id).state.exit_status
    return 0 if status is None else status


def kill(instances: Instances, instance: Instance, number: int, container: str = "") -> None:
    """Send a signal to a VM's application; NotRunningError if there is none.

    Of a pod it is to that container's, or to all.
    """
    ask(instances, instance, do="kill", signal=number, container=container)


def remove(instances: Instances, instance: Instance, *, force: bool) -> None:
    """Remove a VM; InputError for one that runs, unless force ends it first."""
    if force and not instance.is_over:
        # It may end meanwhile, and be removed then.
        with suppress(HyperbuildError):
            kill(instances, instance, signal.SIGKILL)
            wait(instances, instance)
    deadline = time.monotonic() + _BEGINNING
    while not instances.remove(instance):
        # Between its end and the moment when all is written is not long.
        if not force and not _is_ending(instances, instance):
            raise InputError(
                f"VM {instance.asked.name} is running; stop it first, or remove it with rm -f"
            )
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"VM {instance.asked.name} does not end; kill its supervisor "
                f"(process {instance.state.pid})"
            )
        time.sleep(_PAUSE)


def _is_ending(instances: Instances, instance: Instance) -> bool:
    try:
        return instances.find(instance.asked.id).is_over
    except HyperbuildError:
        return True


def supervisor_pid(instances: Instances, instance: Instance) -> int:
    """Return the process number of a VM's supervisor, as the kernel knows it."""
    with connect(instances, instance) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid: int = _PEER.unpack(raw)[0]
    return pid
