"""What several commands of the command line have in common."""

from __future__ import annotations

from pathlib import Path

import click

from hyperbuild.builder.context import Context

pass_context = click.make_pass_decorator(Context)
authfile_option = click.option(
    "--authfile", type=click.Path(path_type=Path), help="File of registry credentials."
)
platform_option = click.option(
    "--platform", "platform_text", metavar="OS/ARCH[/VARIANT]", help="Default: linux on this CPU."
)
policy_option = click.option(
    "--policy", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Take only what this file allows, by who has signed it.",
)  # fmt: skip
