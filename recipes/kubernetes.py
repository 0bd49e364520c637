"""A Kubernetes Pod as a pod's file: the subset of it that means the same in one VM.

Source: the Kubernetes API reference, Pod v1 core. What is not known is refused, not skipped: a pod
that ran without what its file asks for would be another one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.recipes.pod_fields import NAME
from hyperbuild.recipes.yaml_files import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

#: What Kubernetes knows, too, and a VM can't have or does not need: to be taken out by who says so.
_UNSUPPORTED = frozenset((
    "activeDeadlineSeconds", "affinity", "allowPrivilegeEscalation",
    "automountServiceAccountToken", "capabilities", "configMap", "downwardAPI",
    "enableServiceLinks", "envFrom", "ephemeralContainers", "fieldRef", "fsGroup", "grpc",
    "hostIPC", "hostNetwork", "hostPID", "httpGet", "imagePullSecrets", "lifecycle",
    "livenessProbe", "mountPropagation", "nfs", "nodeName", "nodeSelector", "ownerReferences",
    "priorityClassName", "privileged", "projected", "resizePolicy", "runtimeClassName",
    "schedulerName", "seccompProfile", "secret", "secretKeyRef", "seLinuxOptions",
    "serviceAccountName", "shareProcessNamespace", "sizeLimit", "startupProbe", "stdin",
    "subPath", "supplementalGroups", "sysctls", "tcpSocket", "terminationMessagePath",
    "tolerations", "topologySpreadConstraints", "tty", "valueFrom", "volumeDevices",
))  # fmt: skip
#: What volumes may be called, as of -v.
_VOLUME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}"
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
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
    documents = read_yaml(path, "pod file")
    if len(documents) != 1:
        raise InputError(f"{path} has {len(documents)} documents; a pod file is one Pod")
    return _Reader(str(path)).pod(documents[0])


@dataclass(frozen=True, slots=True)
class _Security:
    """USER[:GROUP] ("" for the image's), whether the root is read-only, and user 0 forbidden."""

    user: str
    is_read_only: bool
    not_root: bool


def _expand(text: str, env: Mapping[str, str]) -> str:
    """Put variables in place of ``$(NAME)``, as Kubernetes does; ``$$`` is a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


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
            ),
        )  # fmt: skip
        volumes = self._volumes(spec.get("volumes", []))
        security = self._security(spec.get("securityContext", {}), "spec.securityContext")
        initial = self._containers(spec, "initContainers", volumes, security)
        main = self._containers(spec, "containers", volumes, security)
        if not main:
            raise self._wrong("spec.containers", "is empty", "a Pod has at least one")
        self._order(initial, main)
        policy = self._text(spec.get("restartPolicy", "Always"), "spec.restartPolicy")
        if policy not in _RESTARTS:
            raise self._wrong("spec.restartPolicy", f"is not one of {', '.join(_RESTARTS)}")
        for container in initial:
            container["restart"] = "no" if policy == "Never" else "on-failure"
        # Before the main ones start, those of initContainers have ended.
        memory = (sum(one["memory"] for one in main), *(one["memory"] for one in initial))
        return {
            **self._given("name", metadata.get("name")),
            **self._given("hostname", spec.get("hostname") or metadata.get("name")),
            **self._given("add-host", self._hosts(spec.get("hostAliases", []))),
            **self._given("dns", self._dns(spec.get("dnsConfig", {}))),
            **self._given("ports", [port for one in main for port in one["ports"]]),
            **self._grace(spec),
            "memory": f"{max(_LEAST_MEMORY, *memory)}M",
            "restart": _RESTARTS[policy],
            "container": [
                {key: value for key, value in one.items() if key not in ("ports", "memory")}
                # The first is what `exec` and `cp` mean where nothing else is said.
                for one in (*main, *initial)
            ],
        }

    def _grace(self, spec: Mapping[str, Any]) -> dict[str, int]:
        key = "terminationGracePeriodSeconds"
        return {"stop-timeout": self._number(spec[key], f"spec.{key}")} if key in spec else {}

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
            before = container.get("name")
        for container in main:
            if before:
                container["after"] = {before: "completed"}

    def _containers(
        self,
        spec: Mapping[str, Any],
        key: str,
        volumes: Mapping[str, Callable[[str, bool], tuple[str, Any]]],
        security: _Security,
    ) -> list[dict[str, Any]]:
        where = f"spec.{key}"
        return [
            self._container(one, f"{where}[{index}]", volumes, security)
            for index, one in enumerate(self._list(spec.get(key, []), where))
        ]

    def _container(
        self,
        document: object,
        where: str,
        volumes: Mapping[str, Callable[[str, bool], tuple[str, Any]]],
        security: _Security,
    ) -> dict[str, Any]:
        one = self._fields(
            document,
            where,
            (
                "name", "image", "command", "args", "env", "workingDir", "ports", "volumeMounts",
                "securityContext", "resources", "readinessProbe", "imagePullPolicy",
            ),
        )  # fmt: skip
        own = self._security(one.get("securityContext", {}), f"{where}.securityContext")
        user = own.user or security.user
        if (own.not_root or security.not_root) and user.partition(":")[0] in ("", "0"):
            raise self._wrong(
                f"{where}.securityContext", "runAsNonRoot needs a runAsUser other than 0 here"
            )
        policy = one.get("imagePullPolicy", "IfNotPresent")
        if policy != "IfNotPresent":
            raise self._wrong(
                f"{where}.imagePullPolicy", "is not supported", "take it out, and say --pull always"
            )
        env = self._env(one.get("env", []), f"{where}.env")
        mounted = self._mounts(one.get("volumeMounts", []), f"{where}.volumeMounts", volumes)
        health = self._probe(one.get("readinessProbe"), f"{where}.readinessProbe")
        return {
            **{
                key: self._text(one[key], f"{where}.{key}")
                for key in ("name", "image")
                if key in one
            },
            **self._given("entrypoint", self._words(one, "command", where, env)),
            **self._given("cmd", self._words(one, "args", where, env)),
            **self._given("env", env),
            **self._given("workdir", one.get("workingDir")),
            **self._given("user", user),
            **self._given("read-only", own.is_read_only or security.is_read_only),
            **self._given("healthcheck", health),
            **mounted,
            "ports": self._ports(one.get("ports", []), f"{where}.ports"),
            "memory": self._memory(one.get("resources", {}), f"{where}.resources"),
        }

    def _env(self, document: object, where: str) -> dict[str, str]:
        variables: dict[str, str] = {}
        for index, one in enumerate(self._list(document, where)):
            pair = self._fields(one, f"{where}[{index}]", ("name", "value"))
            name = self._text(pair.get("name"), f"{where}[{index}].name")
            if not name or "=" in name or "\0" in name:
                raise self._wrong(f"{where}[{index}].name", "is no name of a variable")
            value = self._text(pair.get("value", ""), f"{where}[{index}].value")
            variables[name] = _expand(value, variables)
        return variables

    def _words(
        self, one: Mapping[str, Any], key: str, where: str, env: Mapping[str, str]
    ) -> list[str]:
        return [_expand(text, env) for text in self._texts(one.get(key, []), f"{where}.{key}")]

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
            if ":" in path:
                raise self._wrong(f"{place}.mountPath", "has a ':' in it, which can't be")
            is_read_only = self._flag(mount, "readOnly", place)
            key, value = volumes[name](path, is_read_only)
            if isinstance(value, dict):
                if name in found.get(key, {}):
                    raise self._wrong(place, "mounts an emptyDir for the second time")
                if is_read_only:
                    raise self._wrong(f"{place}.readOnly", "is not supported of an emptyDir")
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
            self._fields(document or {}, where, ("medium",))
            if not re.fullmatch(NAME, name):
                raise self._wrong(where, "has a name that is none", "use small letters and digits")
            return lambda path, _: ("shared", {name: path})
        known, key = (("path", "type"), "path")
        if kind == "persistentVolumeClaim":
            known, key = (("claimName", "readOnly"), "claimName")
        fields = self._fields(document, where, known)
        source = self._text(fields.get(key), f"{where}.{key}")
        if kind == "hostPath" and (not source.startswith("/") or ":" in source):
            raise self._wrong(f"{where}.path", "is no absolute path without a ':'")
        if fields.get("type", "") not in ("", "Directory", "File"):
            raise self._wrong(f"{where}.type", "is not supported", "say Directory, File or nothing")
        if kind == "persistentVolumeClaim" and not re.fullmatch(_VOLUME, source):
            raise self._wrong(f"{where}.claimName", "is no name of a volume")
        always = self._flag(fields, "readOnly", where)
        return lambda path, is_read_only: (
            "volumes",
            f"{source}:{path}{':ro' if is_read_only or always else ''}",
        )

    def _security(self, document: object, where: str) -> _Security:
        known = ("runAsUser", "runAsGroup", "readOnlyRootFilesystem", "runAsNonRoot")
        context = self._fields(document, where, known)
        user = ""
        if "runAsUser" in context:
            user = str(self._number(context["runAsUser"], f"{where}.runAsUser"))
            if "runAsGroup" in context:
                user += f":{self._number(context['runAsGroup'], f'{where}.runAsGroup')}"
        elif "runAsGroup" in context:
            raise self._wrong(f"{where}.runAsGroup", "needs runAsUser")
        return _Security(
            user,
            is_read_only=self._flag(context, "readOnlyRootFilesystem", where),
            not_root=self._flag(context, "runAsNonRoot", where),
        )

    def _memory(self, document: object, where: str) -> int:
        """Return MiB: what the limit says, else the request, else a default."""
        resources = self._fields(document, where, ("limits", "requests"))
        for key in ("limits", "requests"):
            known = ("memory", "cpu", "ephemeral-storage")
            amounts = self._fields(resources.get(key, {}), f"{where}.{key}", known)
            cpu = str(amounts.get("cpu", "1"))
            if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?m?", cpu, re.ASCII):
                raise self._wrong(f"{where}.{key}.cpu", "is no amount of CPU", "say 500m, for one")
            if "memory" in amounts:
                return self._mebibytes(amounts["memory"], f"{where}.{key}.memory")
        return _MEMORY_EACH

    def _mebibytes(self, value: object, where: str) -> int:
        match = re.fullmatch(r"(\d{1,15})(k|M|G|Ki|Mi|Gi)?", str(value), re.ASCII)
        if match is None:
            raise self._wrong(where, "is no amount of memory", "say 256Mi, for one")
        return max(-(-int(match[1]) * _UNITS[match[2] or ""] // (1 << 20)), 1)

    def _probe(self, document: object, where: str) -> dict[str, Any]:
        """Return the health check for a probe that is a command; {} for none."""
        if document is None:
            return {}
        times = {
            "periodSeconds": ("interval", 10),
            "timeoutSeconds": ("timeout", 1),
            "initialDelaySeconds": ("start-period", 0),
        }
        probe = self._fields(document, where, ("exec", *times, "failureThreshold"))
        run = self._fields(probe.get("exec"), f"{where}.exec", ("command",))
        words = self._texts(run.get("command"), f"{where}.exec.command")
        seconds = {
            name: f"{self._number(probe.get(key, default), f'{where}.{key}')}s"
            for key, (name, default) in times.items()
        }
        retries = self._number(probe.get("failureThreshold", 3), f"{where}.failureThreshold")
        return {"test": ["CMD", *words], **seconds, "retries": retries}

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
            if key not in known and key in _UNSUPPORTED:
                raise self._wrong(f"{where}.{key}", "is not supported", "take it out")
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                place = f"{where}.{key}" if where else str(key)
                raise self._wrong(place, "is not known here", hint)
        return value

    def _flag(self, fields: Mapping[str, Any], key: str, where: str) -> bool:
        value = fields.get(key, False)
        if type(value) is not bool:
            raise self._wrong(f"{where}.{key}", "is not true or false", "write it without quotes")
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
