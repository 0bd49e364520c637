"""What a smoke test expects of a VM: a contract as people write it, and the expectations it means.

    [:PORT]/PATH[=STATUS][~REGEX]      what --expect-http and a recipe's smoke.http take

STATUS is three digits; without one anything below 400 will do. The first ~ begins the REGEX, so one
of the path is %7E. Regular expressions are Python's, match bytes, and ^ and $ mean lines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError, InputError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from hyperbuild.launcher.bundle import Process

#: Seconds that a smoke test takes at most, unless told.
DEFAULT_TIMEOUT = 120.0
_DEFAULT_PORT = 80
_HTTP = re.compile(
    r"(?::(?P<port>\d{1,5}))?(?P<path>/[!-}]*?)(?:=(?P<status>\d{3}))?(?:~(?P<regex>.*))?",
    re.ASCII | re.DOTALL,
)


class Contract(Record):
    """What is to hold, as people write it; nothing at all means the image's own contract.

    ``exit`` is a status, ``timeout`` in seconds; ``port`` holds TCP ports of the guest.
    """

    http: tuple[str, ...] = ()
    port: tuple[int, ...] = ()
    log: tuple[str, ...] = ()
    exit: int | None = None
    timeout: float | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it expects nothing by name."""
        return not (self.http or self.port or self.log or self.exit is not None)

    def document(self) -> dict[str, Any]:
        """Return what it says as a JSON object."""
        return {key: value for key, value in self.as_dict().items() if value not in ((), None)}


def read_contract(data: object, where: str) -> Contract:
    """Read a ``document``; ContentError for anything unknown or of the wrong type."""
    if not isinstance(data, dict):
        raise ContentError(f"{where}: an object was expected")
    kinds = {"http": str, "port": int, "log": str}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in kinds:
            fits = isinstance(value, list) and all(type(item) is kinds[key] for item in value)
            values[key] = tuple(value) if fits else ()
        else:
            fits = key in ("exit", "timeout")
            fits = fits and type(value) in ((int,) if key == "exit" else (int, float))
            values[key] = value
        if not fits:
            raise ContentError(f"{where}: {printable(key)} is not known, or not what it should be")
    return Contract(**values)


class Health(Record):
    """The health check succeeds."""

    def __str__(self) -> str:
        return "healthy"


class Port(Record):
    """A TCP port of the guest is listened on, and not by its loopback alone."""

    port: int

    def __str__(self) -> str:
        return f"port {self.port}"


class Http(Record):
    """A GET of path is answered with status (None: below 400) and a body that regex is found in."""

    port: int
    path: str
    status: int | None = None
    regex: str = ""

    def __str__(self) -> str:
        status = "" if self.status is None else f"={self.status}"
        return f"http :{self.port}{self.path}{status}" + f"~{self.regex}" * bool(self.regex)


class Log(Record):
    """The application writes what regex is found in."""

    regex: str

    def __str__(self) -> str:
        return f"log {self.regex}"


class Ends(Record):
    """The application ends with status."""

    status: int

    def __str__(self) -> str:
        return f"exit {self.status}"


class Works(Record):
    """The application listens on one of ports; without any, on some port, or it ends with 0."""

    ports: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.ports:
            return f"listens on {' or '.join(map(str, self.ports))}"
        return "listens or exits with 0"


Expectation = Health | Port | Http | Log | Ends | Works


def expected(
    contract: Contract, process: Process, *, health_command: str = ""
) -> tuple[Expectation, ...]:
    """Return what contract means for an image's process.

    The image's HEALTHCHECK, or health_command, is part of it unless the application shall end.
    Without either, and without a word, it is that the image ``Works``.
    InputError: the contract is none, or can't be kept.
    """
    check_contract(contract, health_command=health_command)
    if contract.exit is not None:
        return (*map(Log, contract.log), Ends(contract.exit))
    exposed = _exposed(process)
    found: list[Expectation] = []
    if health_command or _has_healthcheck(process):
        found.append(Health())
    found += map(Port, contract.port)
    found += [parse_http(text, exposed) for text in contract.http]
    found += map(Log, contract.log)
    return tuple(found) or ((Port(*exposed),) if len(exposed) == 1 else (Works(exposed),))


def check_contract(contract: Contract, *, health_command: str = "") -> None:
    """Raise InputError for a contract that no image could keep."""
    lasting = {"http": contract.http, "port": contract.port, "a health check": health_command}
    clash = next((name for name, value in lasting.items() if value), None)
    if contract.exit is not None and clash:
        raise InputError(
            f"an application that ends (exit) can't be asked for {clash} as well; "
            "expect one of the two"
        )
    if contract.exit is not None and not 0 <= contract.exit <= 255:
        raise InputError(f"exit status {contract.exit}: give 0 to 255")
    if contract.timeout is not None and not 0 < contract.timeout < float("inf"):
        raise InputError(f"timeout of {contract.timeout} s: give more than nothing")
    for port in contract.port:
        _check_port(port, str(port))
    for text in contract.log:
        compile_regex(text)
    for text in contract.http:
        parse_http(text, ())


def parse_http(text: str, exposed: tuple[int, ...]) -> Http:
    """Read ``[:PORT]/PATH[=STATUS][~REGEX]``; InputError if that is none.

    Without a PORT it is the one of exposed, or 80 if that is among them or there are none.
    """
    match = _HTTP.fullmatch(text)
    if match is None:
        raise InputError(
            f"http expectation {printable(text)!r} is not [:PORT]/PATH[=STATUS][~REGEX]; "
            "say /, :8080/health=204 or /index.html~Welcome"
        )
    if match["regex"]:
        compile_regex(match["regex"])
    if match["port"]:
        port = _check_port(int(match["port"]), text)
    elif len(exposed) > 1 and _DEFAULT_PORT not in exposed:
        shown = ", ".join(map(str, exposed))
        raise InputError(
            f"http expectation {printable(text)!r}: the image exposes the ports {shown}; "
            f"say which, as in :{exposed[0]}{match['path']}"
        )
    else:
        port = exposed[0] if len(exposed) == 1 else _DEFAULT_PORT
    status = int(match["status"]) if match["status"] else None
    return Http(port, match["path"], status, match["regex"] or "")


def compile_regex(text: str) -> re.Pattern[bytes]:
    """Compile what --expect-log and --expect-http take; InputError says where it is wrong."""
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"), re.MULTILINE)
    except (re.error, UnicodeEncodeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"regular expression {printable(text)!r} is none ({error}); "
            r"put a \ before what is meant as it stands"
        ) from error


def _check_port(number: int, text: str) -> int:
    if not 0 < number < 1 << 16:
        raise InputError(f"port {printable(text)!r}: ports go from 1 to 65535")
    return number


def _exposed(process: Process) -> tuple[int, ...]:
    """Return the TCP ports that the image exposes ("80/tcp", "80", "8000-8002/tcp")."""
    ports: list[int] = []
    for text in process.exposed_ports:
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/tcp)?", text, re.ASCII)
        if match:
            ports += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(sorted({port for port in ports if 0 < port < 1 << 16}))


def _has_healthcheck(process: Process) -> bool:
    if not process.healthcheck:
        return False
    from hyperbuild.launcher.health import read_healthcheck

    return read_healthcheck(process.healthcheck) is not None
