"""``hyperbuild volume``: named volumes, listed, made and removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from hyperbuild.builder.sharing import pass_context

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context


@click.group()
def volume() -> None:
    """List, make and remove the named volumes of `boot -v NAME:DST`."""


@volume.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@pass_context
def volume_ls(context: Context, *, as_json: bool) -> None:
    """List the volumes: how large each may become, what it takes now, and whether a VM has it."""
    from hyperbuild.builder.report import table
    from hyperbuild.launcher.volumes import list_volumes

    volumes = list_volumes(context.volumes)
    if as_json:
        fields = ("name", "size", "used", "in_use")
        click.echo(json.dumps([{key: getattr(each, key) for key in fields} for each in volumes]))
        return
    rows = (
        (each.name, f"{each.size >> 20} MiB", f"{each.used >> 20} MiB", "yes" * each.in_use)
        for each in volumes
    )
    click.echo(table(("VOLUME", "SIZE", "USED", "IN USE"), rows, right=(1, 2)))


@volume.command("create")
@click.argument("name")
@click.option(
    "--size", metavar="SIZE", default="10G", show_default=True, help="How large it may become."
)
@pass_context
def volume_create(context: Context, name: str, size: str) -> None:
    """Make the volume NAME, empty, and print its name. It takes what is used of it."""
    from hyperbuild.launcher.machine import parse_disk_size
    from hyperbuild.launcher.volumes import create_volume

    path = context.environment.get("PATH", "")
    create_volume(context.volumes, name, parse_disk_size(size), path)
    click.echo(name)


@volume.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@pass_context
def volume_rm(context: Context, names: tuple[str, ...]) -> None:
    """Remove volumes and all that is in them; one that a VM uses stays."""
    from hyperbuild.launcher.volumes import remove_volume

    for name in names:
        remove_volume(context.volumes, name)
        click.echo(name)
