"""``hyperbuild seed`` as a command of click."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperbuild.builder.sharing import pass_context

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="The ISO.")
@click.option(
    "--layout", type=click.Choice(["nocloud", "config-drive"]), default="nocloud",
    show_default=True, help="As cloud-init's NoCloud, or as OpenStack has it.",
)  # fmt: skip
@click.option("--hostname", default="", metavar="NAME", help="The machine's host name.")
@click.option(
    "-e", "--env", multiple=True, metavar="NAME[=VALUE]",
    help="A variable of the application, beside the image's or in place of it.",
)  # fmt: skip
@click.option(
    "--env-file", multiple=True, type=_FILE, metavar="FILE", help="A file of such variables."
)
@click.option("--dns", multiple=True, metavar="IP", help="A name server instead of the network's.")
@click.option("--user-data", type=_FILE, metavar="FILE", help="For cloud-init in the image.")
@click.option("--meta-data", type=_FILE, metavar="FILE", help="The same; default: made up.")
@click.option("--network-config", type=_FILE, metavar="FILE", help="The same.")
@pass_context
def seed(context: Context, /, **options: Any) -> None:
    """Write an ISO that tells a machine who it is: for disks of `convert --output-format`.

    Many machines may boot one disk. Each finds its host name and variables on the ISO that it has
    as a second drive. --user-data, --meta-data and --network-config are put there as they are, for
    images that read them.
    """
    from hyperbuild.builder.seeding import SeedOptions, make_seed

    make_seed(context, SeedOptions(**options))
    click.echo(options["output"])
