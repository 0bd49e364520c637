"""What a machine is told by a disc: cloud-init's NoCloud and config drive, and hyperstart's files.

The directory ``hyperstart/`` has files of the boot spec (docs/hyperstart.md), so that the guest
parses nothing. The rest is for programs of the image that read it: cloud-init, cloudbase-init, …
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from uuid import UUID

#: The volume's name by the layout, where programs look for it.
NOCLOUD, CONFIG_DRIVE = "cidata", "config-2"
#: Where hyperstart's own files are.
OWN = "hyperstart"

_NO_USER_DATA = b"#cloud-config\n{}\n"


@dataclass(frozen=True, slots=True)
class Seed:
    """What is told: a host name ("" for none), "NAME=value" variables, and documents as they stand.

    ``hosts`` and ``resolvers`` are the whole of /etc/hosts and /etc/resolv.conf, b"" for none.
    """

    hostname: str = ""
    environ: tuple[str, ...] = ()
    hosts: bytes = b""
    resolvers: bytes = b""
    user_data: bytes | None = None
    meta_data: bytes | None = None
    network_config: bytes | None = None


def nocloud_files(seed: Seed) -> dict[str, bytes]:
    """Return the files of a volume called ``NOCLOUD``."""
    files = {
        "user-data": _NO_USER_DATA if seed.user_data is None else seed.user_data,
        "meta-data": _meta_data(seed) if seed.meta_data is None else seed.meta_data,
    }
    if seed.network_config is not None:
        files["network-config"] = seed.network_config
    return files | _own(seed)


def config_drive_files(seed: Seed) -> dict[str, bytes]:
    """Return the files of a volume called ``CONFIG_DRIVE``."""
    latest = "openstack/latest"
    described: dict[str, object] = {"uuid": str(_instance(seed))}
    if seed.hostname:
        described |= {"hostname": seed.hostname, "name": seed.hostname}
    own = json.dumps(described, indent=2).encode() + b"\n"
    files = {
        f"{latest}/meta_data.json": own if seed.meta_data is None else seed.meta_data,
        f"{latest}/user_data": _NO_USER_DATA if seed.user_data is None else seed.user_data,
    }
    if seed.network_config is not None:
        files[f"{latest}/network_data.json"] = seed.network_config
    return files | _own(seed)


def _own(seed: Seed) -> dict[str, bytes]:
    files = {
        "hostname": seed.hostname.encode(),
        "environ": b"".join(
            text.encode("utf-8", "surrogateescape") + b"\0" for text in seed.environ
        ),
        "hosts": seed.hosts,
        "resolv.conf": seed.resolvers,
    }
    return {f"{OWN}/{name}": content for name, content in files.items() if content}


def _meta_data(seed: Seed) -> bytes:
    name = f"local-hostname: {seed.hostname}\n" if seed.hostname else ""
    return f"instance-id: {_instance(seed)}\n{name}".encode()


def _instance(seed: Seed) -> UUID:
    """Return what tells one machine from another: another seed makes another one."""
    return UUID(bytes=hashlib.sha256(repr(seed).encode()).digest()[:16], version=4)
