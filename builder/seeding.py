"""``hyperbuild seed``: a disc by which machines that boot one disk are told apart."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.disk_iso import write_iso
from hyperbuild.builder.disk_seed import (
    CONFIG_DRIVE,
    NOCLOUD,
    Seed,
    config_drive_files,
    nocloud_files,
)
from hyperbuild.builder.env_files import read_env_file
from hyperbuild.converter import files
from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.machine import MachineOptions, check_options, parse_env
from hyperbuild.launcher.network import parse_nameserver
from hyperbuild.launcher.spec import hosts_file

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context

#: What cloud-init reads of each document at the most, in bytes.
_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What the user says of a seed: texts as of ``boot``, documents as files.

    ``layout`` is "nocloud" or "config-drive".
    """

    output: Path
    layout: str = "nocloud"
    hostname: str = ""
    env: tuple[str, ...] = ()
    env_file: tuple[Path, ...] = ()
    dns: tuple[str, ...] = ()
    user_data: Path | None = None
    meta_data: Path | None = None
    network_config: Path | None = None


def make_seed(context: Context, options: SeedOptions) -> None:
    """Write the seed; InputError, UnavailableError or NotFoundError for what can't be read."""
    target = files.named_output(options.output)
    seed = _seed(context, options)
    nocloud = options.layout == "nocloud"
    with files.draft(target.parent) as draft:
        write_iso(
            draft.fd,
            NOCLOUD if nocloud else CONFIG_DRIVE,
            nocloud_files(seed) if nocloud else config_drive_files(seed),
            moment=context.epoch or 0,
        )
        draft.publish(target)


def _seed(context: Context, options: SeedOptions) -> Seed:
    machine = MachineOptions(hostname=options.hostname)
    check_options(machine)
    environ = [f"HOSTNAME={options.hostname}"] if options.hostname else []
    for path in options.env_file:
        environ += read_env_file(path, context.environment)
    environ += (parse_env(text, context.environment) for text in options.env)
    servers = "".join(f"nameserver {parse_nameserver(text)}\n" for text in options.dns)
    return Seed(
        hostname=options.hostname,
        # A name's last value counts; a NAME that this machine does not know is none.
        environ=tuple({text.partition("=")[0]: text for text in environ if "=" in text}.values()),
        hosts=hosts_file(None, options.hostname, machine) if options.hostname else b"",
        resolvers=servers.encode(),
        user_data=_read(options.user_data),
        meta_data=_read(options.meta_data),
        network_config=_read(options.network_config),
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    with os.fdopen(files.open_regular(path), "rb") as file:
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise InputError(f"{path} is larger than {_LIMIT >> 20} MiB: not for a seed")
    return content
