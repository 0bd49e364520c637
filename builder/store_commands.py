"""The commands that keep the store in order, and carry bundles in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperbuild.builder.sharing import pass_context

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="IMAGE|DIGEST...")
@pass_context
def rmi(context: Context, /, *, names: tuple[str, ...]) -> None:
    """Remove bundles from the store, and the blobs that only they need.

    All are found before any is removed; the names of those removed are printed.
    """
    from hyperbuild.builder.housekeeping import remove_bundles

    for name in remove_bundles(context, names):
        click.echo(name)


@click.command()
@click.option("--images", is_flag=True, help="Also the layers that bundles were made from.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also these layers, and all bundles.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, say how much it would be.")
@pass_context
def prune(context: Context, /, *, images: bool, everything: bool, dry_run: bool) -> None:
    """Remove from the store what no bundle needs, and downloads that were cut.

    It waits until no other command uses the store. What is removed can be fetched or made again.
    """
    from hyperbuild.builder.housekeeping import prune as prune_store
    from hyperbuild.builder.report import mib

    gone = prune_store(context, images=images or everything, bundles=everything, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{gone.count} files {verb}, {mib(gone.size)}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, sizes in bytes.")
@pass_context
def du(context: Context, /, *, as_json: bool) -> None:
    """Show what the store and the cache take on disk, and what of it `prune` can free."""
    from hyperbuild.builder.housekeeping import measure
    from hyperbuild.builder.report_usage import usage_as_json, usage_as_table

    usage = measure(context)
    click.echo(usage_as_json(usage) if as_json else usage_as_table(usage))


@click.command()
@click.option("--repair", is_flag=True, help="Remove what is damaged, and mend the list.")
@pass_context
def fsck(context: Context, /, *, repair: bool) -> int:
    """Read the whole store and check it against its digests and its list of bundles.

    Prints what is wrong, a line each. The status is 1 if something is and was not repaired.
    """
    from hyperbuild.builder.repair import check_store

    problems = check_store(context, mend=repair)
    for problem in problems:
        click.echo(str(problem))
    context.console.say(
        "the store is sound"
        if not problems
        else f"{len(problems)} repaired"
        if repair
        else f"{len(problems)} found; hyperbuild fsck --repair mends the store"
    )
    return int(bool(problems) and not repair)


@click.command("export")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE|DIGEST...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True,
    metavar="FILE", help="FILE.tar, or FILE.tar.zst to compress it; - is stdout.",
)  # fmt: skip
@pass_context
def export_command(context: Context, /, *, names: tuple[str, ...], output: Path) -> None:
    """Write bundles of the store into one file, for `import` at a place without a network.

    The file is an OCI archive, which skopeo reads too.
    """
    from hyperbuild.builder.archiving import export_bundles
    from hyperbuild.builder.report import mib

    size = export_bundles(context, names, output)
    if size:
        context.console.say(f"{output}: {mib(size)}")


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE")
@pass_context
def import_command(context: Context, /, *, source: Path) -> None:
    """Bring the bundles of a FILE that `export` wrote (-: stdin) into the store.

    Each blob is checked against its digest. The digests that `images` lists are printed.
    """
    from hyperbuild.builder.archiving import import_bundles

    for bundle in import_bundles(context, source):
        context.console.say(bundle.name)
        click.echo(bundle.digest)
