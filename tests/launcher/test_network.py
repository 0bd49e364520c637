"""A VM's network as users write it, the host's resolver, and tap devices."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.machine import MachineOptions, Nic, Tap
from hyperbuild.launcher.network import (
    Resolver,
    guest_resolv_conf,
    parse_host,
    parse_nameserver,
    parse_network,
    parse_resolv_conf,
    read_resolver,
)
from hyperbuild.launcher.tap import open_tap

if TYPE_CHECKING:
    from collections.abc import Iterator

NIC = Nic("52:54:00:01:02:03", "10.0.2.15")
TAP = Tap("tap0", "192.168.7.2", 24, "192.168.7.1")


def test_networks_are_read() -> None:
    assert parse_network("user", "", "") == (True, None)
    assert parse_network("none", "", "") == (False, None)
    assert parse_network("tap:tap0", "192.168.7.2/24", "192.168.7.1") == (True, TAP)
    assert parse_network("tap:t", "10.0.0.1/32", "") == (True, Tap("t", "10.0.0.1", 32))
    assert parse_network("tap:t", "10.0.0.1/0", "8.8.8.8") == (
        True,
        Tap("t", "10.0.0.1", 0, "8.8.8.8"),
    )


@pytest.mark.parametrize(
    ("network", "ip", "gateway", "said"),
    [
        ("bridge", "", "", "'bridge' is not one of user, none and tap:IFNAME"),
        ("", "", "", "'' is not one of"),
        ("user", "10.0.0.1/8", "", "are for --network tap:IFNAME; drop them"),
        ("none", "", "10.0.0.1", "are for --network tap:IFNAME; drop them"),
        ("tap:", "10.0.0.1/8", "", "'' is no name of a tap device"),
        ("tap:../x", "10.0.0.1/8", "", "no name of a tap device"),
        ("tap:..", "10.0.0.1/8", "", "no name of a tap device"),
        ("tap:%d", "10.0.0.1/8", "", "no name of a tap device"),
        ("tap:sixteen-letters-", "10.0.0.1/8", "", "no name of a tap device"),
        ("tap:t", "", "", "is not ADDRESS/PREFIX, which a tap needs"),
        ("tap:t", "10.0.0.1", "", "is not ADDRESS/PREFIX"),
        ("tap:t", "10.0.0.1/33", "", "is not ADDRESS/PREFIX"),
        ("tap:t", "10.0.0.1/x", "", "is not ADDRESS/PREFIX"),
        ("tap:t", "10.0.0.256/8", "", "is not ADDRESS/PREFIX"),
        ("tap:t", "fe80::1/64", "", "is not ADDRESS/PREFIX"),
        ("tap:t", "10.0.0.1/8", "gw", "'gw' is no IPv4 address"),
        ("tap:t", "10.0.0.1/24", "10.0.1.1", "10.0.1.1 is not in the network of --ip 10.0.0.1/24"),
    ],
)
def test_a_bad_network_is_named(network: str, ip: str, gateway: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_network(network, ip, gateway)
    assert said in str(caught.value)


def test_hosts_are_read() -> None:
    assert parse_host("db:1.2.3.4") == ("db", "1.2.3.4")
    assert parse_host("db.lan:::1") == ("db.lan", "::1")
    assert parse_host("db:[fe80::1]") == ("db", "fe80::1")
    assert parse_host("my_host:host-gateway") == ("my_host", "host-gateway")


@pytest.mark.parametrize(
    "text", ["", "db", "db:", ":1.2.3.4", "db:1.2.3", "a b:1.2.3.4", "db:1.2.3.4\nx", "-a:1.2.3.4"]
)
def test_a_bad_host_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is not NAME:IP; say db:"):
        parse_host(text)


@pytest.mark.parametrize("text", ["", "dns.lan", "::1", "1.2.3", "1.2.3.4 options"])
def test_a_bad_nameserver_is_named(text: str) -> None:
    assert parse_nameserver("1.2.3.4") == "1.2.3.4"
    with pytest.raises(InputError, match="is no IPv4 address"):
        parse_nameserver(text)


def test_the_hosts_resolver_is_read_as_far_as_it_is_good_for_a_guest() -> None:
    text = (
        "# by hand\nnameserver 127.0.0.53\nnameserver\t9.9.9.9 # far\nnameserver fe80::1%eth0\n"
        "search  lan  corp.lan\noptions edns0 trust-ad\nsortlist 1.2.3.4\nsearch\n"
        "options \x1b[2J\n"
    )
    assert parse_resolv_conf(text) == Resolver(
        ("127.0.0.53", "9.9.9.9"), ("search lan corp.lan", "options edns0 trust-ad")
    )


def test_a_host_without_a_resolver_is_none(tmp_path: Path) -> None:
    assert read_resolver(tmp_path / "resolv.conf") == Resolver()
    (tmp_path / "resolv.conf").write_bytes(b"\xff\nnameserver 1.2.3.4\n")
    assert read_resolver(tmp_path / "resolv.conf") == Resolver(("1.2.3.4",))


@pytest.mark.parametrize(
    ("options", "servers"),
    [
        (MachineOptions(), ["10.0.2.3"]),
        (MachineOptions(nameservers=("1.1.1.1",)), ["1.1.1.1"]),
        (MachineOptions(tap=TAP), ["9.9.9.9"]),
        (MachineOptions(tap=TAP, nameservers=("1.1.1.1",)), ["1.1.1.1"]),
    ],
)
def test_whom_a_guest_asks(options: MachineOptions, servers: list[str]) -> None:
    resolver = Resolver(("127.0.0.53", "9.9.9.9"), ("search lan",))
    told = guest_resolv_conf(NIC, options, resolver)
    assert told.splitlines() == [*(f"nameserver {server}" for server in servers), "search lan"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hb-none0", "there is no tap device hb-none0; make it first: ip tuntap add dev hb-none0"),
        ("lo", "there is no tap device lo"),
    ],
)
def test_a_tap_that_is_not_there_is_not_made(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_tap(name)
    assert name == "lo" or not Path("/sys/class/net", name).exists()


@pytest.fixture
def tap() -> Iterator[str]:
    """Give the name of a tap device of the test's own."""
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("making a tap device needs root and /dev/net/tun")
    name = f"hb{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def test_a_tap_is_one_vms_at_a_time(tap: str) -> None:
    fd = open_tap(tap)
    with pytest.raises(InputError, match=f"the tap device {tap} is in use; stop that VM"):
        open_tap(tap)
    os.close(fd)
    os.close(open_tap(tap))


def test_a_tun_device_is_no_tap() -> None:
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("making a tun device needs root and /dev/net/tun")
    name = f"hu{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tun"], check=True)
    try:
        with pytest.raises(InputError, match=f"{name} is no tap device that a VM can have"):
            open_tap(name)
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)
