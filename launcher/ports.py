"""The ports of the host: as users write them, chosen where they don't, and free before the boot."""

from __future__ import annotations

# As in vm.py: the module around it takes long to load.
import _socket
import errno
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import AccessError, InputError, printable
from hyperbuild.launcher.machine import ANY_ADDRESS, PortForward

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.launcher.bundle import Process
    from hyperbuild.launcher.machine import MachineOptions

_RANGE = r"\d{1,5}(?:-\d{1,5})?"
_PORTS = (
    rf"(?:(?P<ip>\d{{1,3}}(?:\.\d{{1,3}}){{3}}):(?P<bound>{_RANGE})?:|(?P<host>{_RANGE}):)?"
    rf"(?P<guest>{_RANGE})(?:/(?P<kind>tcp|udp))?"
)
#: Each port of a range is a socket of its own.
_LONGEST_RANGE = 256


def parse_ports(text: str) -> tuple[PortForward, ...]:
    """Read ``[[IP:][HOST]:]GUEST[/tcp|udp]`` (IP is of version 4); InputError otherwise.

    HOST and GUEST may be ranges of one length, 8000-8010. Without HOST it is 0: to be chosen.
    """
    match = re.fullmatch(_PORTS, text, re.ASCII)
    if match is None:
        raise InputError(
            f"port {printable(text)!r} is not [[IP:]HOST:]GUEST[/udp]; say 8080:80, for one"
        )
    ip = match["ip"] or ANY_ADDRESS
    if any(int(part) > 255 for part in ip.split(".")):
        raise InputError(f"port {text!r}: {ip} is not an IP address")
    ip = ".".join(str(int(part)) for part in ip.split("."))
    guest = _range(match["guest"], text)
    given = match["bound"] or match["host"]
    host = _range(given, text) if given else [0] * len(guest)
    if len(host) != len(guest):
        raise InputError(f"port {text!r}: the ranges are not of one length; make them so")
    kind = match["kind"] or "tcp"
    return tuple(PortForward(*pair, kind, ip) for pair in zip(host, guest, strict=True))


def _range(text: str, whole: str) -> list[int]:
    first, _, last = text.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not (ports.start > 0 and ports.stop <= 1 << 16):
        raise InputError(f"port {whole!r}: ports go from 1 to 65535")
    if not 0 < len(ports) <= _LONGEST_RANGE:
        raise InputError(f"port {whole!r}: a range has 1 to {_LONGEST_RANGE} ports, upwards")
    return list(ports)


def assign_ports(options: MachineOptions, process: Process) -> MachineOptions:
    """Return options with what process exposes, if they want that, and a port for each 0."""
    ports = [*options.ports, *(_exposed(options, process) if options.publish_all else ())]
    # All are held until all are known: none is found twice.
    with ExitStack() as stack:
        for index, port in enumerate(ports):
            if not port.host_port:
                ports[index] = port.replace(host_port=_free_port(port, stack))
    return options.replace(ports=tuple(ports), publish_all=False)


def _exposed(options: MachineOptions, process: Process) -> Iterator[PortForward]:
    if not options.network or options.tap:
        return
    known = {(port.guest_port, port.protocol) for port in options.ports}
    for text in process.exposed_ports:
        try:
            ports = parse_ports(text if "/" in text else f"{text}/tcp")
        except InputError:
            # The image says so: a protocol that nobody can publish, say.
            continue
        yield from (port for port in ports if (port.guest_port, port.protocol) not in known)


def _free_port(port: PortForward, stack: ExitStack) -> int:
    kind = _socket.SOCK_STREAM if port.protocol == "tcp" else _socket.SOCK_DGRAM
    probe = _socket.socket(_socket.AF_INET, kind)
    stack.callback(probe.close)
    try:
        probe.bind((port.host_ip, 0))
    except OSError as error:
        raise _refusal(port, error) from error
    return int(probe.getsockname()[1])


def check_ports_free(ports: Iterable[PortForward]) -> None:
    """Bind each port for a moment.

    InputError: it is in use, or its address is not this host's; AccessError: it is privileged.
    """
    for port in ports:
        kind = _socket.SOCK_STREAM if port.protocol == "tcp" else _socket.SOCK_DGRAM
        probe = _socket.socket(_socket.AF_INET, kind)
        try:
            if port.protocol == "tcp":
                # As the hypervisor will: connections that linger from the last run are no obstacle.
                probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            probe.bind((port.host_ip, port.host_port))
        except OSError as error:
            raise _refusal(port, error) from error
        finally:
            probe.close()


def _refusal(port: PortForward, error: OSError) -> InputError | AccessError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"host port {port} is in use; stop what listens there or choose another with -p"
        )
    if error.errno == errno.EACCES:
        return AccessError(f"host port {port} needs root; choose one from 1024 up with -p")
    return InputError(f"host port {port} can't be bound ({error.strerror}); choose another with -p")
