"""Host ports as users write them, chosen, and tried before anything is started."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.machine import ANY_ADDRESS, MachineOptions, PortForward, Tap
from hyperbuild.launcher.ports import assign_ports, check_ports_free, parse_ports
from tests.launcher.support import make_process

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


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8080:80", [PortForward(8080, 80, "tcp", ANY_ADDRESS)]),
        ("8080:80/tcp", [PortForward(8080, 80)]),
        ("53:5353/udp", [PortForward(53, 5353, "udp")]),
        ("127.0.0.1:8080:80", [PortForward(8080, 80, "tcp", "127.0.0.1")]),
        ("127.000.0.1:1:65535/udp", [PortForward(1, 65535, "udp", "127.0.0.1")]),
        ("80", [PortForward(0, 80)]),
        ("80/udp", [PortForward(0, 80, "udp")]),
        ("127.0.0.1::80", [PortForward(0, 80, "tcp", "127.0.0.1")]),
        ("8000-8001:80-81", [PortForward(8000, 80), PortForward(8001, 81)]),
        ("9-10/udp", [PortForward(0, 9, "udp"), PortForward(0, 10, "udp")]),
    ],
)
def test_ports_are_read(text: str, ports: list[PortForward]) -> None:
    assert list(parse_ports(text)) == ports


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080:",
        ":80",
        "0:80",
        "80:0",
        "0",
        "65536:80",
        "80:99999",
        "-1:80",
        "8080:80/sctp",
        "8080:80/",
        "256.0.0.1:80:80",
        "1.2.3:80:80",
        "127.0.0.1:80",
        "[::1]:80:80",
        "localhost:80:80",
        "80-90:80",
        "80-90:80-91",
        "90-80:90-80",
        "1-300:1-300",
        "80-:80-",
        "8080:80,guestfwd=x",
        "８0:80",
        "80:80\n",
    ],
)
def test_a_bad_port_is_named(text: str) -> None:
    with pytest.raises(InputError, match="port "):
        parse_ports(text)


@given(st.text())
def test_no_port_text_gets_anything_else_through(text: str) -> None:
    try:
        ports = parse_ports(text)
    except InputError:
        return
    assert ports
    assert all(0 <= port.host_port < 65536 and 0 < port.guest_port < 65536 for port in ports)


def test_ports_that_nobody_named_are_chosen_each_another() -> None:
    wanted = (PortForward(8080, 80), *(PortForward(0, 80, host_ip="127.0.0.1"),) * 20)
    options = assign_ports(MachineOptions(ports=wanted), make_process())
    first, *others = options.ports
    assert first == wanted[0]
    assert len({port.host_port for port in others}) == 20
    assert all(port.host_port > 0 and port.host_ip == "127.0.0.1" for port in others)
    assert assign_ports(options, make_process()) == options


def test_all_that_is_exposed_is_published_once() -> None:
    process = make_process(exposed_ports=("80/tcp", "81", "53/udp", "9/sctp", "7000-7001/tcp"))
    chosen = MachineOptions(ports=(PortForward(8080, 80),), publish_all=True)
    found = [(port.guest_port, port.protocol) for port in assign_ports(chosen, process).ports]
    assert found == [(80, "tcp"), (81, "tcp"), (53, "udp"), (7000, "tcp"), (7001, "tcp")]
    nowhere = (
        chosen.replace(network=False, ports=()),
        chosen.replace(tap=Tap("t", "10.0.0.2", 8), ports=()),
    )
    assert [assign_ports(options, process).ports for options in nowhere] == [(), ()]


def test_a_port_of_an_address_that_is_not_here_cannot_be_chosen() -> None:
    options = MachineOptions(ports=(PortForward(0, 80, host_ip="192.0.2.1"),))
    with pytest.raises(InputError, match=r"192\.0\.2\.1:0/tcp can't be bound"):
        assign_ports(options, make_process())
