"""``hyperbuild build`` as a command of click."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from hyperbuild.builder.sharing import authfile_option, pass_context

if TYPE_CHECKING:
    from hyperbuild.builder.building import BuildOptions
    from hyperbuild.builder.context import Context
    from hyperbuild.builder.fleet import FleetOptions


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
@click.option(
    "--scheduler", metavar="tcp://HOST:PORT",
    help="Have the workers of this Dask scheduler build, and attach the bundles to their images.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1, 1000), metavar="N",
    help="The same with N workers on this machine; default with --images: one for each CPU.",
)  # fmt: skip
@click.option(
    "--images", type=click.File(encoding="utf-8"), metavar="FILE",
    help="Build RECIPEs for each of the images that FILE names, one a line; - is stdin.",
)  # fmt: skip
@click.option(
    "--sign", "sign_with", type=click.Path(path_type=Path, dir_okay=False), metavar="KEY",
    help="Have a fleet's bundles signed by this private key (PEM), here.",
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
    scheduler: str | None,
    workers: int | None,
    images: IO[str] | None,
    sign_with: Path | None,
    **options: Any,
) -> None:
    """Build bundles by RECIPEs: files NAME.toml, or names of shipped ones.

    A recipe with a [smoke] table has its bundle booted and tested; it is kept if the test holds.
    stdout has each bundle's directory or digest.

    With --scheduler, --workers or --images a fleet of workers builds, several images at once. The
    bundles are attached to their images in the registries, and what is attached there already is
    not built again. stdout has a line for each image: its name, and where its bundle is.
    """
    from hyperbuild.builder import building

    if schema:
        from hyperbuild.recipes.fields import json_schema

        click.echo(json.dumps(json_schema(), indent=2))
        return
    if not recipes:
        raise click.UsageError("Missing argument 'RECIPE...'.")
    chosen = building.BuildOptions(with_smoke=not no_smoke, **options)
    if scheduler or workers or images:
        from hyperbuild.builder.fleet import FleetOptions
        from hyperbuild.builder.fleet_plan import read_names

        _check_words(scheduler, workers, propose_profile, chosen)
        listed = read_names(images.read(), images.name) if images else []
        workers = workers or os.cpu_count() or 1
        fleet = FleetOptions(chosen, scheduler, workers, tuple(listed), sign_with)
        _build_fleet(context, recipes, fleet)
        return
    if sign_with:
        raise click.UsageError("--sign is for a fleet; one bundle is signed by push --sign.")
    if propose_profile:
        for name in recipes:
            click.echo(building.propose_profile(context, name, chosen))
        return
    for made in building.build_recipes(context, recipes, chosen):
        click.echo(made)


def _check_words(
    scheduler: str | None, workers: int | None, proposes: bool, options: BuildOptions
) -> None:
    """Raise UsageError for what is no fleet's."""
    if scheduler and workers:
        raise click.UsageError("--scheduler and --workers exclude each other.")
    for option, is_given in (
        ("--propose-profile", proposes), ("--console-log", options.console_log),
    ):  # fmt: skip
        if is_given:
            raise click.UsageError(f"{option} is for one recipe on this machine, not a fleet.")


def _build_fleet(context: Context, recipes: tuple[str, ...], options: FleetOptions) -> None:
    """Have a fleet build; print its results, then a line for each image that failed."""
    from tqdm import tqdm

    from hyperbuild.builder.fleet import build_fleet

    # Made now: an interrupt while it is made would be shown as another error.
    tqdm.get_lock()  # type: ignore[no-untyped-call]
    failed = []
    # Closed at once if it is left early: workers end what they do for us.
    with closing(build_fleet(context, recipes, options)) as results:
        for result in results:
            if result.outcome.error:
                failed.append(result)
            else:
                # Where bars are drawn, the line has to stand above them.
                tqdm.write(f"{result.image} {result.outcome.bundle}", file=sys.stdout)
                sys.stdout.flush()
    for result in failed:
        click.echo(f"Error: {result.described()}", err=True)
    if failed:
        raise SystemExit(1)
