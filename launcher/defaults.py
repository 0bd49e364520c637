"""How a bundle wants to be booted and tested: the optional object ``boot`` of bundle.json.

{"version": 1,
 "options": {"memory": "128M", "cpus": 1, "env": ["K=V", …], "cmd": […],
             "hostname", "network", "rootfs", "require-dax": true, "health-cmd",
             "user", "workdir", "entrypoint", "tmpfs": ["/run", …], "read-only": true,
             "add-host": ["NAME:IP", …]},                                            each optional
 "smoke":   {"http": […], "port": […], "log": […], "exit", "timeout"} or null,
 "budgets": ["app_exec=400ms", …]}

The options are what ``hyperbuild boot`` uses where its command line says nothing else; smoke and
budgets count for smoke tests alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.records import Record
from hyperbuild.launcher.expectations import Contract, read_contract

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
_KINDS: Mapping[str, type] = {
    "memory": str,
    "cpus": int,
    "env": list,
    "cmd": list,
    "hostname": str,
    "network": str,
    "rootfs": str,
    "require-dax": bool,
    "health-cmd": str,
    "user": str,
    "workdir": str,
    "entrypoint": str,
    "tmpfs": list,
    "read-only": bool,
    "add-host": list,
}
_CHOICES: Mapping[str, tuple[str, ...]] = {"network": ("user", "none"), "rootfs": ("dax", "blk")}


class BootDefaults(Record):
    """Options by name, the contract that the bundle was built under (None: there was none)."""

    options: Mapping[str, Any]
    smoke: Contract | None = None
    budgets: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "version": VERSION,
            "options": dict(self.options),
            "smoke": None if self.smoke is None else self.smoke.document(),
            "budgets": list(self.budgets),
        }


def read_defaults(data: object, where: str) -> BootDefaults:
    """Read a ``document``; ContentError for another version, or anything that is not known."""
    if not isinstance(data, dict):
        raise ContentError(f"{where}: an object was expected")
    if data.get("version") != VERSION:
        raise ContentError(
            f"{where}: version {printable(repr(data.get('version')))} is not {VERSION}; "
            "make the bundle again with hyperbuild build"
        )
    if set(data) != {"version", "options", "smoke", "budgets"}:
        raise ContentError(f"{where}: version, options, smoke and budgets were expected")
    options, budgets, smoke = data["options"], data["budgets"], data["smoke"]
    if not isinstance(options, dict) or not _are_texts(budgets):
        raise ContentError(f"{where}: options or budgets are not what they should be")
    for name, value in options.items():
        kind = _KINDS.get(name)
        fits = type(value) is kind and (kind is not list or _are_texts(value))
        # A name alone would take the variable of whoever boots the bundle.
        fits = fits and (name != "env" or all("=" in text for text in value))
        if not fits or value not in _CHOICES.get(name, (value,)):
            raise ContentError(
                f"{where}: options: {printable(name)} is not known, or not what it should be"
            )
    contract = None if smoke is None else read_contract(smoke, f"{where}: smoke")
    return BootDefaults(options, contract, tuple(budgets))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
