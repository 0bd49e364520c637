"""``hyperbuild boot``: from what the user typed to the exit status of the guest's application."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hyperbuild.builder.locating import find_stored, is_finished, open_finished
from hyperbuild.converter.errors import InputError, UnavailableError
from hyperbuild.launcher.machine import (
    Accel,
    MachineOptions,
    check_options,
    parse_env,
    parse_memory,
    parse_port,
)
from hyperbuild.launcher.timeline import process_start
from hyperbuild.launcher.vm import Streams, run_vm

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.timeline import Timeline


@dataclass(frozen=True, slots=True)
class BootOptions:
    """The command's arguments and options, as the user wrote them."""

    image: str
    command: tuple[str, ...]
    publish: tuple[str, ...]
    env: tuple[str, ...]
    memory: str
    cpus: int
    hostname: str
    network: str
    interactive: bool
    timeout: float | None
    rootfs_as: str
    require_dax: bool
    report: Path | None
    accel: str
    pull: str
    kernel_file: Path | None
    platform_text: str | None
    authfile: Path | None


def boot_image(context: Context, options: BootOptions) -> int:
    """Boot what options name and return the status to exit with; errors as for ``run_vm``."""
    started = process_start()
    machine = _machine_options(context, options)
    check_options(machine)
    files = _find(context, options)
    result = run_vm(
        files,
        machine,
        search_path=context.environment.get("PATH", ""),
        streams=Streams(stdin=0 if options.interactive else None),
        progress=context.console,
        started=started,
        on_started=lambda timeline: context.console.say(_summary(timeline)),
    )
    if options.report:
        _write_report(options.report, result.timeline)
    return result.status


def _machine_options(context: Context, options: BootOptions) -> MachineOptions:
    return MachineOptions(
        memory=parse_memory(options.memory),
        cpus=options.cpus,
        ports=tuple(parse_port(text) for text in options.publish),
        env=tuple(parse_env(text, context.environment) for text in options.env),
        args=options.command,
        hostname=options.hostname,
        network=options.network == "user",
        dax=options.rootfs_as == "dax",
        require_dax=options.require_dax,
        accel=Accel(options.accel),
        timeout=options.timeout,
    )


def _find(context: Context, options: BootOptions) -> BundleFiles:
    """Open a directory or a stored bundle; convert an image that is neither."""
    if is_finished(options.image):
        _refuse_image_options(options)
        return open_finished(context, options.image)
    if options.pull == "missing" and not options.kernel_file and not options.platform_text:
        found = find_stored(context, options.image)
        if found and found.kernel:
            return found
    from hyperbuild.builder.converting import Request, stored_bundle

    return stored_bundle(
        context,
        Request(options.image, options.platform_text, options.authfile, options.kernel_file),
    ).files


def _refuse_image_options(options: BootOptions) -> None:
    """Say so where options choose what a finished bundle has settled."""
    given = {
        "--kernel": options.kernel_file,
        "--platform": options.platform_text,
        "--authfile": options.authfile,
        "--pull always": options.pull == "always",
    }
    for name, value in given.items():
        if value:
            raise InputError(
                f"{name} is for images, and {options.image} is a finished bundle; "
                "drop it or convert the image with it"
            )


def _summary(timeline: Timeline) -> str:
    """Say on one line when the application was started, and what the time went into."""
    steps = timeline.steps()
    parts = [
        f"{step.name} +{(step.nanoseconds - before.nanoseconds) / 1e6:.0f}"
        for before, step in pairwise(steps)
    ]
    total = (steps[-1].nanoseconds - steps[0].nanoseconds) / 1e6
    return f"application started after {total:.0f} ms ({', '.join(parts)})"


def _write_report(path: Path, timeline: Timeline) -> None:
    try:
        path.write_text(timeline.to_json())
    except OSError as error:
        raise UnavailableError(f"cannot write the report {path}: {error.strerror}") from error
