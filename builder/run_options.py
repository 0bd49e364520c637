"""The options of ``hyperbuild run``: its own, and what it shares with ``boot``."""

from __future__ import annotations

from hyperbuild.builder.boot_options import BOOT_OPTIONS, BootOption, flag

#: What belongs to a boot that somebody waits for: smoke tests, and files about that boot.
_NOT_FOR_RUN = (
    "report", "smoke", "expect_http", "expect_port", "expect_log", "expect_exit", "console_log",
)  # fmt: skip

OWN_OPTIONS = (
    BootOption(
        "detach", ("-d", "--detach"),
        "Return once the application is started, and print the VM's ID.", flag, False,
    ),
    BootOption(
        "name", ("--name",), "A name to call the VM by; default: a random one.", str, "", "NAME",
    ),
    BootOption(
        "auto_remove", ("--rm",), "Remove the VM, its log included, once it has ended.", flag, False
    ),
    BootOption(
        "restart", ("--restart",),
        "Start it again once it has ended: no, on-failure[:N], always or unless-stopped.",
        default="no", metavar="POLICY",
    ),
    BootOption(
        "log_size", ("--log-size",), "What its log may take of the disk; the oldest goes.",
        default="20M", metavar="SIZE",
    ),
)  # fmt: skip

RUN_OPTIONS = (
    *OWN_OPTIONS,
    *(option for option in BOOT_OPTIONS if option.field not in _NOT_FOR_RUN),
)
