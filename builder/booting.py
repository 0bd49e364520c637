"""``hyperbuild boot``: from what the user typed to the exit status of the guest's application."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from hyperbuild.builder.locating import find_stored, hinting, is_finished, open_finished
from hyperbuild.converter.errors import InputError, UsageError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.bundle import PROTOCOL_VERSION
from hyperbuild.launcher.machine import (
    Accel,
    MachineOptions,
    check_options,
    parse_disk,
    parse_env,
    parse_memory,
    parse_workdir,
)
from hyperbuild.launcher.network import parse_host, parse_nameserver, parse_network
from hyperbuild.launcher.ports import parse_ports
from hyperbuild.launcher.timeline import Timeline, process_start
from hyperbuild.launcher.vm import Streams, WarmStart, Watch, run_vm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.defaults import BootDefaults
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.mounts import Mount


DEFAULT_MEMORY = "256M"
DEFAULT_NETWORK = "user"


class BootOptions(Record):
    """The command's arguments and options, as the user wrote them.

    ``bundled_env`` is what the bundle sets before all that the user does.
    """

    image: str
    command: tuple[str, ...]
    publish: tuple[str, ...]
    publish_all: bool
    volume: tuple[str, ...]
    tmpfs: tuple[str, ...]
    read_only: bool
    user: str | None
    workdir: str | None
    entrypoint: str | None
    env: tuple[str, ...]
    env_file: tuple[Path, ...]
    memory: str | None
    cpus: int | None
    hostname: str
    network: str | None
    ip: str | None
    gateway: str | None
    dns: tuple[str, ...]
    add_host: tuple[str, ...]
    interactive: bool
    tty: bool
    timeout: float | None
    rootfs_as: str | None
    require_dax: bool
    warm: bool
    require_warm: bool
    health_command: str
    disk: str | None
    report: tuple[Path, ...]
    budget: tuple[str, ...]
    accel: str
    pull: str
    profile: str | None
    kernel_file: Path | None
    platform_text: str | None
    authfile: Path | None
    policy: Path | None
    smoke: bool
    expect_http: tuple[str, ...]
    expect_port: tuple[int, ...]
    expect_log: tuple[str, ...]
    expect_exit: int | None
    console_log: Path | None
    bundled_env: tuple[str, ...] = ()


def boot_image(context: Context, options: BootOptions) -> int:
    """Boot what options name and return the status to exit with; errors as for ``run_vm``.

    The report is written whatever comes of the boot.
    """
    if options.smoke:
        from hyperbuild.builder.smoking import smoke_image

        return smoke_image(context, options)
    timeline = Timeline()
    timeline.mark("start", process_start())
    with usage():
        _refuse_smoke_options(options)
        check_terminal(interactive=options.interactive, tty=options.tty)
        check_words(options)
        budgets = budgets_of(options)
        machine = machine_options(context, options, budgets)
    with ExitStack() as stack:
        lease = stack.enter_context(leased(context, options.image))
        files, machine = find_both(context, options, machine, budgets)
        if options.report:
            from hyperbuild.builder.boot_report import reported

            reference = files.bundle.image.reference
            stack.enter_context(reported(options.report, reference, timeline, budgets))
        streams = Streams(stdin=0 if options.interactive else None)
        make_raw = None
        if options.tty:
            from hyperbuild.launcher.terminal import find_terminal, raw_on_demand

            streams = streams.replace(terminal=find_terminal(1, 0))
            make_raw = stack.enter_context(raw_on_demand(0)) if options.interactive else None

        def start(timeline: Timeline) -> None:
            """Say so, and leave the terminal to the application, and the store to others."""
            lease.close()
            context.console.say(summary(timeline, counting=machine.counting))
            if make_raw:
                make_raw()

        result = run_vm(
            files,
            machine,
            search_path=context.environment.get("PATH", ""),
            streams=streams,
            watch=Watch(timeline, context.console, budgets, on_started=start),
            warm=warm_start(context, options),
        )
    if result.has_timed_out:
        context.console.warn(
            f"the application had not ended after --timeout {options.timeout:g} s, and was stopped"
        )
    return result.status


@contextmanager
def usage() -> Iterator[None]:
    """Make an InputError of the block, which looks at words alone, one of usage."""
    try:
        yield
    except InputError as error:
        raise UsageError(str(error)) from error


def leased(context: Context, name: str) -> ExitStack:
    """Keep what the store has where it is, until the stack is closed; it is entered already.

    A hypervisor that has opened its files needs them there no more. A bundle in a directory never
    does.
    """
    lease = ExitStack()
    if name.startswith("sha256:") or not is_finished(name):
        lease.enter_context(context.store().lease())
    return lease


def check_words(options: BootOptions) -> None:
    """Raise InputError for options that do not fit IMAGE, or each other, or are none."""
    if options.policy and (options.kernel_file or options.profile):
        raise InputError(
            "--policy is for finished bundles, whose kernel is their own; drop --kernel, --profile "
            "or --policy"
        )
    if is_finished(options.image) and not options.policy:
        _refuse_image_options(options)
    if options.platform_text:
        from hyperbuild.converter.oci import Platform

        Platform.parse(options.platform_text)
    if options.report:
        from hyperbuild.builder.boot_report import check_reports

        check_reports(options.report, smoke=options.smoke)


def settled(options: BootOptions, defaults: BootDefaults) -> BootOptions:
    """Return options with those of a bundle where they say nothing.

    Variables and hosts are joined, the user's come last; memory is mounted where the user mounts
    nothing else. A user's entrypoint drops the bundle's CMD, as it drops the image's.
    """
    bundled = defaults.options
    own = options.entrypoint is not None
    return options.replace(
        command=options.command or (() if own else tuple(bundled.get("cmd", ()))),
        bundled_env=tuple(bundled.get("env", ())),
        user=options.user or bundled.get("user"),
        workdir=options.workdir or bundled.get("workdir"),
        entrypoint=options.entrypoint if own else bundled.get("entrypoint"),
        tmpfs=(*bundled.get("tmpfs", ()), *options.tmpfs),
        read_only=options.read_only or bundled.get("read-only", False),
        add_host=(*bundled.get("add-host", ()), *options.add_host),
        memory=options.memory or bundled.get("memory"),
        cpus=options.cpus or bundled.get("cpus"),
        hostname=options.hostname or bundled.get("hostname", ""),
        network=options.network or bundled.get("network"),
        rootfs_as=options.rootfs_as or bundled.get("rootfs"),
        require_dax=options.require_dax or bundled.get("require-dax", False),
        health_command=options.health_command or bundled.get("health-cmd", ""),
    )


def budgets_of(options: BootOptions) -> tuple[Budget, ...]:
    """Read the budgets of options; InputError if one is none."""
    if not options.budget:
        return ()
    from hyperbuild.launcher.budget import parse_budget

    return tuple(parse_budget(text) for text in options.budget)


def warm_start(context: Context, options: BootOptions) -> WarmStart | None:
    """Return where to look for templates, None where options want none."""
    if not (options.warm or options.require_warm):
        return None
    from hyperbuild.launcher.template import Templates

    return WarmStart(Templates(context.templates), options.require_warm)


def machine_options(
    context: Context, options: BootOptions, budgets: tuple[Budget, ...] = ()
) -> MachineOptions:
    """Read what options say of the VM; InputError where that is none."""
    network, tap = parse_network(
        options.network or DEFAULT_NETWORK, options.ip or "", options.gateway or ""
    )
    machine = MachineOptions(
        memory=parse_memory(options.memory or DEFAULT_MEMORY),
        cpus=options.cpus or 1,
        ports=tuple(port for text in options.publish for port in parse_ports(text)),
        publish_all=options.publish_all,
        env=_variables(context, options),
        args=options.command,
        user=options.user or "",
        workdir=parse_workdir(options.workdir) if options.workdir else "",
        entrypoint=options.entrypoint,
        hostname=options.hostname,
        network=network,
        tap=tap,
        hosts=tuple(parse_host(text) for text in options.add_host),
        nameservers=tuple(parse_nameserver(text) for text in options.dns),
        dax=options.rootfs_as != "blk",
        require_dax=options.require_dax,
        accel=Accel(options.accel),
        counting=any(budget.instructions for budget in budgets),
        watch=bool(options.report)
        or any(budget.phase in ("listening", "healthy") for budget in budgets),
        health_command=options.health_command,
        disk=parse_disk(options.disk) if options.disk else None,
        mounts=_mounts(context, options),
        read_only=options.read_only,
        tty=_terminal_size() if options.tty else None,
        timeout=options.timeout,
    )
    check_options(machine)
    if machine.counting and (options.warm or options.require_warm):
        raise InputError("a copy has no instructions to count; drop --warm or the insns budget")
    if options.warm or options.require_warm:
        _check_copy(machine)
    return machine


def _check_copy(machine: MachineOptions) -> None:
    """Raise InputError for what a template can't have had, so that no copy of it has."""
    if machine.disk:
        raise InputError("a copy has no disk to keep its files on; drop --warm or --disk")
    if machine.tap:
        raise InputError("a copy has the hypervisor's network alone; drop --warm or the tap")
    outside = next((mount for mount in machine.mounts if mount.needs_host), None)
    if outside:
        raise InputError(
            f"a copy has no folders or volumes of its own; drop --warm or -v {outside}"
        )


