"""The options of ``hyperbuild boot``, once: the command line is made of them, and the plain way in.

``run`` has most of them, too (``run_options``).

A boot begins with reading its command line, and click takes longer to load than all else before
the hypervisor runs. So a line that is plainly right is read here; whatever is not (help, a mistake,
a value from a variable) is left to click, which says everything there is to say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Variables that stand for options of the program, and whose values click reads.
_VARIABLES = ("HYPERBUILD_QUIET", "HYPERBUILD_DEBUG", "_HYPERBUILD_")


def flag(text: str) -> bool:
    """Read the value of an option that has none."""
    return bool(text)


def count(text: str) -> int:
    """Read a whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def status(text: str) -> int:
    """Read an exit status."""
    number = int(text)
    if not 0 <= number <= 255:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """Read a time that is more than nothing."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def file(text: str) -> Path:
    """Read the path of what is no directory."""
    if os.path.isdir(text):  # noqa: PTH112 - on the way to a boot
        raise ValueError(text)
    return Path(text)


class BootOption(Record):
    """One option: ``field`` is its name in BootOptions, ``read`` makes its value of a text.

    A tuple as default takes several. ``variable`` is one of its own beside HYPERBUILD_BOOT_*.
    ``shapes`` tells whether a template is made with it (``hyperbuild warm``).
    """

    field: str
    names: tuple[str, ...]
    help: str
    read: Callable[[str], Any] = str
    default: Any = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    variable: str | None = None
    shapes: bool = False


BOOT_OPTIONS = (
    BootOption(
        "publish", ("-p", "--publish"),
        "Forward a host port (default: any that is free) to the guest, or a range of them.",
        str, (), "[[IP:]HOST:]GUEST[/udp]",
    ),
    BootOption(
        "publish_all", ("-P", "--publish-all"), "Forward a free host port to each EXPOSEd one.",
        flag, False,
    ),
    BootOption(
        "volume", ("-v", "--volume"),
        "Mount a folder or file of the host, or the volume NAME, made if it is missing.",
        str, (), "[SRC|NAME:]DST[:ro]",
    ),
    BootOption(
        "tmpfs", ("--tmpfs",), "Mount memory.", str, (), "DST[:size=64m,mode=1777]", shapes=True,
    ),
    BootOption(
        "read_only", ("--read-only",), "Let the guest write in what is mounted alone.", flag, False,
        shapes=True,
    ),
    BootOption(
        "user", ("-u", "--user"), "Run as this user of the image, or these ids.",
        metavar="USER[:GROUP]", shapes=True,
    ),
    BootOption(
        "workdir", ("-w", "--workdir"), "Run in this directory.", metavar="DIR", shapes=True,
    ),
    BootOption(
        "entrypoint", ("--entrypoint",),
        "Replace the image's Entrypoint, and drop its Cmd; empty: run CMD itself.",
        metavar="COMMAND", shapes=True,
    ),
    BootOption(
        "env", ("-e", "--env"), "Set a variable; K alone takes the host's.", str, (), "K[=V]",
        shapes=True,
    ),
    BootOption(
        "env_file", ("--env-file",), "Set the variables that FILE has, a line each.", file, (),
        "FILE", shapes=True,
    ),
    BootOption("memory", ("-m", "--memory"), "RAM.  [default: 256M]", metavar="SIZE", shapes=True),
    BootOption("cpus", ("--cpus",), "CPUs.  [default: 1]", count, metavar="N", shapes=True),
    BootOption(
        "hostname", ("--hostname",), "Host name of the guest; default: random.", str, "", "NAME",
    ),
    BootOption(
        "network", ("--network",),
        "The guest's network: the hypervisor's own, none, or a tap device.  [default: user]",
        metavar="user|none|tap:IFNAME", shapes=True,
    ),
    BootOption("ip", ("--ip",), "The guest's address behind a tap.", metavar="ADDRESS/PREFIX"),
    BootOption("gateway", ("--gateway",), "The guest's gateway behind a tap.", metavar="ADDRESS"),
    BootOption(
        "dns", ("--dns",), "Ask this nameserver.  [default: the host's]", str, (), "ADDRESS",
        shapes=True,
    ),
    BootOption(
        "add_host", ("--add-host",), "Add a line to /etc/hosts; IP may be host-gateway.", str, (),
        "NAME:IP", shapes=True,
    ),
    BootOption(
        "interactive", ("-i", "--interactive"), "Pass stdin on to the application.", flag, False
    ),
    BootOption(
        "tty", ("-t", "--tty"), "Give the application a terminal; with -i, this one.", flag, False
    ),
    BootOption(
        "pull", ("--pull",), "Ask the registry only for what is not in the store, or always.",
        default="missing", choices=("missing", "always"),
        shapes=True,
    ),
    BootOption(
        "timeout", ("--timeout",), "Stop the guest after S seconds, with status 124.", seconds,
        metavar="S",
    ),
    BootOption(
        "rootfs_as", ("--rootfs",),
        "Map the root file system (persistent memory), or read it as a block device.  "
        "[default: dax]",
        choices=("dax", "blk"),
        shapes=True,
    ),
    BootOption(
        "require_dax", ("--require-dax",), "Fail unless the guest proves that DAX works.", flag,
        False,
    ),
    BootOption(
        "warm", ("--warm",), "Start a copy of what `hyperbuild warm` has saved.", flag, False
    ),
    BootOption(
        "require_warm", ("--require-warm",), "As --warm, and fail where no template fits.", flag,
        False,
    ),
    BootOption(
        "health_command", ("--health-cmd",), "Check health by this, instead of the image's way.",
        str, "", "COMMAND", shapes=True,
    ),
    BootOption(
        "disk", ("--disk",), "Keep what the guest writes in FILE, made if it is missing (10G).",
        metavar="FILE[:SIZE]",
    ),
    BootOption(
        "report", ("--report",),
        "Write the boot timeline into FILE.json, or draw it in FILE.html; with --smoke also as "
        "JUnit XML in FILE.xml.",
        file, (), "FILE",
    ),
    BootOption(
        "budget", ("--budget",),
        "Fail if a step comes later: app_exec=400ms, or counted in guest instructions: insns=18M, "
        "insns:app_exec=30M.",
        str, (), "STEP=LIMIT",
    ),
    BootOption(
        "accel", ("--accel",), "Hardware virtualization or emulation.", default="auto",
        choices=("auto", "kvm", "tcg"), variable="HYPERBUILD_ACCEL",
        shapes=True,
    ),
    BootOption(
        "profile", ("--profile",), "Kernel for an image that is converted first.  [default: dax]",
        choices=("micro", "dax", "full", "disk"),
        shapes=True,
    ),
    BootOption(
        "kernel_file", ("--kernel",), "An ELF kernel with a PVH entry, instead of the HyperKernel.",
        Path, metavar="PATH",
        shapes=True,
    ),
    BootOption(
        "platform_text", ("--platform",), "Default: linux on this CPU.",
        metavar="OS/ARCH[/VARIANT]",
        shapes=True,
    ),
    BootOption(
        "authfile", ("--authfile",), "File of registry credentials.", Path, metavar="PATH",
        shapes=True,
    ),
    BootOption(
        "policy", ("--policy",), "Boot only what this file allows, by who has signed it.", file,
        metavar="FILE", shapes=True,
    ),
    BootOption(
        "smoke", ("--smoke",),
        "Stop once all that is expected has come, with status 0; 1 if it has not.", flag, False,
    ),
    BootOption(
        "expect_http", ("--expect-http",),
        "Expect an answer by HTTP, as in /, :8080/health=204 or /~Welcome.",
        str, (), "[:PORT]/PATH[=STATUS][~REGEX]",
    ),
    BootOption(
        "expect_port", ("--expect-port",), "Expect that a TCP port is listened on.", count, (),
        "PORT",
    ),
    BootOption(
        "expect_log", ("--expect-log",), "Expect that the application writes this.", str, (),
        "REGEX",
    ),
    BootOption(
        "expect_exit", ("--expect-exit",), "Expect that the application ends with this.", status,
        metavar="STATUS",
    ),
    BootOption(
        "console_log", ("--console-log",),
        "Where to keep what a VM said that failed its smoke test; default: a file in the cache.",
        file, metavar="FILE",
    ),
)  # fmt: skip


def read_plainly(
    words: Sequence[str],
    environment: Mapping[str, str],
    command: str = "boot",
    options: Sequence[BootOption] = BOOT_OPTIONS,
) -> dict[str, Any] | None:
    """Return the fields of options as words (those behind the command) and variables say.

    None if they are not plainly right.
    """
    if any(
        name.startswith((*_VARIABLES, f"HYPERBUILD_{command.upper()}_")) for name in environment
    ):
        return None
    try:
        return _Words(words, environment, options).read()
    except (ValueError, LookupError):
        return None


class _Words:
    """Options before and after the image; from the first word behind them on, all is CMD."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], options: Sequence[BootOption]
    ) -> None:
        self._words = list(words)
        self._by_name = {name: option for option in options for name in option.names}
        self._values: dict[str, Any] = {option.field: option.default for option in options}
        for option in options:
            if option.variable and option.variable in environment:
                self._take(option, environment[option.variable])

    def read(self) -> dict[str, Any]:
        self._options()
        if self._words[:1] == ["--"]:
            del self._words[0]
            image = self._words.pop(0)
        else:
            image = self._words.pop(0)
            self._options()
            if self._words[:1] == ["--"]:
                del self._words[0]
        return {**self._values, "image": image, "command": tuple(self._words)}

    def _options(self) -> None:
        while self._words and self._words[0][:1] == "-" and self._words[0] not in ("-", "--"):
            word = self._words.pop(0)
            name, equals, value = word.partition("=")
            if not word.startswith("--") and len(word) > 2:
                name, equals, value = word[:2], "=", word[2:]
            option = self._by_name[name]
            if option.read is flag:
                if equals:
                    raise ValueError(word)
                self._values[option.field] = True
            else:
                self._take(option, value if equals else self._words.pop(0))

    def _take(self, option: BootOption, text: str) -> None:
        if not text or (option.choices and text not in option.choices):
            raise ValueError(text)
        value = option.read(text)
        several = isinstance(option.default, tuple)
        self._values[option.field] = (*self._values[option.field], value) if several else value
