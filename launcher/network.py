"""What users say of a VM's network, and what the host knows of names."""

from __future__ import annotations

# As in ports.py: the module around it takes long to load.
import _socket
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record
from hyperbuild.launcher.machine import Tap

if TYPE_CHECKING:
    from hyperbuild.launcher.machine import MachineOptions, Nic

#: docker's word for the host's own address.
HOST_GATEWAY = "host-gateway"

_RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLV_CONF_LIMIT = 64 << 10
_TAP = "tap:"


class Resolver(Record):
    """The host's resolv.conf: its nameservers, and the lines that are as good for a guest."""

    nameservers: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def parse_network(network: str, ip: str, gateway: str) -> tuple[bool, Tap | None]:
    """Read --network, --ip and --gateway: whether there is a network, and its tap if it has one."""
    if not network.startswith(_TAP):
        if network not in ("user", "none"):
            raise InputError(
                f"network {printable(network)!r} is not one of user, none and tap:IFNAME"
            )
        if ip or gateway:
            raise InputError("--ip and --gateway are for --network tap:IFNAME; drop them")
        return network == "user", None
    name = network.removeprefix(_TAP)
    if not re.fullmatch(r"[^\s/:%]{1,15}", name) or name in (".", ".."):
        raise InputError(f"{printable(name)!r} is no name of a tap device; say tap:tap0, for one")
    address, _, prefix = ip.partition("/")
    if not _is_ipv4(address) or not re.fullmatch(r"[0-9]{1,2}", prefix) or int(prefix) > 32:
        raise InputError(
            f"--ip {printable(ip)!r} is not ADDRESS/PREFIX, which a tap needs; "
            "say 192.168.7.2/24, for one"
        )
    if gateway and not _is_ipv4(gateway):
        raise InputError(f"--gateway {printable(gateway)!r} is no IPv4 address")
    if gateway and not _are_neighbours(address, gateway, int(prefix)):
        raise InputError(f"--gateway {gateway} is not in the network of --ip {ip}; correct one")
    return True, Tap(name, address, int(prefix), gateway)


def parse_host(text: str) -> tuple[str, str]:
    """Read ``NAME:IP`` of --add-host, the IP of either version or host-gateway."""
    name, _, address = text.partition(":")
    address = address.removeprefix("[").removesuffix("]") if "]" in address else address
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,253}", name) or not (
        address == HOST_GATEWAY or _is_ipv4(address) or _is_ipv6(address)
    ):
        raise InputError(
            f"host {printable(text)!r} is not NAME:IP; say db:192.168.7.3 or host:{HOST_GATEWAY}"
        )
    return name, address


def parse_nameserver(text: str) -> str:
    """Read the address of --dns."""
    if not _is_ipv4(text):
        raise InputError(f"--dns {printable(text)!r} is no IPv4 address")
    return text


def parse_resolv_conf(text: str) -> Resolver:
    """Read a resolv.conf: the nameservers of IPv4, and what is said of names and options."""
    servers, lines = [], []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_ipv4(words[1]):
            servers.append(words[1])
        elif len(words) > 1 and words[0] in ("search", "domain", "options") and line.isprintable():
            lines.append(" ".join(words))
    return Resolver(tuple(servers), tuple(lines))


def read_resolver(path: Path = _RESOLV_CONF) -> Resolver:
    """Read the host's own; nothing is known where there is none."""
    try:
        with path.open("rb") as file:
            return parse_resolv_conf(file.read(_RESOLV_CONF_LIMIT).decode("ascii", "replace"))
    except OSError:
        return Resolver()


def guest_resolv_conf(nic: Nic, options: MachineOptions, resolver: Resolver) -> str:
    """Return the guest's resolv.conf.

    The hypervisor's network passes questions on to the host's first nameserver, whatever its
    address. Behind a tap the guest asks the host's itself, but for those on the host's loopback.
    """
    servers = options.nameservers
    if not servers and options.tap:
        servers = tuple(name for name in resolver.nameservers if not name.startswith("127."))
    elif not servers:
        servers = (nic.nameserver,)
    lines = [*(f"nameserver {server}" for server in servers), *resolver.lines]
    return "".join(f"{line}\n" for line in lines)


def _is_ipv4(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", text, re.ASCII)) and _parses(
        _socket.AF_INET, text
    )


def _is_ipv6(text: str) -> bool:
    return ":" in text and _parses(_socket.AF_INET6, text)


def _parses(family: int, text: str) -> bool:
    try:
        _socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def _are_neighbours(one: str, other: str, prefix: int) -> bool:
    numbers = [int.from_bytes(_socket.inet_aton(address), "big") for address in (one, other)]
    return len({number >> (32 - prefix) for number in numbers}) == 1
