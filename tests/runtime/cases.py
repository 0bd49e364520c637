"""What is run both ways: images, and how they are asked to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The name of a case's exit status in what is compared, unless it has one of its own.
STATUS = "exit status"

_NGINX = """/report
nginx -t 2>&1
nginx
curl --silent http://127.0.0.1/
nginx -s quit
exit 3
"""
_REDIS = """/report
redis-server --save "" --daemonize yes --logfile "" >/dev/null
until redis-cli ping >/dev/null 2>&1; do sleep 0.1; done
redis-cli set key "a value"
redis-cli get key
redis-cli config get dir
redis-cli shutdown nosave
exit 5
"""
_POSTGRES = """/report
stat --format="%n %a %u:%g" "$PGDATA" /var/lib/postgresql/data
pg_ctl -w -l /dev/null -o "-c listen_addresses=" start >/dev/null
psql -U postgres -Atc "SELECT sum(n), current_user FROM generate_series(1, 100) AS n"
psql -U postgres -Atc "SHOW shared_memory_type"
pg_ctl -w -m fast stop >/dev/null
exit 7
"""


@dataclass(frozen=True)
class Case:
    """An image, words that replace its Cmd, and variables of the user's.

    image is a Debian image's name, or the config of the torture image. stop: it is stopped once it
    has written a line. The container must end with ends, and say says, so that two failures are no
    agreement. status names the exit status, where that is what the case is about.
    """

    image: str | dict[str, Any]
    words: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    stop: bool = False
    ends: int = 0
    says: str = ""
    status: str = STATUS


def _shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


_ODD = [
    "EMPTY=",
    "TWICE=first",
    "EQUAL==a=b=",
    "SPACES= a  b ",
    "UNICODE=ünïcödé ☃",
    "TWICE=second",
    "HOME=",
]


def _stopped(**config: str) -> Case:
    return Case(
        {"Cmd": ["report-wait"], **config},
        stop=True,
        ends=40,
        says="signal",
        status="status of what is stopped",
    )


_VOLUMES = ("/data", "/made/by/volume", "/link/inner")

CASES: dict[str, Case] = {
    "nginx": Case("nginx", ("sh", "-c", _NGINX), ends=3, says="<h1>nginx, in a VM of its own</h1>"),
    "redis": Case("redis", ("sh", "-c", _REDIS), ends=5, says="a value"),
    "postgresql": Case(
        "postgresql", ("sh", "-c", _POSTGRES), options=("-m", "512M"), ends=7, says="5050|postgres"
    ),
    "a named user, volumes, odd variables": Case(
        {
            "User": "app",
            "WorkingDir": "/link/missing/deep",
            "Volumes": {path: {} for path in _VOLUMES},
            "Env": _ODD,
            "Entrypoint": ["report-volumes"],
            "Cmd": ["/data", "/made/by/volume", "/real/inner"],
        }
    ),
    "numbers, no variables, no entrypoint": Case(
        {
            "User": "1234:29",
            "WorkingDir": "//link/./inner/../new/",
            "Cmd": ["report", "a b", "", "ünïcödé", "--x=y", "*"],
        }
    ),
    "an entrypoint in shell form": Case(
        {
            "User": "twin",
            "Env": ["HOME=/else where", "PATH=/bin:/sbin"],
            "Entrypoint": [*_shell('report by shell "$0" "$@"; exit 9'), "zero"],
            "Cmd": _shell("never"),
        },
        ends=9,
    ),
    "words and variables of the user's": Case(
        {
            "User": "app:audio",
            "Env": ["A=image", "B=image", "C=image", "PATH=/bin"],
            "Entrypoint": ["report", "first"],
            "Cmd": ["never"],
        },
        words=("--own", "words"),
        own=("NEW=1", "B=", "C", "HOSTNAME"),
    ),
    "a name of digits, a command in shell form": Case(
        {"User": "7:10", "Cmd": _shell("report; exit 255")}, ends=255
    ),
    "root, killed by a fault": Case({"Cmd": _shell("report; exec report-crash")}, ends=139),
    "no such command": Case({"Cmd": ["no-such"]}, ends=127),
    "no such file": Case({"Cmd": ["/no/such"]}, ends=127),
    "not executable": Case({"Cmd": ["/etc/passwd"]}, ends=126),
    "an empty PATH": Case({"Env": ["PATH="], "WorkingDir": "/bin", "Cmd": ["true"]}, ends=127),
    "a directory for root alone": Case({"User": "app", "WorkingDir": "/private", "Cmd": ["true"]}),
    "a broken link": Case(
        {"WorkingDir": "/dangling/below", "Cmd": ["true"]},
        status="status with a WORKDIR behind a broken link",
    ),
    "a relative directory": Case(
        {"WorkingDir": "bin", "Cmd": ["true"]}, ends=125, status="status with a relative WORKDIR"
    ),
    "SIGTERM at itself": Case(
        {"Cmd": ["report-die", "15"]},
        ends=41,
        status="status of an application that raises SIGTERM",
    ),
    "SIGQUIT": _stopped(StopSignal="SIGQUIT"),
    "SIGRTMIN+3": _stopped(StopSignal="SIGRTMIN+3"),
    "RTMAX-2": _stopped(StopSignal="RTMAX-2", User="app"),
}
