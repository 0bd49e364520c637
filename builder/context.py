"""Where things are and how registries are reached, read once from the environment."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.sealed import Sealed
    from hyperbuild.converter.settings import RegistrySettings
    from hyperbuild.converter.store import Store
    from hyperbuild.launcher.instances import Instances

#: Seconds for which what can be made again is kept after its last use.
_UNUSED_KEPT = 30 * 86400
_PROXIES = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "no": "NO_PROXY"}
#: Most digits of a time; int() would refuse thousands of them in words of its own.
_EPOCH_DIGITS = 12


class Context(Record):
    """What every command works with.

    ``cache`` holds what can be made again (kernels, initramfs), ``data`` the content store,
    ``config`` the user's settings. ``epoch`` is SOURCE_DATE_EPOCH in seconds, if it is set.
    """

    environment: Mapping[str, str]
    home: Path
    data: Path
    cache: Path
    config: Path
    epoch: int | None
    console: Progress

    def store(self) -> Store:
        """Open the content store."""
        from hyperbuild.converter.store import Store

        return Store(self.data)

    def scratch(self) -> AbstractContextManager[Path]:
        """Give an empty directory for the time of one task."""
        from hyperbuild.converter.files import scratch

        return scratch(self.cache / "builds")

    def layers(self) -> LayerCache:
        """Open the cache of layers that were read before."""
        from hyperbuild.converter.layer_cache import LayerCache

        return LayerCache(self.sealed("layers"))

    def sealed(self, name: str) -> Sealed:
        """Open the part of the cache called name, swept of what was not used for a month."""
        from hyperbuild.converter.sealed import Sealed

        found = Sealed(self.cache / name)
        found.sweep(time.time() - _UNUSED_KEPT)
        return found

    def instances(self) -> Instances:
        """Open the VMs that run by themselves, or did."""
        from hyperbuild.launcher.instances import Instances

        return Instances(self.data / "vms")

    @property
    def templates(self) -> Path:
        """The directory of VMs that stand still."""
        return self.cache / "warm"

    @property
    def volumes(self) -> Path:
        """The directory of named volumes."""
        return self.data / "volumes"

    def registries(self, authfile: Path | None, transport: str) -> RegistrySettings:
        """Read how to reach images by transport: credentials, mirrors, proxies, the engine."""
        from hyperbuild.converter.settings import (
            RegistrySettings,
            credential_files,
            docker_socket,
            read_hosts,
        )

        hosts = self.config / "registries.toml"
        settings = RegistrySettings(
            credential_files=credential_files(authfile, self.environment, self.home),
            hosts=read_hosts(hosts) if hosts.exists() else {},
            proxies={
                key: value
                for key, name in _PROXIES.items()
                if (value := self.environment.get(name) or self.environment.get(name.lower()))
            },
        )
        if transport == "docker-daemon":
            from dataclasses import replace

            return replace(settings, docker_socket=docker_socket(self.environment))
        return settings


def read_context(environment: Mapping[str, str], console: Progress) -> Context:
    """Read the environment (XDG base directories, SOURCE_DATE_EPOCH); InputError if it is bad."""
    home = Path(environment.get("HOME") or "~").expanduser()
    return Context(
        environment=environment,
        home=home,
        data=_directory(environment, "XDG_DATA_HOME", home / ".local/share"),
        cache=_directory(environment, "XDG_CACHE_HOME", home / ".cache"),
        config=_directory(environment, "XDG_CONFIG_HOME", home / ".config"),
        epoch=_epoch(environment.get("SOURCE_DATE_EPOCH", "")),
        console=console,
    )


def _directory(environment: Mapping[str, str], name: str, default: Path) -> Path:
    """Apply the XDG base directory specification, which has relative paths ignored."""
    chosen = environment.get(name, "")
    return (Path(chosen) if os.path.isabs(chosen) else default) / "hyperbuild"  # noqa: PTH117


def _epoch(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > _EPOCH_DIGITS:
        raise InputError(
            f"SOURCE_DATE_EPOCH={printable(text)} is no time; give seconds since 1970 or unset it"
        )
    return int(text)
