"""``hyperbuild run``: a VM with a supervisor of its own, and this process as its first client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperbuild.builder.boot_options import BOOT_OPTIONS
from hyperbuild.builder.booting import (
    BootOptions,
    budgets_of,
    check_terminal,
    check_words,
    find_both,
    leased,
    machine_options,
    summary,
    usage,
    warm_start,
)
from hyperbuild.builder.run_options import OWN_OPTIONS
from hyperbuild.converter.errors import InputError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.attach import Attachment, RefusedError
from hyperbuild.launcher.instances import Asked, boot_id, check_name, new_id, timestamp
from hyperbuild.launcher.journal import parse_size
from hyperbuild.launcher.order import Order, start
from hyperbuild.launcher.restarting import NO, parse_restart
from hyperbuild.launcher.spec import arguments
from hyperbuild.launcher.terminal import find_terminal
from hyperbuild.launcher.timeline import Timeline, process_start
from hyperbuild.launcher.vm import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hyperbuild.builder.context import Context
    from hyperbuild.launcher.instances import Instance


class RunOptions(Record):
    """The options of ``run`` alone, as the user wrote them, and those that it shares with boot."""

    detach: bool
    name: str
    auto_remove: bool
    restart: str
    log_size: str
    boot: BootOptions


def run_options(fields: Mapping[str, Any]) -> RunOptions:
    """Sort fields, as the command line gives them, into the two kinds."""
    own = {option.field for option in OWN_OPTIONS}
    boot = {option.field: option.default for option in BOOT_OPTIONS}
    boot |= {field: value for field, value in fields.items() if field not in own}
    return RunOptions(
        **{field: value for field, value in fields.items() if field in own},
        boot=BootOptions(**boot),
    )


def run_image(context: Context, options: RunOptions) -> int:
    """Run what options name, and return the status to exit with; errors as for ``run_vm``.

    That is the application's, or 0 for a VM that goes on by itself.
    """
    started_at = process_start()
    boot = options.boot
    with usage():
        check_terminal(interactive=boot.interactive and not options.detach, tty=boot.tty)
        check_words(boot)
        restart, log_size = parse_restart(options.restart), parse_size(options.log_size)
        if options.name:
            check_name(options.name)
        if options.auto_remove and restart.name != NO:
            raise InputError("--rm and --restart exclude each other; drop one of the two")
        budgets = budgets_of(boot)
        machine = machine_options(context, boot, budgets)
    with leased(context, boot.image):
        files, machine = find_both(context, boot, machine, budgets)
        files, machine = settle(files, machine, context.console)
        order = Order(
            files=files,
            options=machine,
            search_path=context.environment.get("PATH", ""),
            warm=warm_start(context, boot),
            budgets=budgets,
            restart=restart,
            interactive=boot.interactive,
            auto_remove=options.auto_remove,
            log_size=log_size,
            started_at=started_at,
        )
        command = arguments(files.bundle.process, machine.args)
        asked = asked_of(order, options.name, boot.image, command)
        instance, lock = context.instances().create(asked)
    return follow(context, instance, lock, order, detach=options.detach)


def follow(context: Context, instance: Instance, lock: int, order: Order, *, detach: bool) -> int:
    """Start a VM's supervisor, and be its first client; return the status to exit with."""
    interactive = order.interactive and not detach
    attachment = Attachment(
        start(instance, lock, order),
        stdin=0 if interactive else None,
        terminal=find_terminal(1, 0) if order.options.tty and not detach else None,
        on_told=_teller(context, order),
    )
    request = {"do": "start"} if detach else {"do": "attach", "stdin": interactive}
    told = attachment.run(request, *(("started",) if detach else ()), "exit")
    if detach and "started" in told:
        print(instance.asked.id)
        return 0
    name, status = instance.asked.name, int(told["exit"])
    # Of a single application its own words and its status say enough.
    if order.pod and (told["reason"] or detach):
        why = told["reason"] or f"it ended with {status} before all of it had started"
        advice = "" if order.auto_remove else f"; see hyperbuild logs {name}"
        raise RefusedError(f"pod {name}: {why}{advice}", status or 1)
    return status


def _teller(context: Context, order: Order) -> Callable[[dict[str, Any]], None]:
    def tell(told: dict[str, Any]) -> None:
        if "warning" in told:
            context.console.warn(told["warning"])
        # A guest whose clock counts has no times that mean anything.
        elif told.get("started") and not order.options.counting:
            what = "pod ready" if order.pod else "application started"
            context.console.say(summary(_timeline(told["timeline"]), what=what))

    return tell


def _timeline(document: Mapping[str, Any]) -> Timeline:
    timeline = Timeline()
    for step in document["steps"]:
        timeline.mark(step["name"], step["ns"])
    return timeline


def asked_of(order: Order, name: str, image: str, command: tuple[str, ...]) -> Asked:
    """Return what is written down of a VM that a supervisor is ordered to run."""
    files, machine = order.files, order.options
    return Asked(
        id=new_id(),
        name=name,
        image=image,
        command=command,
        created=timestamp(),
        boot_id=boot_id(),
        auto_remove=order.auto_remove,
        restart=str(order.restart),
        log_size=order.log_size,
        interactive=order.interactive,
        tty=machine.tty is not None,
        ports=tuple(f"{port}->{port.guest_port}" for port in machine.ports),
        bundle={
            "image": files.bundle.image.as_dict(),
            "rootfs": str(files.rootfs),
            "kernel": str(files.kernel),
            "initramfs": str(files.initramfs),
        },
        options=plain(machine),
    )


def plain(value: Any) -> Any:
    """Return value in what JSON knows."""
    if isinstance(value, Record):
        return {name: plain(one) for name, one in value.as_dict().items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
