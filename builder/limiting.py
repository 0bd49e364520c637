"""The options of ``hyperbuild convert`` that bound what an image may ask for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hyperbuild.converter.limits import DEFAULT_LIMITS, LARGEST_DOCUMENT, Limits, shown_size

if TYPE_CHECKING:
    from collections.abc import Callable

    _Command = TypeVar("_Command", bound=Callable[..., Any])

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_LARGEST = 1 << 62


class _Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes as ``4096``, ``512M``, ``64GiB``: powers of 1024."""

    name = "size"

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes that value says; a usage error otherwise."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15})([kmgt]?)(?:i?b)?", value, re.ASCII | re.IGNORECASE)
        size = int(match[1]) << _UNITS[match[2].lower()] if match else 0
        if not 0 < size <= self._largest:
            most = shown_size(self._largest)
            self.fail(f"{value!r} is not a size up to {most}; say 512K or 64G.", param, ctx)
        return size


_OPTIONS = (
    ("unpacked", _Size(), "SIZE", "Refuse an image that unpacks to more"),
    ("file", _Size(), "SIZE", "Refuse a file larger than this"),
    ("entries", click.IntRange(1), "N", "Refuse an image of more entries"),
    ("depth", click.IntRange(1, 2048), "N", "Refuse paths of more components"),
    ("metadata", _Size(), "SIZE", "Refuse more names and attributes, which are kept in memory"),
    ("ratio", click.IntRange(1), "N", "Refuse a layer that unpacks to N times its size"),
    ("document", _Size(LARGEST_DOCUMENT), "SIZE", "Refuse a larger index, manifest or config"),
)


#: For commands that write what the layers unpack to.
space_option = click.option(
    "--no-space-check", is_flag=True, help="Don't compare free disk space with the layers."
)


def limit_options(command: _Command) -> _Command:
    """Add an option for each limit; ``read_limits`` makes Limits of their values."""
    for name, kind, metavar, text in reversed(_OPTIONS):
        default = getattr(DEFAULT_LIMITS, name)
        shown = shown_size(default) if metavar == "SIZE" else str(default)
        command = click.option(
            f"--max-{name}", f"max_{name}",
            type=kind, default=default, metavar=metavar, help=f"{text}.  [default: {shown}]",
        )(command)  # fmt: skip
    return command


def read_limits(options: dict[str, Any]) -> Limits:
    """Make Limits of what ``limit_options`` and ``space_option``, if it is there, gave."""
    chosen = {name: options[f"max_{name}"] for name, *_ in _OPTIONS}
    return Limits(**chosen, check_space=not options.get("no_space_check"))
