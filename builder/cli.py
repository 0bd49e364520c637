"""The command line: options in, one call, results out. What is done is done elsewhere.

stdout carries results, stderr messages. Exit status: 0, 1 for a failure told in one line, 2 for
usage; ``boot`` has the guest's own, or 125 for a failure of ours. Modules are imported by the
command that needs them, so that no command waits for another's.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperbuild.builder.console import Console
from hyperbuild.builder.context import Context, read_context
from hyperbuild.builder.limiting import limit_options, read_limits, space_option
from hyperbuild.converter.errors import HyperbuildError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOT_FAILURE = 125
INTERRUPTED = 130

_pass_context = click.make_pass_decorator(Context)
_authfile = click.option(
    "--authfile", type=click.Path(path_type=Path), help="File of registry credentials."
)
_platform = click.option(
    "--platform", "platform_text", metavar="OS/ARCH[/VARIANT]", help="Default: linux on this CPU."
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


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HYPERBUILD"},
)
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
    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    ctx.obj = read_context(os.environ, Console(quiet=quiet, color=color))


@cli.command()
@click.argument("image")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
    help="Export rootfs, kernel, initramfs and bundle.json as files into DIR.",
)  # fmt: skip
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
@_kernel_file
@_platform
@_authfile
@limit_options
@space_option
@_pass_context
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
    platform_text: str | None,
    authfile: Path | None,
    aligns: bool,
    verify: bool,
    **limits: Any,
) -> None:
    """Turn IMAGE into a bundle: its files as a root file system, a kernel and an initramfs.

    The bundle stays in the local store and its digest is the last line of stdout; with -o it is
    written into DIR instead.
    """
    from hyperbuild.builder.converting import Request, convert_image

    if no_kernel and kernel_file:
        raise click.UsageError("--no-kernel and --kernel exclude each other.")
    result = convert_image(
        context,
        Request(
            image,
            platform_text,
            authfile,
            kernel_file,
            with_kernel=not no_kernel,
            rootfs_format=rootfs_format,
            limits=read_limits(limits),
            aligns=aligns,
            verify=verify,
        ),
        output,
    )
    click.echo(result.to_json() if as_json else result.name)


class _BootCommand(click.Command):
    """Takes options before and after IMAGE; from the first word behind them on, all is CMD."""

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        image = self._options_end(args)
        if image < len(args) and args[image] != "--":
            command = image + 1 + self._options_end(args[image + 1 :])
            rest = args[command + 1 :] if args[command : command + 1] == ["--"] else args[command:]
            args = [*args[:image], *args[image + 1 : command], "--", args[image], *rest]
        return super().parse_args(ctx, args)

    def _options_end(self, args: list[str]) -> int:
        """Count the words, options and their values, before the first that is neither."""
        position = 0
        while position < len(args) and len(args[position]) > 1 and args[position][0] == "-":
            if args[position] == "--":
                break
            position += 2 if self._wants_value(args[position]) else 1
        return min(position, len(args))

    def _wants_value(self, word: str) -> bool:
        """Tell whether the value of the option (or the last of a cluster) is the next word."""
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        if word.startswith("--"):
            return word in valued
        first = next((at for at, letter in enumerate(word[1:], 1) if f"-{letter}" in valued), 0)
        return first == len(word) - 1


@cli.command(cls=_BootCommand)
@click.argument("image", metavar="IMAGE|BUNDLE")
@click.argument("command", nargs=-1, metavar="[CMD]...")
@click.option(
    "-p",
    "--publish",
    multiple=True,
    metavar="[IP:]HOST:GUEST[/udp]",
    help="Forward a host port to the guest.",
)
@click.option(
    "-e", "--env", multiple=True, metavar="K[=V]", help="Set a variable; K alone takes the host's."
)
@click.option("-m", "--memory", default="256M", show_default=True, metavar="SIZE", help="RAM.")
@click.option("--cpus", type=click.IntRange(1), default=1, show_default=True, help="CPUs.")
@click.option("--hostname", default="", help="Host name of the guest; default: random.")
@click.option(
    "--network",
    type=click.Choice(["user", "none"]),
    default="user",
    show_default=True,
    help="The guest's network.",
)
@click.option("-i", "--interactive", is_flag=True, help="Pass stdin on to the application.")
@click.option(
    "--pull",
    type=click.Choice(["missing", "always"]),
    default="missing",
    show_default=True,
    help="Ask the registry only for what is not in the store, or always.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Stop the guest after S seconds, with status 124.",
)
@click.option(
    "--rootfs",
    "rootfs_as",
    type=click.Choice(["dax", "blk"]),
    default="dax",
    show_default=True,
    help="Map the root file system (persistent memory), or read it as a block device.",
)
@click.option("--require-dax", is_flag=True, help="Fail unless the guest proves that DAX works.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write the boot timeline into FILE.json.",
)
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    envvar="HYPERBUILD_ACCEL",
    help="Hardware virtualization or emulation.",
)
@_kernel_file
@_platform
@_authfile
@_pass_context
def boot(context: Context, /, **options: Any) -> int:
    """Boot IMAGE, or a BUNDLE (a directory or a digest of `images`), and run its application.

    Options may stand before or after IMAGE; write -- before a CMD that starts with a dash. CMD
    replaces the image's Cmd and follows its Entrypoint, as under docker. The exit status is the
    application's (128+N for death by signal N), 125 if it could not be started, 124 after
    a timeout.
    """
    from hyperbuild.builder.booting import BootOptions, boot_image

    return boot_image(context, BootOptions(**options))


@cli.command()
@click.argument("name", metavar="IMAGE|BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as a JSON object.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Also draw it as one page that needs nothing else.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(0, 1000), default=10, show_default=True, metavar="N",
    help="How many of the biggest files are listed.",
)  # fmt: skip
@_platform
@_authfile
@limit_options
@_pass_context
def inspect(
    context: Context,
    /,
    *,
    name: str,
    as_json: bool,
    html: Path | None,
    top: int,
    platform_text: str | None,
    authfile: Path | None,
    **limits: Any,
) -> None:
    """Show what IMAGE or BUNDLE is made of: layers, what they waste, big files, DAX.

    A BUNDLE is a directory of `convert -o`, or the digest or name of one in the store. An IMAGE is
    read, layer by layer, and no root file system is written.
    """
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
@_pass_context
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def images(context: Context, *, as_json: bool) -> None:
    """List the bundles in the local store."""
    from hyperbuild.builder.bundling import list_bundles
    from hyperbuild.builder.report import bundles_as_json, bundles_as_table

    bundles = list_bundles(context.store())
    click.echo(bundles_as_json(bundles) if as_json else bundles_as_table(bundles))


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
@click.option("-j", "--jobs", type=click.IntRange(1), help="Parallel jobs; default: all CPUs.")
@_pass_context
def kernel_build(
    context: Context, *, source: str | None, sha256: str | None, jobs: int | None
) -> None:
    """Build the HyperKernel, unless the cache has it, and print its path."""
    from hyperbuild.builder.parts import make_kernel

    click.echo(make_kernel(context, source=source, sha256=sha256, jobs=jobs).path)


@kernel.command("list")
@_pass_context
def kernel_list(context: Context) -> None:
    """List the kernels in the cache."""
    from hyperbuild.builder.report import kernels_as_table
    from hyperbuild.kernel.build import cached_kernels

    click.echo(kernels_as_table(cached_kernels(context.cache)))


@cli.group()
def initramfs() -> None:
    """Build the initramfs."""


@initramfs.command("build")
@_pass_context
def initramfs_build(context: Context) -> None:
    """Build hyperstart and its initramfs, unless the cache has it, and print its path."""
    from hyperbuild.initramfs.build import build_initramfs

    click.echo(build_initramfs(context.cache, progress=context.console).path)


@cli.command()
@_pass_context
def doctor(context: Context) -> None:
    """Check what hyperbuild needs on this machine; each problem comes with its remedy."""
    from hyperbuild.builder.doctor import examine, render

    findings = examine(context)
    click.echo(render(findings, color=sys.stdout.isatty() and context.console.color))
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    _open_standard_files()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _terminate(number: int, _: object) -> None:
    """Leave by an exception, so that everything half-made is taken back on the way out."""
    raise SystemExit(128 + number)


def _open_standard_files() -> None:
    """Put /dev/null where a standard descriptor is closed: the next file opened would take it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run(arguments: list[str]) -> int:
    command = next((word for word in arguments if not word.startswith("-")), "")
    failure = BOOT_FAILURE if command == "boot" else 1
    try:
        status: Any = cli.main(arguments, prog_name="hyperbuild", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failure
    except HyperbuildError as error:
        return _fail(error, str(error), max(failure, error.exit_status), arguments)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(error, f"{place}{error.strerror or error}", failure, arguments)
    except Exception as error:
        text = f"a defect of hyperbuild ({type(error).__name__}: {error}); report it with --debug"
        return _fail(error, text, failure, arguments)
    return status if isinstance(status, int) else 0


def _fail(error: Exception, text: str, status: int, arguments: list[str]) -> int:
    from hyperbuild.converter.errors import printable

    if "--debug" in arguments or os.environ.get("HYPERBUILD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    print(f"Error: {printable(text)}", file=sys.stderr)
    return status
