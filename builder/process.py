"""From an image's config to the process that a VM starts, resolved against the image's files.

Source: OCI image-spec v1.1, config.md ("config") and conversion.md.
"""

from __future__ import annotations

import posixpath
import signal
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.users import Account, resolve_user
from hyperbuild.converter.errors import ContentError, NotFoundError
from hyperbuild.launcher.bundle import Finding, Process, Signal, User

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperbuild.converter.convert import Rootfs

_DATABASE_LIMIT = 4 << 20
DEFAULT_STOP_SIGNAL = "SIGTERM"
_SIGNAL_LIMIT = 64
_SIGNAL_NAME_LIMIT = 32


def resolve_process(config: Mapping[str, Any], rootfs: Rootfs, where: str) -> Process:
    """Return the process of an image's config object; where names the image in errors.

    A USER that is not there is among its ``findings``. ContentError for a config of wrong types.
    """
    fields = _Config(config, where)
    findings: tuple[Finding, ...] = ()
    try:
        account = resolve_user(
            fields.text("User"),
            rootfs.read_file(b"etc/passwd", _DATABASE_LIMIT) or b"",
            rootfs.read_file(b"etc/group", _DATABASE_LIMIT) or b"",
        )
    except NotFoundError as error:
        account, findings = Account(User(), "/"), (Finding("user", str(error), 125),)
    entrypoint = fields.texts("Entrypoint")
    return Process(
        args=entrypoint + fields.texts("Cmd"),
        entrypoint=entrypoint,
        env=fields.texts("Env"),
        cwd=_absolute(fields.text("WorkingDir")),
        home=account.home,
        user=account.user,
        stop_signal=parse_signal(fields.text("StopSignal") or DEFAULT_STOP_SIGNAL, where),
        healthcheck=fields.object("Healthcheck") or None,
        exposed_ports=tuple(sorted(fields.object("ExposedPorts"))),
        volumes=tuple(sorted(fields.object("Volumes"))),
        labels={key: str(value) for key, value in fields.object("Labels").items()},
        findings=findings,
    )


def parse_signal(text: str, where: str) -> Signal:
    """Read ``SIGTERM``, ``TERM``, ``15``, ``SIGRTMIN+3`` or ``RTMAX-1``; ContentError otherwise."""
    name = text.upper()
    if not name.isascii() or len(name) > _SIGNAL_NAME_LIMIT:
        number = 0
    elif name.isdigit():
        number = int(name)
    else:
        number = _signal_number(name if name.startswith("SIG") else f"SIG{name}")
    if not 0 < number <= _SIGNAL_LIMIT:
        raise ContentError(f"{where}: StopSignal {text!r} is no signal")
    try:
        return Signal(signal.Signals(number).name, number)
    except ValueError:
        return Signal(f"SIGRTMIN+{number - signal.SIGRTMIN}", number)


def _signal_number(name: str) -> int:
    """Return the number of SIGNAME, also as a distance from the first or last real-time signal."""
    for base, sign in (("SIGRTMIN", "+"), ("SIGRTMAX", "-")):
        offset = name.removeprefix(f"{base}{sign}")
        if offset != name:
            return int(signal.Signals[base]) + int(f"{sign}{offset}") if offset.isdigit() else 0
    known = getattr(signal.Signals, name, None)
    return int(known) if known else 0


def _absolute(directory: str) -> str:
    """Clean a path as docker does, by its text alone; a relative one begins at the root."""
    return posixpath.normpath(f"/{directory.lstrip('/')}")


class _Config:
    """Typed access to the config object; absent and null are the same."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self._where = where

    def _get(self, key: str, kind: type) -> Any:
        value = self._config.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise ContentError(f"{self._where}: {key} in its config is not what it should be")
        return value

    def text(self, key: str) -> str:
        text: str = self._get(key, str)
        return self._without_nul(key, text)

    def texts(self, key: str) -> tuple[str, ...]:
        items = self._get(key, list)
        if not all(isinstance(item, str) for item in items):
            raise ContentError(f"{self._where}: {key} in its config holds more than strings")
        return tuple(self._without_nul(key, item) for item in items)

    def object(self, key: str) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._get(key, dict)
        return value

    def _without_nul(self, key: str, text: str) -> str:
        if "\0" in text:
            raise ContentError(f"{self._where}: {key} in its config holds a NUL")
        return text
