"""Finding out before the boot that a host port can't be had."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import AccessError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.launcher.machine import PortForward


def check_ports_free(ports: Iterable[PortForward]) -> None:
    """Bind each port for a moment.

    InputError: it is in use, or its address is not this host's; AccessError: it is privileged.
    """
    for port in ports:
        kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as probe:
            if port.protocol == "tcp":
                # As the hypervisor will: connections that linger from the last run are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host_ip, port.host_port))
            except OSError as error:
                raise _refusal(port, error) from error


def _refusal(port: PortForward, error: OSError) -> InputError | AccessError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"host port {port} is in use; stop what listens there or choose another with -p"
        )
    if error.errno == errno.EACCES:
        return AccessError(f"host port {port} needs root; choose one from 1024 up with -p")
    return InputError(f"host port {port} can't be bound ({error.strerror}); choose another with -p")
