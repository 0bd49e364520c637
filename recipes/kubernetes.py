"""A Kubernetes Pod as a pod's file: the subset of it that means the same in one VM.

Source: the Kubernetes API reference, Pod v1 core. What is not known is refused, not skipped: a pod
that ran without what its file asks for would be another one.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.files import open_regular
from hyperbuild.recipes.pod_fields import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_LIMIT = 1 << 20
_RESTARTS = {"Always": "always", "OnFailure": "on-failure", "Never": "no"}
#: MiB for what asks for no memory, and the least of a VM.
_MEMORY_EACH, _LEAST_MEMORY = 128, 256
_UNITS = {
    "": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30,
}  # fmt: skip


def read_kubernetes(path: Path) -> dict[str, Any]:
    """Return what the Pod in path says, as the TOML of a pod's file does.

    InputError: it is no Pod, or asks for what is not known here.
    """
    import yaml

    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read(_LIMIT + 1)
    if len(raw) > _LIMIT:
        raise InputError(f"{path} is larger than {_LIMIT >> 20} MiB: not a pod file")
    try:
        documents = [one for one in yaml.safe_load_all(raw) if one is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {printable(line)}; correct it there") from error
    if len(documents) != 1:
        raise InputError(f"{path} has {len(documents)} documents; a pod file is one Pod")
    return _Reader(str(path)).pod(documents[0])


class _Reader:
    """Translates a Pod; messages begin with the file and the place in it."""

    def __init__(self, file: str) -> None:
        self._file = file

    def pod(self, document: object) -> dict[str, Any]:
        """Translate the whole document."""
        top = self._fields(document, "", ("apiVersion", "kind", "metadata", "spec"))
        if (top.get("apiVersion"), top.get("kind")) != ("v1", "Pod"):
            raise self._wrong("", "is no Pod", "say apiVersion: v1 and kind: Pod")
        known = ("name", "namespace", "labels", "annotations")
        metadata = self._fields(top.get("metadata", {}), "metadata", known)
        spec = self._fields(
            top.get("spec"),
            "spec",
            (
                "containers", "initContainers", "restartPolicy", "hostname", "hostAliases",
                "dnsConfig", "volumes", "securityContext", "terminationGracePeriodSeconds",
                "enableServiceLinks", "automountServiceAccountToken",
            ),
        )  # fmt: skip
        volumes = self._volumes(spec.get("volumes", []))
        user = self._security(spec.get("securityContext", {}), "spec.securityContext")[0]
        initial = self._containers(spec, "initContainers", volumes, user)
        main = self._containers(spec, "containers", volumes, user)
        if not main:
            raise self._wrong("spec.containers", "is empty", "a Pod has at least one")
        self._order(initial, main)
        policy = self._text(spec.get("restartPolicy", "Always"), "spec.restartPolicy")
        if policy not in _RESTARTS:
            raise self._wrong("spec.restartPolicy", f"is not one of {', '.join(_RESTARTS)}")
        for container in initial:
            container["restart"] = "no" if policy == "Never" else "on-failure"
        return {
            **self._given("name", metadata.get("name")),
            **self._given("hostname", spec.get("hostname") or metadata.get("name")),
            **self._given("add-host", self._hosts(spec.get("hostAliases", []))),
            **self._given("dns", self._dns(spec.get("dnsConfig", {}))),
            **self._given("ports", [port for one in main for port in one.pop("ports")]),
            "memory": f"{max(sum(one.pop('memory') for one in main), _LEAST_MEMORY)}M",
            "restart": _RESTARTS[policy],
            "container": [
                {key: value for key, value in one.items() if key not in ("ports", "memory")}
                for one in (*initial, *main)
            ],
        }

    @staticmethod
    def _given(key: str, value: object) -> dict[str, Any]:
        return {key: value} if value else {}

    @staticmethod
    def _order(initial: Sequence[dict[str, Any]], main: Sequence[dict[str, Any]]) -> None:
        """Have containers of initContainers end one after the other, and all others wait."""
        before = None
        for container in initial:
            if before:
                container["after"] = {before: "completed"}
            before = container["name"]
        for container in main:
            if before:
                container["after"] = {before: "completed"}

    def _containers(
        self,
        spec: Mapping[str, Any],
        key: str,
        volumes: Mapping[str, Callable[[str, bool], tuple[str, Any]]],
        user: str,
    ) -> list[dict[str, Any]]:
        where = f"spec.{key}"
        return [
            self._container(one, f"{where}[{index}]", volumes, user)
            for index, one in enumerate(self._list(spec.get(key, []), where))
        ]

    def _container(
        self,
        document: object,
        where: str,
        volumes: Mapping[str, Callable[[str, bool], tuple[str, Any]]],
        user: str,
    ) -> dict[str, Any]:
        one = self._fields(
            document,
            where,
            (
                "name", "image", "command", "args", "env", "workingDir", "ports", "volumeMounts",
                "securityContext", "resources", "readinessProbe", "imagePullPolicy",
            ),
        )  # fmt: skip
        own_user, is_read_only = self._security(
            one.get("securityContext", {}), f"{where}.securityContext"
        )
        mounted = self._mounts(one.get("volumeMounts", []), f"{where}.volumeMounts", volumes)
        health = self._probe(one.get("readinessProbe"), f"{where}.readinessProbe")
        return {
            **{key: one[key] for key in ("name", "image") if key in one},
            **self._given("entrypoint", self._texts(one.get("command", []), f"{where}.command")),
            **self._given("cmd", self._texts(one.get("args", []), f"{where}.args")),
            **self._given("env", self._env(one.get("env", []), f"{where}.env")),
            **self._given("workdir", one.get("workingDir")),
            **self._given("user", own_user or user),
            **self._given("read-only", is_read_only),
            **self._given("health-cmd", health),
            **mounted,
            "ports": self._ports(one.get("ports", []), f"{where}.ports"),
            "memory": self._memory(one.get("resources", {}), f"{where}.resources"),
        }

    def _env(self, document: object, where: str) -> dict[str, str]:
        variables = {}
        for index, one in enumerate(self._list(document, where)):
            pair = self._fields(one, f"{where}[{index}]", ("name", "value"))
            name = self._text(pair.get("name"), f"{where}[{index}].name")
            variables[name] = self._text(pair.get("value", ""), f"{where}[{index}].value")
        return variables

    def _ports(self, document: object, where: str) -> list[str]:
        """Return those that are on the host, too."""
        found = []
        for index, one in enumerate(self._list(document, where)):
            known = ("containerPort", "hostPort", "hostIP", "protocol", "name")
            port = self._fields(one, f"{where}[{index}]", known)
            guest = self._number(port.get("containerPort"), f"{where}[{index}].containerPort")
            protocol = self._text(port.get("protocol", "TCP"), f"{where}[{index}].protocol")
            if "hostPort" in port:
                host = self._number(port["hostPort"], f"{where}[{index}].hostPort")
                ip = f"{port['hostIP']}:" if port.get("hostIP") else ""
                found.append(f"{ip}{host}:{guest}/{protocol.lower()}")
        return found

    def _mounts(
        self,
        document: object,
        where: str,
        volumes: Mapping[str, Callable[[str, bool], tuple[str, Any]]],
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index, one in enumerate(self._list(document, where)):
            place = f"{where}[{index}]"
            mount = self._fields(one, place, ("name", "mountPath", "readOnly"))
            name = self._text(mount.get("name"), f"{place}.name")
            if name not in volumes:
                known = ", ".join(volumes) or "none"
                raise self._wrong(f"{place}.name", f"is no volume; there are: {known}")
            path = self._text(mount.get("mountPath"), f"{place}.mountPath")
            key, value = volumes[name](path, mount.get("readOnly") is True)
            if isinstance(value, dict):
                found.setdefault(key, {}).update(value)
            else:
                found.setdefault(key, []).append(value)
        return found

    def _volumes(self, document: object) -> dict[str, Callable[[str, bool], tuple[str, Any]]]:
        """Return, by volume, what makes a container's key of a path, read-only or not."""
        found: dict[str, Callable[[str, bool], tuple[str, Any]]] = {}
        for index, one in enumerate(self._list(document, "spec.volumes")):
            where = f"spec.volumes[{index}]"
            kinds = ("hostPath", "emptyDir", "persistentVolumeClaim")
            volume = self._fields(one, where, ("name", *kinds))
            name = self._text(volume.get("name"), f"{where}.name")
            kind = next((kind for kind in kinds if kind in volume), None)
            if kind is None:
                raise self._wrong(where, f"is none of {', '.join(kinds)}")
            found[name] = self._volume(kind, volume[kind], name, f"{where}.{kind}")
        return found

    def _volume(
        self, kind: str, document: object, name: str, where: str
    ) -> Callable[[str, bool], tuple[str, Any]]:
        if kind == "emptyDir":
            self._fields(document or {}, where, ("medium", "sizeLimit"))
            if not re.fullmatch(NAME, name):
                raise self._wrong(where, "has a name that is none", "use small letters and digits")
            return lambda path, _: ("shared", {name: path})
        known, key = (("path", "type"), "path")
        if kind == "persistentVolumeClaim":
            known, key = (("claimName", "readOnly"), "claimName")
        fields = self._fields(document, where, known)
        source = self._text(fields.get(key), f"{where}.{key}")
        if kind == "hostPath" and not source.startswith("/"):
            raise self._wrong(f"{where}.path", "is no absolute path")
        return lambda path, is_read_only: (
            "volumes",
            f"{source}:{path}{':ro' if is_read_only or fields.get('readOnly') is True else ''}",
        )

    def _security(self, document: object, where: str) -> tuple[str, bool]:
        """Return USER[:GROUP] and whether the root is read-only."""
        known = ("runAsUser", "runAsGroup", "readOnlyRootFilesystem", "runAsNonRoot")
        context = self._fields(document, where, known)
        user = ""
        if "runAsUser" in context:
            user = str(self._number(context["runAsUser"], f"{where}.runAsUser"))
            if "runAsGroup" in context:
                user += f":{self._number(context['runAsGroup'], f'{where}.runAsGroup')}"
        elif "runAsGroup" in context:
            raise self._wrong(f"{where}.runAsGroup", "needs runAsUser")
        return user, context.get("readOnlyRootFilesystem") is True

    def _memory(self, document: object, where: str) -> int:
        """Return MiB: what the limit says, else the request, else a default."""
        resources = self._fields(document, where, ("limits", "requests"))
        for key in ("limits", "requests"):
            known = ("memory", "cpu", "ephemeral-storage")
            amounts = self._fields(resources.get(key, {}), f"{where}.{key}", known)
            if "memory" in amounts:
                return self._mebibytes(amounts["memory"], f"{where}.{key}.memory")
        return _MEMORY_EACH

    def _mebibytes(self, value: object, where: str) -> int:
        match = re.fullmatch(r"(\d{1,15})(k|M|G|Ki|Mi|Gi)?", str(value), re.ASCII)
        if match is None:
            raise self._wrong(where, "is no amount of memory", "say 256Mi, for one")
        return max(-(-int(match[1]) * _UNITS[match[2] or ""] // (1 << 20)), 1)

    def _probe(self, document: object, where: str) -> str:
        """Return the shell's line for a probe that is a command: a pod's health check."""
        if document is None:
            return ""
        probe = self._fields(document, where, ("exec",))
        run = self._fields(probe.get("exec"), f"{where}.exec", ("command",))
        from shlex import join

        words = self._texts(run.get("command"), f"{where}.exec.command")
        return join(words)

    def _hosts(self, document: object) -> list[str]:
        found = []
        for index, one in enumerate(self._list(document, "spec.hostAliases")):
            where = f"spec.hostAliases[{index}]"
            alias = self._fields(one, where, ("ip", "hostnames"))
            ip = self._text(alias.get("ip"), f"{where}.ip")
            names = self._texts(alias.get("hostnames", []), f"{where}.hostnames")
            found += [f"{name}:{ip}" for name in names]
        return found

    def _dns(self, document: object) -> list[str]:
        config = self._fields(document, "spec.dnsConfig", ("nameservers",))
        return self._texts(config.get("nameservers", []), "spec.dnsConfig.nameservers")

    # Kinds of values.

    def _fields(self, value: object, where: str, known: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(where, "is no mapping")
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                place = f"{where}.{key}" if where else str(key)
                raise self._wrong(place, "is not known here", hint)
        return value

    def _list(self, value: object, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise self._wrong(where, "is no list")
        return value

    def _text(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise self._wrong(where, "is no string", "put it into quotes")
        return value

    def _texts(self, value: object, where: str) -> list[str]:
        return [
            self._text(one, f"{where}[{index}]")
            for index, one in enumerate(self._list(value, where))
        ]

    def _number(self, value: object, where: str) -> int:
        if type(value) is not int or value < 0:
            raise self._wrong(where, "is no whole number")
        return value

    def _wrong(self, where: str, what: str, remedy: str = "correct it there") -> InputError:
        place = printable(where) or "it"
        return InputError(f"{self._file}: {place} {what}; {remedy}")
