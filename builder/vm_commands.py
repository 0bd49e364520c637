"""The commands for VMs that run by themselves: options in, one call, results out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperbuild.builder.boot_command import BootCommand, run_command_options
from hyperbuild.builder.sharing import pass_context
from hyperbuild.converter.errors import (
    ContentError,
    HyperbuildError,
    InputError,
    NotFoundError,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.builder.context import Context
    from hyperbuild.launcher.instances import Instance, Instances

_names = click.argument("names", nargs=-1, required=True, metavar="VM...")
_container = click.option(
    "-c",
    "--container",
    default="",
    metavar="NAME",
    help="A container of a pod; default: the first.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")


@click.command(cls=BootCommand)
@click.argument("image", metavar="IMAGE|BUNDLE")
@click.argument("command", nargs=-1, metavar="[CMD]...")
@run_command_options
@pass_context
def run(context: Context, /, **options: Any) -> int:
    """Run IMAGE or a BUNDLE in a VM that can be listed, looked at and stopped by its name.

    Without -d its output comes here, signals go to its application, and the exit status is the
    application's; the VM goes on if this command is killed. With -d its ID is printed once the
    application is started. Options are as for `boot`.
    """
    from hyperbuild.builder.running import run_image, run_options
    from hyperbuild.launcher.budget import parse_budget

    try:
        for text in options["budget"]:
            parse_budget(text)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    return run_image(context, run_options(options))


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("-d", "--detach", is_flag=True, help="Return once all containers are started.")
@click.option("--name", default="", help="A name to call the VM by; default: the file's.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove the VM once it has ended.")
@click.option(
    "-p", "--publish", multiple=True, metavar="PORT", help="Publish one more port, as `run -p`."
)
@click.option("-m", "--memory", metavar="SIZE", help="RAM of the VM, instead of the file's.")
@click.option(
    "--pull",
    type=click.Choice(("missing", "always")),
    default="missing",
    show_default=True,
    help="Whether to look for newer images.",
)
@click.option(
    "--log-size",
    default="20M",
    show_default=True,
    metavar="SIZE",
    help="What its log may take of the disk; the oldest goes.",
)
@click.option(
    "--authfile", type=click.Path(path_type=Path, dir_okay=False), help="Credentials file."
)
@pass_context
def pod(context: Context, /, **options: Any) -> int:
    """Run the containers of FILE in one VM: a pod, in TOML or as a Kubernetes Pod in YAML.

    They share network and memory, each has its image's files. Without -d their output comes here,
    each line behind its container's name; the exit status is the first one's that is not 0.
    """
    from hyperbuild.builder.podding import PodOptions, run_pod

    return run_pod(context, PodOptions(**options))


@click.command("list")
@click.option("-a", "--all", "with_ended", is_flag=True, help="Also those that have ended.")
@click.option("-q", "--quiet", "ids_only", is_flag=True, help="Print IDs only.")
@_json
@pass_context
def list_vms(context: Context, *, with_ended: bool, ids_only: bool, as_json: bool) -> None:
    """List the VMs that run, the youngest first."""
    from hyperbuild.builder.vm_report import instances_as_json, instances_as_table

    found = [one for one in context.instances().all() if with_ended or not one.is_over]
    if ids_only:
        click.echo("".join(f"{one.short_id}\n" for one in found), nl=False)
    else:
        click.echo(instances_as_json(found) if as_json else instances_as_table(found))


@click.command()
@click.argument("name", metavar="VM")
@click.option("-f", "--follow", is_flag=True, help="Go on until the VM has ended.")
@click.option(
    "-n", "--tail", type=click.IntRange(0), metavar="N", help="Begin with the last N lines."
)
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option(
    "-c", "--container", default="", metavar="NAME", help="Only a container of a pod: not all."
)
@click.option(
    "--since", metavar="TIME",
    help="Begin at a time (2026-11-26T20:00:00Z, or seconds since 1970) or so long ago (90s, 10m, "
    "2h).",
)  # fmt: skip
@pass_context
def logs(
    context: Context, *, name: str, follow: bool, tail: int | None, timestamps: bool,
    since: str | None, container: str,
) -> None:  # fmt: skip
    """Print what a VM's application wrote: its stdout to stdout, its stderr to stderr."""
    from hyperbuild.builder.vm_logs import LogOptions, parse_since, print_log

    instances = context.instances()
    options = LogOptions(follow, tail, timestamps, parse_since(since) if since else 0, container)
    print_log(instances, instances.find(name), options)


@click.command()
@click.option(
    "-t", "--time", "grace", type=click.FloatRange(0, 1 << 20), metavar="S",
    help="Seconds until an application that does not stop is killed.  [default: 10]",
)  # fmt: skip
@_names
@pass_context
def stop(context: Context, *, grace: float | None, names: tuple[str, ...]) -> int:
    """Stop VMs: the image's stop signal, and SIGKILL if that does not help."""
    from hyperbuild.launcher.client import stop as stop_vm

    return _for_each(context, names, lambda all_, one: stop_vm(all_, one, grace))


