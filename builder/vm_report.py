"""VMs for people and scripts: the table of ``list``, what ``inspect`` and ``stats`` print."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.report import mib, table
from hyperbuild.launcher.instances import CREATED, EXITED, RESTARTING, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hyperbuild.launcher.instances import Instance
    from hyperbuild.launcher.usage import Usage

_COMMAND_SHOWN = 24
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def instances_as_table(instances: Iterable[Instance]) -> str:
    """Show VMs as ``hyperbuild list`` does."""
    return table(
        ("ID", "NAME", "IMAGE", "COMMAND", "STATUS", "PORTS"),
        (
            (
                one.short_id,
                one.asked.name,
                one.asked.image,
                _cut(" ".join(one.asked.command)),
                status_line(one),
                ", ".join(one.asked.ports) if one.state.status == RUNNING else "",
            )
            for one in instances
        ),
    )


def status_line(instance: Instance) -> str:
    """Say how a VM is, as docker does, and why it ended if not by itself."""
    state = instance.state
    if state.status == CREATED:
        return "Starting"
    if state.status == RUNNING:
        how = state.health or _count(state.containers)
        return f"Up {_since(state.started)}" + (f" ({how})" if how else "")
    what = "Restarting" if state.status == RESTARTING else "Exited"
    why = f": {state.reason}" if state.reason else ""
    return f"{what} ({state.exit_status}) {_since(state.finished)} ago{why}"


def instance_document(instance: Instance) -> dict[str, Any]:
    """Return all that is known of a VM as a JSON object: vm.json, and state.json as ``state``."""
    directory = str(instance.directory)
    return {**instance.asked.as_dict(), "directory": directory, "state": instance.state.as_dict()}


def instances_as_json(instances: Iterable[Instance]) -> str:
    """Describe VMs as a JSON array of ``instance_document``."""
    return json.dumps([instance_document(one) for one in instances], indent=2)


def instance_as_json(instance: Instance) -> str:
    """Return ``instance_document`` as text."""
    return json.dumps(instance_document(instance), indent=2)


def instance_as_text(instance: Instance) -> str:
    """Show one VM, a fact a line."""
    asked, state = instance.asked, instance.state
    facts = {
        "VM": f"{asked.name} ({asked.id})",
        "Image": asked.image
        + ("" if asked.containers else f" ({asked.bundle['image']['manifest_digest']})"),
        "Command": " ".join(asked.command),
        "Status": status_line(instance),
        "Created": asked.created,
        "Started": state.started,
        "Finished": state.finished,
        "Memory": f"{asked.options['memory']} MiB",
        "CPUs": str(asked.options["cpus"]),
        "Ports": ", ".join(asked.ports),
        "Restart": f"{asked.restart} ({state.restarts} so far)",
        "Directory": str(instance.directory),
    }
    width = max(map(len, facts)) + 2
    text = "\n".join(
        f"{name + ':':{width}}{value or '-'}".rstrip() for name, value in facts.items()
    )
    return f"{text}\n\n{_containers(instance)}" if asked.containers else text


def _containers(instance: Instance) -> str:
    """Show the containers of a pod, those that were never started too."""
    states = {one["name"]: one for one in instance.state.containers}
    return table(
        ("CONTAINER", "IMAGE", "COMMAND", "STATUS", "RESTART"),
        (
            (
                asked["name"],
                asked["image"],
                _cut(" ".join(asked["command"])),
                _container_status(states.get(asked["name"])),
                asked["restart"],
            )
            for asked in instance.asked.containers
        ),
    )


def _container_status(state: Mapping[str, Any] | None) -> str:
    if state is None or not (state["started"] or state["finished"]):
        return "Never started" if state and state["status"] == EXITED else "Waiting"
    again = f", {state['restarts']} restarts" if state["restarts"] else ""
    if state["status"] == RUNNING:
        health = f" ({state['health']})" if state["health"] else ""
        return f"Up {_since(state['started'])}{health}{again}"
    what = "Restarting" if state["status"] == RESTARTING else "Exited"
    why = f": {state['reason']}" if state["reason"] else ""
    return f"{what} ({state['exit_status']}) {_since(state['finished'])} ago{again}{why}"


def _count(containers: Sequence[Mapping[str, Any]]) -> str:
    """Say how many containers of a pod run; "" if all do, or it is none."""
    running = sum(one["status"] == RUNNING for one in containers)
    return f"{running} of {len(containers)} run" if running < len(containers) else ""


def usage_rows(
    pairs: Sequence[tuple[Instance, Usage | None, Usage | None]],
) -> list[dict[str, Any]]:
    """Return what two looks at each VM tell: CPU in percent of one CPU, memory in bytes.

    A VM that was not running at both has None.
    """
    return [
        {
            "id": one.asked.id,
            "name": one.asked.name,
            "cpu_percent": _percent(first, second),
            "memory_bytes": second.memory if second else None,
            "memory_limit_bytes": int(one.asked.options["memory"]) << 20,
            "supervisor_bytes": second.supervisor if second else None,
        }
        for one, first, second in pairs
    ]


def usage_as_table(rows: Iterable[dict[str, Any]]) -> str:
    """Show ``usage_rows`` as ``hyperbuild stats`` does."""
    return table(
        ("ID", "NAME", "CPU", "MEMORY", "GUEST RAM", "SUPERVISOR"),
        (
            (
                row["id"][:12],
                row["name"],
                "-" if row["cpu_percent"] is None else f"{row['cpu_percent']:.1f}%",
                _mib(row["memory_bytes"]),
                _mib(row["memory_limit_bytes"]),
                _mib(row["supervisor_bytes"]),
            )
            for row in rows
        ),
        right=(2, 3, 4, 5),
    )


def _percent(first: Usage | None, second: Usage | None) -> float | None:
    if not first or not second or second.moment <= first.moment:
        return None
    return round(max(second.cpu - first.cpu, 0) / (second.moment - first.moment) * 100, 1)


def _mib(size: int | None) -> str:
    return "-" if size is None else mib(size)


def _cut(text: str) -> str:
    return text if len(text) <= _COMMAND_SHOWN else text[: _COMMAND_SHOWN - 1] + "…"


def _since(moment: str) -> str:
    """Say how long ago a time of ours was, in its largest unit."""
    if not moment:
        return "some time"
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 0)
    for name, length in _UNITS:
        count = int(seconds // length)
        if count:
            return f"{count} {name}{'s' * (count > 1)}"
    return "0 seconds"
