"""``hyperbuild pod``: the containers of a pod's file in one VM, with a supervisor as of ``run``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.boot_options import BOOT_OPTIONS
from hyperbuild.builder.booting import (
    BootOptions,
    check_words,
    find_both,
    leased,
    machine_options,
    usage,
)
from hyperbuild.builder.running import asked_of, follow, plain
from hyperbuild.converter.errors import HyperbuildError, InputError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.health import read_healthcheck
from hyperbuild.launcher.instances import check_name
from hyperbuild.launcher.journal import parse_size
from hyperbuild.launcher.machine import parse_memory
from hyperbuild.launcher.mounts import parse_target
from hyperbuild.launcher.order import Order
from hyperbuild.launcher.pod import Condition, Member, check_health
from hyperbuild.launcher.ports import parse_ports
from hyperbuild.launcher.restarting import NO, RestartPolicy, parse_restart
from hyperbuild.launcher.spec import arguments
from hyperbuild.launcher.timeline import process_start
from hyperbuild.launcher.vm import settle
from hyperbuild.recipes.health import healthcheck_object
from hyperbuild.recipes.pod import read_pod

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.recipes.pod import PodFile

_DEFAULT_MEMORY = "512M"


class PodOptions(Record):
    """The options of ``pod``, as the user wrote them."""

    file: Path
    detach: bool
    name: str
    auto_remove: bool
    log_size: str
    publish: tuple[str, ...]
    memory: str | None
    pull: str
    authfile: Path | None


def run_pod(context: Context, options: PodOptions) -> int:
    """Run the pod of a file, and return the status to exit with; errors as for ``run_vm``.

    That is the pod's, or 0 for one that goes on by itself.
    """
    started_at = process_start()
    with usage():
        log_size = parse_size(options.log_size)
        if options.name:
            check_name(options.name)
        if options.memory:
            parse_memory(options.memory)
        for text in options.publish:
            parse_ports(text)
    pod = read_pod(options.file)
    restart = parse_restart(pod.pod.get("restart", NO))
    # What is wrong with the VM is not said of its first container.
    with place(f"{pod.path}: "):
        machine_options(context, _boot_options(pod, {"image": ""}, options))
    wanted = [_boot_options(pod, container, options) for container in pod.containers]
    for boot in wanted:
        check_words(boot)
    with leased(context, ""):
        members = tuple(
            _member(context, pod, boot, container, restart)
            for boot, container in zip(wanted, pod.containers, strict=True)
        )
        check_health(members)
        first = members[0]
        _, machine = settle(first.files, first.options, context.console)
        order = Order(
            files=first.files,
            options=machine,
            search_path=context.environment.get("PATH", ""),
            warm=None,
            budgets=(),
            restart=restart,
            interactive=False,
            auto_remove=options.auto_remove,
            log_size=log_size,
            started_at=started_at,
            pod=(first.replace(options=machine), *members[1:]),
        )
        asked = asked_of(
            order, options.name or pod.name, str(options.file), tuple(one.name for one in members)
        )
        described = tuple(_described(member) for member in members)
        instance, lock = context.instances().create(asked.replace(containers=described))
    return follow(context, instance, lock, order, detach=options.detach)


def _boot_options(pod: PodFile, container: Mapping[str, Any], options: PodOptions) -> BootOptions:
    """Return what `boot` would be told of one container, and of the VM."""
    entrypoint = container.get("entrypoint")
    # As docker reads words after --entrypoint WORD: they come before the command.
    command = (*(entrypoint or ())[1:], *container.get("cmd", ()))
    fields: dict[str, Any] = {option.field: option.default for option in BOOT_OPTIONS}
    fields |= {
        "image": container["image"],
        "command": command,
        "publish": (*pod.pod.get("ports", ()), *options.publish),
        "volume": tuple(_beside(pod, text) for text in container.get("volumes", ())),
        "tmpfs": tuple(container.get("tmpfs", ())),
        "read_only": container.get("read-only", False),
        "user": container.get("user"),
        "workdir": container.get("workdir"),
        "entrypoint": entrypoint[0] if entrypoint else None,
        "env": tuple(f"{name}={value}" for name, value in container.get("env", {}).items()),
        "health_command": container.get("health-cmd", ""),
        "memory": options.memory or pod.pod.get("memory", _DEFAULT_MEMORY),
        "cpus": pod.pod.get("cpus", 1),
        "hostname": pod.pod.get("hostname", ""),
        "network": pod.pod.get("network", "user"),
        "ip": pod.pod.get("ip"),
        "gateway": pod.pod.get("gateway"),
        "dns": tuple(pod.pod.get("dns", ())),
        "add_host": tuple(pod.pod.get("add-host", ())),
        "rootfs_as": pod.pod.get("rootfs"),
        "profile": pod.pod.get("profile"),
        "pull": options.pull,
        "authfile": options.authfile,
    }
    return BootOptions(**fields)


def _beside(pod: PodFile, text: str) -> str:
    """Return a volume whose folder, if it is a relative one, is taken from the file's place."""
    return f"{pod.directory.absolute()}/{text}" if text.startswith(".") else text


def _member(
    context: Context,
    pod: PodFile,
    boot: BootOptions,
    container: Mapping[str, Any],
    restart: RestartPolicy,
) -> Member:
    name = container["name"]
    with place(f"container {name}: "):
        files, machine = find_both(context, boot, machine_options(context, boot))
        # Ports are the VM's, and chosen for all of it.
        files, own = settle(files, machine.replace(ports=()), context.console)
        shared = tuple(_shared(container, {mount.target for mount in machine.mounts}))
        files = _with_health(files, container)
        arguments(files.bundle.process, own.args)
    own_restart = container.get("restart")
    grace = {"grace": float(pod.pod["stop-timeout"])} if "stop-timeout" in pod.pod else {}
    return Member(
        name=name,
        files=files,
        options=own.replace(ports=machine.ports, **grace),
        restart=parse_restart(own_restart) if own_restart else restart,
        after=tuple((other, Condition(text)) for other, text in container.get("after", {}).items()),
        shared=shared,
    )


def _shared(container: Mapping[str, Any], mounted: set[str]) -> Iterator[tuple[str, str]]:
    for name, path in container.get("shared", {}).items():
        target = parse_target(path, f"shared {name}")
        if target in mounted:
            raise InputError(f"{target} is mounted twice; give each path once")
        yield name, target


def _with_health(files: BundleFiles, container: Mapping[str, Any]) -> BundleFiles:
    check = healthcheck_object(container.get("healthcheck"))
    if check is None:
        return files
    process = files.bundle.process.replace(healthcheck=check)
    read_healthcheck(check)
    return files.replace(bundle=files.bundle.replace(process=process))


@contextmanager
def place(where: str) -> Iterator[None]:
    """Put where before what errors of the block say."""
    try:
        yield
    except HyperbuildError as error:
        error.args = (f"{where}{error}", *error.args[1:])
        raise


def _described(member: Member) -> dict[str, Any]:
    bundle = member.files.bundle
    return {
        "name": member.name,
        "image": bundle.image.reference,
        "digest": bundle.image.manifest_digest,
        "command": list(arguments(bundle.process, member.options.args)),
        "restart": str(member.restart),
        "after": dict(member.after),
        "mounts": plain([str(mount) for mount in member.options.mounts]),
    }
