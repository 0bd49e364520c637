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
from hyperbuild.launcher.attach import Attachment
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
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions


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
        instance, lock = context.instances().create(_asked(options, order, files, machine))
    stdin = 0 if boot.interactive and not options.detach else None
    attachment = Attachment(
        start(instance, lock, order),
        stdin=stdin,
        terminal=find_terminal(1, 0) if boot.tty and not options.detach else None,
        on_told=_teller(context, counting=machine.counting),
    )
    request = {"do": "start"} if options.detach else {"do": "attach", "stdin": stdin is not None}
    told = attachment.run(request, "started" if options.detach else "exit")
    if options.detach:
        print(instance.asked.id)
        return 0
    return int(told["exit"])


def _teller(context: Context, *, counting: bool) -> Callable[[dict[str, Any]], None]:
    def tell(told: dict[str, Any]) -> None:
        if "warning" in told:
            context.console.warn(told["warning"])
        # A guest whose clock counts has no times that mean anything.
        elif told.get("started") and not counting:
            context.console.say(summary(_timeline(told["timeline"])))

    return tell


def _timeline(document: Mapping[str, Any]) -> Timeline:
    timeline = Timeline()
    for step in document["steps"]:
        timeline.mark(step["name"], step["ns"])
    return timeline


def _asked(options: RunOptions, order: Order, files: BundleFiles, machine: MachineOptions) -> Asked:
    return Asked(
        id=new_id(),
        name=options.name,
        image=options.boot.image,
        command=arguments(files.bundle.process, machine.args),
        created=timestamp(),
        boot_id=boot_id(),
        auto_remove=options.auto_remove,
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
        options=_plain(machine),
    )


def _plain(value: Any) -> Any:
    """Return value in what JSON knows."""
    if isinstance(value, Record):
        return {name: _plain(one) for name, one in value.as_dict().items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
