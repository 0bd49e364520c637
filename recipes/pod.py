"""Pod files: which containers make up a pod; our own TOML, or a Kubernetes Pod (kubernetes.py)."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.toml import read_toml
from hyperbuild.recipes.pod_fields import CONTAINER, NAME, POD, VM_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hyperbuild.recipes.fields import Field

#: The table of containers, as in [[container]].
_CONTAINER = "container"
_NEEDED = ("name", "image")
#: As many as hyperstart takes (docs/hyperstart.md, "Pods").
_MOST = 16


@dataclass(frozen=True, slots=True)
class PodFile:
    """A pod's keys, and those of each of its containers, all checked against ``pod_fields``.

    Folders that its containers mount are beside it, in ``directory``.
    """

    path: Path
    pod: Mapping[str, Any]
    containers: tuple[Mapping[str, Any], ...]

    @property
    def directory(self) -> Path:
        """Where the file lies."""
        return self.path.parent

    @property
    def name(self) -> str:
        """What the VM is called if its user gives no other name; "" for a random one."""
        if "name" in self.pod:
            return str(self.pod["name"])
        return self.path.stem if re.fullmatch(VM_NAME, self.path.stem) else ""


def read_pod(path: Path) -> PodFile:
    """Read a pod's file; InputError names the place of what is wrong, and the nearest key."""
    if path.suffix in (".yaml", ".yml", ".json"):
        from hyperbuild.recipes.kubernetes import read_kubernetes

        return check_pod(path, read_kubernetes(path))
    return check_pod(path, read_toml(path, "pod file"))


def check_pod(path: Path, document: Mapping[str, Any]) -> PodFile:
    """Check what a pod's file says; errors as of ``read_pod``."""
    pod = {key: value for key, value in document.items() if key != _CONTAINER}
    for key, value in pod.items():
        _check(f"{path}: ", POD, key, value, (_CONTAINER,))
    containers = document.get(_CONTAINER)
    if not isinstance(containers, list) or not containers:
        raise InputError(f"{path}: there is no container; begin one with [[{_CONTAINER}]]")
    for number, container in enumerate(containers, 1):
        _check_container(path, number, container)
    _check_together(path, containers)
    return PodFile(path, pod, tuple(containers))


def _check_container(path: Path, number: int, container: object) -> None:
    if not isinstance(container, dict):
        raise InputError(f"{path}: container {number} is no table; write [[{_CONTAINER}]]")
    shown = printable(str(container.get("name", number)))
    where = f"{path}: container {shown}: "
    for key, value in container.items():
        _check(where, CONTAINER, key, value, ())
    missing = next((key for key in _NEEDED if key not in container), None)
    if missing:
        raise InputError(f"{where}{missing} is missing; {_purpose(CONTAINER[missing])}")
    for name in container.get("shared", {}):
        if not re.fullmatch(NAME, name):
            raise InputError(
                f"{where}shared has a name {printable(name)} that is none; use small letters, "
                "digits and '-'"
            )


def _check_together(path: Path, containers: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for containers that can never all be started."""
    if len(containers) > _MOST:
        raise InputError(f"{path}: {len(containers)} containers: a pod has 1 to {_MOST}")
    names = Counter(container["name"] for container in containers)
    name, count = names.most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: two containers are called {name}; give each its own name")
    waiting = {container["name"]: set(container.get("after", ())) for container in containers}
    for name, others in waiting.items():
        for other in others:
            if other == name or other not in waiting:
                raise InputError(
                    f"{path}: container {name} is to start after {printable(other)}, which is no "
                    f"other container of the pod; there are {', '.join(waiting)}"
                )
    while ready := [name for name, others in waiting.items() if not others]:
        for name in ready:
            del waiting[name]
        for others in waiting.values():
            others.difference_update(ready)
    if waiting:
        raise InputError(
            f"{path}: the containers {', '.join(waiting)} wait for each other; let one of them "
            "start first"
        )


def _check(
    where: str, fields: Mapping[str, Field], key: str, value: object, more: tuple[str, ...]
) -> None:
    field = fields.get(key)
    if field is None:
        known = [*fields, *more]
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise InputError(f"{where}{printable(key)} is not known; {hint}")
    if wrong := field.wrong(value):
        raise InputError(f"{where}{key} {wrong}; {_purpose(field)}")


def _purpose(field: Field) -> str:
    return f"it is for: {field.help.rstrip('.')}"
