"""Host ports are tried before anything is started."""

from __future__ import annotations

import socket

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.machine import PortForward
from hyperbuild.launcher.ports import check_ports_free

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_port_in_use_is_named_with_the_remedy(protocol: str, address: str) -> None:
    with socket.socket(socket.AF_INET, KINDS[protocol]) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        port = PortForward(other.getsockname()[1], 80, protocol, address)
        with pytest.raises(InputError, match=rf"{port} is in use; .* -p"):
            check_ports_free([port])
    check_ports_free([port])


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(InputError, match=r"192.0.2.1:8099/tcp can't be bound"):
        check_ports_free([PortForward(8099, 80, host_ip="192.0.2.1")])
