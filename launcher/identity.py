"""What makes one VM another than all others, its siblings of the same template included."""

from __future__ import annotations

import os

from hyperbuild.converter.records import Record

_SEED_SIZE = 64
#: The first address of a /24 that no service of the hypervisor's network has, and how many follow.
_FIRST_ADDRESS, _ADDRESSES = 16, 239


class Identity(Record):
    """Names and random bytes of one VM.

    ``machine_id`` is as in machine-id(5), ``mac`` six pairs of hexadecimal digits; ``host`` is the
    last number of its address, of whatever network.
    """

    hostname: str
    machine_id: str
    mac: str
    host: int
    seed: bytes


def new_identity(hostname: str = "") -> Identity:
    """Return one that no other VM has; hostname is random if it is empty."""
    # Locally administered addresses begin with 52:54:00 by QEMU's custom, and KVM's after it.
    mac = ":".join(f"{byte:02x}" for byte in b"\x52\x54\x00" + os.urandom(3))
    return Identity(
        hostname=hostname or os.urandom(6).hex(),
        machine_id=os.urandom(16).hex(),
        mac=mac,
        host=_FIRST_ADDRESS + os.urandom(1)[0] % _ADDRESSES,
        seed=os.urandom(_SEED_SIZE),
    )