def _variables(context: Context, options: BootOptions) -> tuple[str, ...]:
    """Return the bundle's variables, then those of files, then those of the command line."""
    environment = context.environment
    read: list[str] = []
    if options.env_file:
        from hyperbuild.builder.env_files import read_env_file

        for path in options.env_file:
            read += read_env_file(path, environment)
    return (*options.bundled_env, *read, *(parse_env(text, environment) for text in options.env))


def _mounts(context: Context, options: BootOptions) -> tuple[Mount, ...]:
    if not (options.volume or options.tmpfs):
        return ()
    from hyperbuild.launcher.mounts import parse_tmpfs, parse_volume

    volumes = [parse_volume(text, context.volumes) for text in options.volume]
    return (*volumes, *(parse_tmpfs(text) for text in options.tmpfs))


def find_both(
    context: Context,
    options: BootOptions,
    machine: MachineOptions,
    budgets: tuple[Budget, ...] = (),
) -> tuple[BundleFiles, MachineOptions]:
    """Return the bundle that options name, and the machine that both of them want.

    machine is what options alone make. Errors as of ``find_files`` and ``machine_options``.
    """
    files = find_files(context, options)
    if files.bundle.boot:
        machine = machine_options(context, settled(options, files.bundle.boot), budgets)
    return files, machine


