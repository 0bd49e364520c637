"""The image's HEALTHCHECK, in the words of the boot spec.

Source: moby's image spec v1.2, "Healthcheck" (OCI's image config knows none). Times are nanoseconds
there; what is absent or zero takes docker's default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

_MILLISECOND = 1_000_000
_LIMIT = 2**32 - 1


class HealthCheck(Record):
    """An argv, and in milliseconds when it is run; ``retries`` failures in a row count.

    The start interval is the interval within the start period, until it succeeds.
    """

    argv: tuple[str, ...]
    interval: int = 30_000
    timeout: int = 30_000
    start_period: int = 0
    start_interval: int = 5_000
    retries: int = 3

    def times(self) -> str:
        """Return the line of the boot spec's ``health-times``."""
        start = f"{self.start_period} {self.start_interval}"
        return f"{self.interval} {self.timeout} {start} {self.retries}\n"


def read_healthcheck(config: Mapping[str, Any] | None, command: str = "") -> HealthCheck | None:
    """Return the check of the config's Healthcheck object, None without one.

    command, if any, is run by the image's shell instead, as docker's --health-cmd. ContentError:
    the object is not what it should be.
    """
    fields = config or {}
    argv = ("/bin/sh", "-c", command) if command else _argv(fields.get("Test"))
    if not argv:
        return None
    default = HealthCheck(argv)
    return HealthCheck(
        argv,
        interval=_number(fields, "Interval", _MILLISECOND) or default.interval,
        timeout=_number(fields, "Timeout", _MILLISECOND) or default.timeout,
        start_period=_number(fields, "StartPeriod", _MILLISECOND),
        start_interval=_number(fields, "StartInterval", _MILLISECOND) or default.start_interval,
        retries=_number(fields, "Retries", 1) or default.retries,
    )


def _argv(test: Any) -> tuple[str, ...]:
    """Read ``["NONE"]``, ``["CMD", word…]`` or ``["CMD-SHELL", text]``."""
    if test in (None, [], ["NONE"]):
        return ()
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        raise _malformed("Test")
    kind, *words = test
    if kind == "CMD" and words and words[0]:
        return tuple(words)
    if kind == "CMD-SHELL" and len(words) == 1:
        return ("/bin/sh", "-c", words[0])
    raise _malformed("Test")


def _number(fields: Mapping[str, Any], name: str, unit: int) -> int:
    value = fields.get(name) or 0
    if not isinstance(value, int) or value < 0:
        raise _malformed(name)
    # Docker takes no less than a millisecond, and nothing here waits for seven weeks.
    return min(-(-value // unit), _LIMIT)


def _malformed(name: str) -> ContentError:
    return ContentError(
        f"the image's Healthcheck has a {name} that is none; correct it, or give --health-cmd"
    )
