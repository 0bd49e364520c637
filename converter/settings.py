"""How registries are reached: data that the command line fills from options, files and variables.

The file of registries is TOML; every key is optional:

    ["docker.io"]
    mirrors = ["mirror.example:5000", "http://10.0.0.7/hub"]
    ["registry.lan:5000"]
    insecure = true            # plain HTTP, or TLS that nobody vouches for
    ca = "/etc/ssl/lan.pem"    # certificates to trust, beside the system's own
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.toml import read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = {"mirrors": list, "insecure": bool, "ca": str}


@dataclass(frozen=True, slots=True)
class Host:
    """What is particular to one registry, by the name that references call it."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How to reach registries.

    ``credential_files`` are read in this order, the first that knows the registry wins; ``proxies``
    maps "http", "https" and "no" to what the variables of that name hold; times are in seconds,
    ``patience`` the longest pause that a registry may ask for; ``attempts`` are per request;
    ``slowest`` is how many bytes a second an answer must bring (pace.py).
    """

    credential_files: tuple[Path, ...] = ()
    hosts: Mapping[str, Host] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    slowest: int = 1024
    attempts: int = 5
    pause: float = 0.5
    patience: float = 60.0
    connections: int = 4
    docker_socket: Path = Path("/run/docker.sock")

    def host(self, registry: str) -> Host:
        """Return what is set for the registry called so."""
        return self.hosts.get(registry, Host())


def credential_files(
    authfile: Path | None, environment: Mapping[str, str], home: Path
) -> tuple[Path, ...]:
    """Return where credentials are looked for, in the order of containers-auth.json(5).

    authfile (an option) or REGISTRY_AUTH_FILE stand alone; one that is missing is an InputError.
    """
    named = authfile or Path(environment.get("REGISTRY_AUTH_FILE", ""))
    if named != Path():
        if not named.exists():
            raise InputError(f"the file of credentials {named} does not exist; name another")
        return (named,)
    places = [
        Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json",
        Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
    ]
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        places.insert(0, Path(runtime) / "containers/auth.json")
    return tuple(places)


def docker_socket(environment: Mapping[str, str]) -> Path:
    """Return the Docker engine's socket as DOCKER_HOST says; an engine elsewhere is refused."""
    scheme, _, path = environment.get("DOCKER_HOST", "unix:///run/docker.sock").partition("://")
    if scheme != "unix" or not path:
        raise InputError("DOCKER_HOST is not unix://PATH; use docker save and docker-archive:")
    return Path(path)


def read_hosts(path: Path) -> dict[str, Host]:
    """Read the file of registries; InputError names the key that does not fit."""
    document = read_toml(path, "file of registries")
    return {name: _host(path, name, fields) for name, fields in document.items()}


def _host(path: Path, name: str, fields: object) -> Host:
    if not isinstance(fields, dict):
        raise InputError(f'{path}: {printable(name)} is no table; write ["{printable(name)}"]')
    for key, value in fields.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise InputError(
                f"{path}: {printable(key)} is not known for {printable(name)}; "
                f"use {', '.join(_KEYS)}"
            )
        if not isinstance(value, kind):
            raise InputError(f"{path}: {key} of {printable(name)} is not a {kind.__name__}")
    values: dict[str, Any] = fields
    ca = path.parent / values["ca"] if "ca" in values else None
    if ca and not ca.is_file():
        raise InputError(f"{path}: ca of {printable(name)} names {ca}, which is no file")
    mirrors = tuple(str(mirror) for mirror in values.get("mirrors", ()))
    return Host(mirrors, values.get("insecure", False), ca)