def find_files(context: Context, options: BootOptions) -> BundleFiles:
    """Open a directory or a stored bundle; convert an image that is neither.

    A bundle of another version of hyperbuild, with whose hyperstart there is nothing to talk, gets
    this one's.
    """
    files = _find_files(context, options)
    if files.bundle.rootfs.verity and options.rootfs_as == "dax":
        from hyperbuild.launcher.verity import no_dax

        raise no_dax("--rootfs dax")
    if files.bundle.protocol == PROTOCOL_VERSION:
        return files
    from hyperbuild.builder.parts import make_initramfs

    own = make_initramfs(context)
    context.console.say(
        f"{files.bundle.image.reference}: its hyperstart is of another version, and this "
        "hyperbuild's own takes its place"
    )
    bundle = files.bundle.replace(initramfs=own.digest, protocol=PROTOCOL_VERSION)
    return files.replace(bundle=bundle, initramfs=own.path)


def _find_files(context: Context, options: BootOptions) -> BundleFiles:
    if is_finished(options.image) and not options.policy:
        return open_finished(context, options.image)
    if options.policy:
        with hinting(options.image):
            return _find_trusted(context, options, options.policy)
    chosen = options.kernel_file or options.platform_text or options.profile
    if options.pull == "missing" and not chosen:
        with hinting(options.image):
            found = find_stored(context, options.image)
        if found and found.kernel:
            return found
    if not chosen:
        from hyperbuild.builder.pulling import find_ready

        ready = find_ready(context, options.image, options.platform_text, options.authfile)
        if ready:
            return ready.files
    from hyperbuild.builder.converting import Request, stored_bundle
    from hyperbuild.kernel.kconfig import DEFAULT_PROFILE

    request = Request(
        options.image,
        options.platform_text,
        options.authfile,
        options.kernel_file,
        options.profile or DEFAULT_PROFILE,
    )
    return stored_bundle(context, request).files


def _find_trusted(context: Context, options: BootOptions, policy: Path) -> BundleFiles:
    from hyperbuild.builder.policy import read_policy
    from hyperbuild.builder.trusting import find_trusted

    rules = read_policy(policy)
    return find_trusted(
        context, options.image, rules, options.platform_text, options.authfile
    ).files


def _terminal_size() -> tuple[int, int]:
    from hyperbuild.launcher.terminal import find_terminal, terminal_size

    return terminal_size(find_terminal(1, 0))


def check_terminal(*, interactive: bool, tty: bool) -> None:
    """Raise InputError where stdin is to be the guest's terminal, and is none."""
    if tty and interactive and not os.isatty(0):
        raise InputError("-t with -i needs a terminal as stdin; drop -t, or run it in one")


def _refuse_smoke_options(options: BootOptions) -> None:
    given = {
        "--expect-http": options.expect_http,
        "--expect-port": options.expect_port,
        "--expect-log": options.expect_log,
        "--expect-exit": options.expect_exit is not None,
        "--console-log": options.console_log,
        "a report in .xml": [path for path in options.report if path.suffix == ".xml"],
    }
    for name, value in given.items():
        if value:
            raise InputError(f"{name} is for smoke tests; add --smoke, or drop it")


def _refuse_image_options(options: BootOptions) -> None:
    """Say so where options choose what a finished bundle has settled."""
    given = {
        "--kernel": options.kernel_file,
        "--profile": options.profile,
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


def summary(
    timeline: Timeline, *, counting: bool = False, what: str = "application started"
) -> str:
    """Say on one line when what came about, and what the time went into.

    A guest whose clock counts (counting) has no time of its own: then it is its instructions.
    """
    if counting:
        return _summary_of_counts(timeline)
    steps = timeline.steps()
    parts = [
        f"{step.name} +{(step.nanoseconds - before.nanoseconds) / 1e6:.0f}"
        for before, step in pairwise(steps)
    ]
    total = (steps[-1].nanoseconds - steps[0].nanoseconds) / 1e6
    return f"{what} after {total:.0f} ms ({', '.join(parts)})"


def _summary_of_counts(timeline: Timeline) -> str:
    counts = [(step.name, timeline.counted(step.name)) for step in timeline.steps()]
    known = [(name, count) for name, count in counts if count is not None]
    parts, before = [], 0
    for name, count in known:
        parts.append(f"{name} +{(count - before) / 1e6:.2f}")
        before = count
    return f"application started after {before / 1e6:.2f} M guest instructions ({', '.join(parts)})"
