"""Health checks as people write them in files, in the words of an image's config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMES = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
_NANOSECONDS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


def healthcheck_object(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the Healthcheck object of a table ``healthcheck``; None for none.

    Source: moby's image spec v1.2, "Healthcheck": times are nanoseconds.
    """
    if said is None:
        return None
    check = {"Test": said["test"]}
    check |= {name: _nanoseconds(said[key]) for key, name in _TIMES.items() if key in said}
    return check | ({"Retries": said["retries"]} if "retries" in said else {})


def _nanoseconds(text: str) -> int:
    number = text.rstrip("ums")
    return round(float(number) * _NANOSECONDS[text.removeprefix(number)])