@click.command()
@click.option(
    "-s", "--signal", "text", default="KILL", show_default=True, metavar="SIG",
    help="A signal by its name or number.",
)  # fmt: skip
@click.option(
    "-c",
    "--container",
    default="",
    metavar="NAME",
    help="Only to a container of a pod: not to all.",
)
@_names
@pass_context
def kill(context: Context, *, text: str, container: str, names: tuple[str, ...]) -> int:
    """Send a signal to the applications of VMs."""
    from hyperbuild.launcher.client import kill as kill_vm

    number = _signal_number(text)
    return _for_each(context, names, lambda all_, one: kill_vm(all_, one, number, container))


@click.command()
@click.option("-f", "--force", is_flag=True, help="Kill those that run.")
@_names
@pass_context
def rm(context: Context, *, force: bool, names: tuple[str, ...]) -> int:
    """Remove VMs that have ended, and their logs."""
    from hyperbuild.launcher.client import remove

    return _for_each(context, names, lambda all_, one: remove(all_, one, force=force))


@click.command()
@_names
@pass_context
def wait(context: Context, *, names: tuple[str, ...]) -> int:
    """Wait until VMs have ended, and print the exit status of each."""
    from hyperbuild.launcher.client import wait as wait_for

    def show(instances: Instances, one: Instance) -> None:
        click.echo(wait_for(instances, one))

    return _for_each(context, names, show, shows_name=False)


def _without_dashes(
    _context: click.Context, parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """Drop a -- between VM and CMD, as between an image and its CMD."""
    words = words[1:] if words[:1] == ("--",) else words
    if not words:
        raise click.MissingParameter(param=parameter)
    return words


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass stdin on to the command.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal, of the size of this one.")
@click.option("-d", "--detach", is_flag=True, help="Return once it is started.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Run in this directory.")
@click.option(
    "-e", "--env", multiple=True, metavar="K[=V]", help="Set a variable; K alone takes the host's."
)
@_container
@click.argument("name", metavar="VM")
@click.argument(
    "command", nargs=-1, required=True, metavar="CMD...", type=click.UNPROCESSED,
    callback=_without_dashes,
)  # fmt: skip
@pass_context
def execute(context: Context, /, *, name: str, env: tuple[str, ...], **options: Any) -> int:
    """Run CMD in a VM that runs. Options stand before VM; the exit status is CMD's.

    It is 126 or 127 if CMD can't be executed or is not there, and 137 if the VM ends before it.
    """
    from hyperbuild.builder.executing import ExecOptions
    from hyperbuild.builder.executing import execute as execute_in
    from hyperbuild.launcher.machine import parse_env

    variables = tuple(parse_env(text, context.environment) for text in env)
    instances = context.instances()
    return execute_in(instances, instances.find(name), ExecOptions(env=variables, **options))


@click.command()
@_container
@click.argument("source", metavar="VM:PATH|PATH|-")
@click.argument("target", metavar="PATH|-|VM:PATH")
@pass_context
def cp(context: Context, *, source: str, target: str, container: str) -> None:
    """Copy files out of a VM that runs, or into it; - is a tar archive on stdout or from stdin.

    A directory that is there takes what is copied into it, as with cp; DIR/. is what is in DIR.
    """
    from hyperbuild.builder.copying import copy

    copy(context.instances(), source, target, context.console, container)


@click.command()
@click.option("--no-stream", is_flag=True, help="Print once, instead of again and again.")
@_json
@click.argument("names", nargs=-1, metavar="[VM]...")
@pass_context
def stats(context: Context, *, no_stream: bool, as_json: bool, names: tuple[str, ...]) -> None:
    """Show what VMs use of the host: CPU, and memory as far as it is theirs alone (PSS)."""
    from hyperbuild.builder.vm_stats import show_stats

    show_stats(context.instances(), names, once=no_stream or as_json, as_json=as_json)


COMMANDS = (run, pod, list_vms, execute, cp, logs, stop, kill, rm, wait, stats)
#: Other names of commands, as docker has them.
ALIASES = {"ps": list_vms}


def inspect_vm(context: Context, name: str, *, surely: bool, as_json: bool) -> str:
    """Return what there is to say of the VM called name; "" if there is none, unless it surely is.

    Where it may be an image as well, the beginning of an ID must be as long as `list` prints it.
    """
    from hyperbuild.builder.vm_report import instance_as_json, instance_as_text
    from hyperbuild.launcher.instances import ID_SHOWN

    try:
        found = context.instances().find(name, least=1 if surely else ID_SHOWN)
    except NotFoundError:
        if surely:
            raise
        return ""
    return instance_as_json(found) if as_json else instance_as_text(found)


def _for_each(
    context: Context,
    names: tuple[str, ...],
    call: Callable[[Instances, Instance], object],
    *,
    shows_name: bool = True,
) -> int:
    """Call call for each VM; one that fails is told of and does not keep the others from it."""
    instances = context.instances()
    failed = 0
    for name in names:
        try:
            call(instances, instances.find(name))
        except HyperbuildError as error:
            failed = 1
            print(f"Error: {printable(str(error))}", file=sys.stderr)
        else:
            if shows_name:
                click.echo(name)
    return failed


def _signal_number(text: str) -> int:
    from hyperbuild.builder.process import parse_signal

    try:
        return parse_signal(text, "").number
    except ContentError:
        raise InputError(
            f"{printable(text)} is no signal; say TERM, HUP, 9 or RTMIN+3, for some"
        ) from None
