"""Finding out before the boot that a host port can't be had."""

from __future__ import annotations

# As in vm.py: the module around it takes long to load.
import _socket
import errno
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
