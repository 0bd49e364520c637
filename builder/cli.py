"""The command line: options in, one call, results out. What is done is done elsewhere.

stdout carries results, stderr messages; ``main`` gives the exit status. Modules are imported by the
command that needs them, so that no command waits for another's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperbuild.builder.boot_command import BootCommand, boot_options, warm_options
from hyperbuild.builder.build_command import build
from hyperbuild.builder.console import Console
from hyperbuild.builder.context import read_context
from hyperbuild.builder.distributing import pull, push, rebuild, sbom, verify
from hyperbuild.builder.limiting import limit_options, read_limits, space_option
from hyperbuild.builder.seed_command import seed
from hyperbuild.builder.sharing import authfile_option, pass_context, platform_option
from hyperbuild.builder.store_commands import du, export_command, fsck, import_command, prune, rmi
from hyperbuild.builder.variables import name_variables
from hyperbuild.builder.vm_commands import ALIASES, COMMANDS, inspect_vm
from hyperbuild.builder.volume_command import volume
from hyperbuild.converter.errors import InputError
from hyperbuild.kernel.kconfig import DEFAULT_PROFILE, DISK_PROFILE, PROFILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.builder.context import Context

_profile = click.option(
    "--profile",
    type=click.Choice(tuple(PROFILES)),
    default=DEFAULT_PROFILE,
    show_default=True,
    help="The HyperKernel's profile (see `kernel list`).",
)
_kernel_file = click.option(
    "--kernel",
    "kernel_file",
    type=click.Path(path_type=Path),
    help="An ELF kernel with a PVH entry, instead of the HyperKernel.",
)


def _version() -> str:
    from importlib.metadata import version

    return version("hyperbuild-vm")


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"hyperbuild {_version()}")
        ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr.")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version.",
)  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, quiet: bool, debug: bool) -> None:
    """Turn Docker/OCI images into microVMs that boot in well under a second.

    IMAGE is what docker and skopeo call it: nginx:latest, docker://HOST:PORT/NAME@DIGEST,
    oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF] or docker-daemon:NAME.

    Every option can be set by a variable: HYPERBUILD_QUIET, HYPERBUILD_CONVERT_PLATFORM, …
    """
    ctx.meta["debug"] = debug
    ctx.obj = read_context(os.environ, Console.for_stderr(quiet=quiet))


@cli.command()
@click.argument("image")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR|FILE",
    help="Export rootfs, kernel, initramfs and bundle.json as files into DIR.",
)  # fmt: skip
@click.option(
    "--output-format", type=click.Choice(["raw", "qcow2", "vhd", "iso"]),
    help="Write one FILE instead that a machine with firmware boots from, by profile disk.",
)  # fmt: skip
@click.option(
    "--disk-size", metavar="SIZE", help="How large such a disk is, as in 2G.  [default: as needed]"
)
@click.option(
    "--format", "rootfs_format", type=click.Choice(["erofs", "ext4"]), default="erofs",
    show_default=True, help="Format of the root file system.",
)  # fmt: skip
@click.option("--no-kernel", is_flag=True, help="Make the root file system and bundle.json only.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON description on stdout.")
@click.option(
    "--align", "aligns", is_flag=True,
    help="Begin files of 2 MiB and more at multiples of it, so that huge pages can map them.",
)  # fmt: skip
@click.option(
    "--verify", is_flag=True, help="Read the layers again and compare every file with the result."
)
@click.option(
    "--verity", "with_verity", is_flag=True,
    help="Have the guest's kernel verify what it reads (dm-verity), for disks that others may "
    "write to. Not together with DAX.",
)  # fmt: skip
@_kernel_file
@click.option(
    "--profile", type=click.Choice(tuple(PROFILES)),
    help="The HyperKernel's profile (see `kernel list`).  "
    "[default: dax; disk for --verity and --output-format]",
)  # fmt: skip
@platform_option
@authfile_option
@limit_options
@space_option
@pass_context
def convert(
    context: Context,
    /,
    *,
    image: str,
    output: Path | None,
    rootfs_format: str,
    no_kernel: bool,
    as_json: bool,
    kernel_file: Path | None,
    profile: str | None,
    platform_text: str | None,
    authfile: Path | None,
    aligns: bool,
    verify: bool,
    with_verity: bool,
    output_format: str | None,
    disk_size: str | None,
    **limits: Any,
) -> None:
    """Turn IMAGE into a bundle: its files as a root file system, a kernel and an initramfs.

    The bundle stays in the local store and its digest is the last line of stdout; with -o it is
    written into DIR instead. With --output-format it stays there, and a disk or disc that boots
    is FILE.
    """
    from hyperbuild.builder.converting import Request, convert_image
    from hyperbuild.builder.parts import default_profile

    if no_kernel and kernel_file:
        raise click.UsageError("--no-kernel and --kernel exclude each other.")
    request = Request(
        image,
        platform_text,
        authfile,
        kernel_file,
        profile or (DISK_PROFILE if output_format else default_profile(with_verity=with_verity)),
        with_kernel=not no_kernel,
        rootfs_format=rootfs_format,
        limits=read_limits(limits),
        aligns=aligns,
        verify=verify,
        with_verity=with_verity,
    )
    if output_format:
        from hyperbuild.builder.outputs import convert_to_disk, read_output

        if output is None or no_kernel:
            raise click.UsageError("--output-format needs a kernel, and a file: -o FILE.")
        wanted = read_output(output, output_format, disk_size)
        result = convert_to_disk(context, request, wanted)
    elif disk_size:
        raise click.UsageError("--disk-size is for --output-format alone.")
    else:
        result = convert_image(context, request, output)
    click.echo(result.to_json() if as_json else result.name)


@cli.command(cls=BootCommand)
@click.argument("image", metavar="IMAGE|BUNDLE")
@click.argument("command", nargs=-1, metavar="[CMD]...")
@boot_options
@pass_context
def boot(context: Context, /, **options: Any) -> int:
    """Boot IMAGE, or a BUNDLE (a directory or a digest of `images`), and run its application.

    Options may stand before or after IMAGE; write -- before a CMD that starts with a dash. CMD
    replaces the image's Cmd and follows its Entrypoint, as under docker. The exit status is the
    application's (128+N for death by signal N), 125 if it could not be started, 124 after
    a timeout. With --smoke it is 0 if all that is expected has come, else 1.
    """
    from hyperbuild.builder.booting import BootOptions, boot_image
    from hyperbuild.launcher.budget import parse_budget

    try:
        for text in options["budget"]:
            parse_budget(text)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    return boot_image(context, BootOptions(**options))


@cli.command(cls=BootCommand)
@click.argument("image", metavar="IMAGE|BUNDLE")
@click.argument("command", nargs=-1, metavar="[CMD]...")
@click.option(
    "--when", type=click.Choice(["exec", "listening", "healthy"]), default="exec",
    show_default=True, help="Save it before its application starts, or once it listens or is well.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True,
    metavar="S", help="Give up after S seconds.",
)  # fmt: skip
@warm_options
@pass_context
def warm(context: Context, /, when: str, **options: Any) -> None:
    """Boot IMAGE or a BUNDLE once and save the VM: `boot --warm` starts copies of it.

    Saved before its application starts, a copy takes CMD, -e and all else of its own boot. Saved
    later, it goes on where the application stood: it is for the same CMD and -e alone, and what the
    application had drawn of random numbers by then is the same in all copies.
    """
    from hyperbuild.builder.warming import warm_image

    click.echo(warm_image(context, when, **options))


@cli.command()
@click.argument("name", metavar="VM|IMAGE|BUNDLE")
@click.option(
    "--type", "kind", type=click.Choice(["vm", "image"]),
    help="What NAME is; default: a VM if one is called so, else an image or bundle.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print all of it as a JSON object.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Also draw it as one page that needs nothing else.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(0, 1000), default=10, show_default=True, metavar="N",
    help="How many of the biggest files are listed.",
)  # fmt: skip
@platform_option
@authfile_option
@limit_options
@pass_context
def inspect(
    context: Context,
    /,
    *,
    name: str,
    kind: str | None,
    as_json: bool,
    html: Path | None,
    top: int,
    platform_text: str | None,
    authfile: Path | None,
    **limits: Any,
) -> None:
    """Show what IMAGE or BUNDLE is made of: layers, what they waste, big files, DAX. Or a VM.

    A BUNDLE is a directory of `convert -o`, or the digest or name of one in the store. An IMAGE is
    read, layer by layer, and no root file system is written. It is a VM that is shown if one has
    that name, or an ID that begins with it, by 12 digits or more (see `list --all`).
    """
    if kind != "image" and (
        told := inspect_vm(context, name, surely=kind == "vm", as_json=as_json)
    ):
        click.echo(told)
        return
    from hyperbuild.builder.inspecting import InspectOptions, inspect_name
    from hyperbuild.builder.report_html import write_page
    from hyperbuild.builder.report_text import inspection_as_json, inspection_as_text

    found = inspect_name(
        context, InspectOptions(name, platform_text, authfile, read_limits(limits))
    )
    if html:
        write_page(html, found, top)
        context.console.say(f"{html} is written")
    click.echo(inspection_as_json(found, top) if as_json else inspection_as_text(found, top))


@cli.command()
@pass_context
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def images(context: Context, *, as_json: bool) -> None:
    """List the bundles in the local store."""
    from hyperbuild.builder.report import bundles_as_json, bundles_as_table
    from hyperbuild.builder.stored import list_bundles
    from hyperbuild.kernel.build import cached_kernels

    bundles = list_bundles(context.store())
    profiles = {kernel.digest: kernel.profile for kernel in cached_kernels(context.cache)}
    render = bundles_as_json if as_json else bundles_as_table
    click.echo(render(bundles, profiles))


for command in (
    build, push, pull, verify, rebuild, sbom, rmi, prune, du, fsck, export_command,
    import_command, volume, seed, *COMMANDS,
):  # fmt: skip
    cli.add_command(command)
for other_name, command in ALIASES.items():
    cli.add_command(command, other_name)


@cli.group()
def kernel() -> None:
    """Build and list HyperKernels."""


@kernel.command("build")
@click.option(
    "--source",
    metavar="FILE|DIR|URL",
    help="Linux source; default: Debian's linux-source-6.1 package.",
)
@click.option("--sha256", metavar="HEX", help="Digest of the source; a URL needs it.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1), metavar="N", help="Parallel jobs; default: all CPUs."
)
@_profile
@pass_context
def kernel_build(
    context: Context, *, source: str | None, sha256: str | None, jobs: int | None, profile: str
) -> None:
    """Build the HyperKernel, unless the cache has it, and print its path."""
    from hyperbuild.builder.parts import make_kernel

    made = make_kernel(context, source=source, sha256=sha256, profile=profile, jobs=jobs)
    click.echo(made.path)


@kernel.command("list")
@pass_context
def kernel_list(context: Context) -> None:
    """List the profiles, and the kernels in the cache."""
    from hyperbuild.builder.report import kernels_as_table, profiles_as_table
    from hyperbuild.kernel.build import cached_kernels

    click.echo(profiles_as_table() + "\n\n" + kernels_as_table(cached_kernels(context.cache)))


@kernel.command("explain")
@click.argument("option", metavar="OPTION")
def kernel_explain(option: str) -> None:
    """Print what each profile asks for OPTION (FS_DAX, CONFIG_FS_DAX) and why."""
    from hyperbuild.builder.report import option_as_text

    click.echo(option_as_text(option))


@cli.group()
def initramfs() -> None:
    """Build the initramfs."""


@initramfs.command("build")
@pass_context
def initramfs_build(context: Context) -> None:
    """Build hyperstart and its initramfs, unless the cache has it, and print its path."""
    from hyperbuild.initramfs.build import build_initramfs

    click.echo(build_initramfs(context.cache, progress=context.console).path)


@cli.command()
@pass_context
def doctor(context: Context) -> None:
    """Check what hyperbuild needs on this machine; each problem comes with its remedy."""
    from hyperbuild.builder.doctor import examine, render

    findings = examine(context)
    color = sys.stdout.isatty() and Console.for_stderr(quiet=False).color
    click.echo(render(findings, color=color))
    if not all(finding.is_fine for finding in findings):
        raise SystemExit(1)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: eval "$(hyperbuild completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise InputError(f"no completion for {shell}")
    click.echo(kind(cli, {}, "hyperbuild", "_HYPERBUILD_COMPLETE").source())


name_variables(cli, "HYPERBUILD")


def run_cli(arguments: Sequence[str]) -> int:
    """Run the command that arguments say and return its status; usage errors are told here."""
    try:
        status: Any = cli.main(list(arguments), prog_name="hyperbuild", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status if isinstance(status, int) else 0
