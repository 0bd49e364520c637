"""What a pod's file may say: each key once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.recipes.fields import TABLES, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a container, a volume or a shared directory may be called.
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
#: What a VM may be called, as of `run --name`.
VM_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}"
_RESTART = r"no|always|unless-stopped|on-failure(:[0-9]{1,9})?"

POD: Mapping[str, Field] = {
    "name": Field("What the VM is called; default: the file's name.", pattern=VM_NAME),
    "hostname": Field("Host name of the guest."),
    "memory": Field("RAM, as in 512M, the default."),
    "cpus": Field("CPUs.", "integer", minimum=1, maximum=64),
    "ports": Field("Ports of the host: [IP:]HOST:GUEST[/udp], each.", "array", "string"),
    "network": Field("The guest's network: user, none or tap:NAME."),
    "ip": Field("The guest's address on a tap: 192.168.7.2/24."),
    "gateway": Field("The gateway on a tap."),
    "dns": Field("Name servers.", "array", "string"),
    "add-host": Field("Lines of /etc/hosts: NAME:IP, each.", "array", "string"),
    "rootfs": Field("Map the root file systems, or read them.", choices=("dax", "blk")),
    "profile": Field(
        "Kernel for images that are converted.", choices=("micro", "dax", "full", "disk")
    ),
    "stop-timeout": Field(
        "Seconds until what does not stop is killed; default: 10.", "integer", minimum=0
    ),
    "restart": Field(
        "Start containers again: no (the default), on-failure[:N], always or unless-stopped.",
        pattern=_RESTART,
    ),
}

CONTAINER: Mapping[str, Field] = {
    "name": Field("What it is called in the pod.", pattern=NAME),
    "image": Field("The image, as `hyperbuild boot` takes it."),
    "entrypoint": Field(
        "What replaces the image's Entrypoint, and drops its Cmd.", "array", "string", least=1,
        may_be_empty=True,
    ),
    "cmd": Field("What replaces the image's Cmd.", "array", "string", may_be_empty=True),
    "env": Field("Variables.", "object", "string", may_be_empty=True),
    "user": Field("USER[:GROUP] instead of the image's."),
    "workdir": Field("A working directory instead of the image's.", pattern=r"/.*"),
    "volumes": Field(
        "What is mounted: SRC:DST[:ro], each; SRC is a folder beside the file, or a volume's name.",
        "array", "string",
    ),
    "tmpfs": Field("Where memory is mounted: DST[:OPTIONS], each.", "array", "string"),
    "shared": Field(
        "Directories in memory that containers of the pod share: NAME = \"/path\".",
        "object", "string", pattern=r"/.*",
    ),
    "read-only": Field("Let it write in what is mounted alone.", "boolean"),
    "health-cmd": Field("A health check instead of the image's, a line for its shell."),
    "healthcheck": TABLES["source.config"]["healthcheck"],
    "restart": Field("A policy of its own.", pattern=_RESTART),
    "after": Field(
        "Other containers, and what this one waits for in them: NAME = \"started\", \"healthy\" or "
        "\"completed\" (it ended with 0).",
        "object", "string", choices=("started", "healthy", "completed"),
    ),
}  # fmt: skip
