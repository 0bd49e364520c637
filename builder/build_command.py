"""``hyperbuild build`` as a command of click."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperbuild.builder.sharing import authfile_option, pass_context

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context


@click.command()
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@click.option(
    "--set", "changes", multiple=True, metavar="[TABLE.]KEY=VALUE",
    help="Change the recipes: image=nginx:1.25, boot.memory=64M, smoke.port=[80].",
)  # fmt: skip
@click.option("--no-smoke", is_flag=True, help="Keep the bundle untested.")
@click.option(
    "--propose-profile", is_flag=True,
    help="Print the smallest kernel profile that the smoke test holds with; keep nothing.",
)  # fmt: skip
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes.")
@click.option(
    "--report", multiple=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Report the smoke test in FILE.xml, FILE.json or FILE.html.",
)  # fmt: skip
@click.option(
    "--console-log", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where to keep what a VM said that failed its smoke test.",
)  # fmt: skip
@click.option(
    "--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True,
    envvar="HYPERBUILD_ACCEL", help="Hardware virtualization or emulation.",
)  # fmt: skip
@authfile_option
@pass_context
def build(
    context: Context,
    /,
    *,
    recipes: tuple[str, ...],
    no_smoke: bool,
    propose_profile: bool,
    schema: bool,
    **options: Any,
) -> None:
    """Build bundles by RECIPEs: files NAME.toml, or names of shipped ones.

    A recipe with a [smoke] table has its bundle booted and tested; it is kept if the test holds.
    stdout has each bundle's directory or digest.
    """
    from hyperbuild.builder import building

    if schema:
        from hyperbuild.recipes.fields import json_schema

        click.echo(json.dumps(json_schema(), indent=2))
        return
    if not recipes:
        raise click.UsageError("Missing argument 'RECIPE...'.")
    chosen = building.BuildOptions(with_smoke=not no_smoke, **options)
    if propose_profile:
        for name in recipes:
            click.echo(building.propose_profile(context, name, chosen))
        return
    for made in building.build_recipes(context, recipes, chosen):
        click.echo(made)
