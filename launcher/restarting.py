"""Whether a VM that has ended is started again, and after how long: docker's rules."""

from __future__ import annotations

import re

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record

NO, ON_FAILURE, ALWAYS, UNLESS_STOPPED = "no", "on-failure", "always", "unless-stopped"

#: Seconds: the first pause, the longest, and how long a run counts as a good one.
FIRST_PAUSE, LONGEST_PAUSE, GOOD_RUN = 0.1, 60.0, 10.0


class RestartPolicy(Record):
    """A policy by its name; most counts the restarts of "on-failure" (0: without a limit)."""

    name: str = NO
    most: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.most}" if self.most else self.name

    def wants(self, status: int, restarts: int) -> bool:
        """Tell whether a VM that ended with status is to start again, after so many restarts.

        One that was stopped by its user is not, whatever the policy.
        """
        if self.name == ON_FAILURE:
            return status != 0 and (not self.most or restarts < self.most)
        return self.name in (ALWAYS, UNLESS_STOPPED)


def parse_restart(text: str) -> RestartPolicy:
    """Read ``no``, ``on-failure[:N]``, ``always`` or ``unless-stopped``; InputError otherwise."""
    match = re.fullmatch(r"(no|on-failure|always|unless-stopped)(?::(\d{1,9}))?", text, re.ASCII)
    if match is None or (match[2] and match[1] != ON_FAILURE):
        raise InputError(
            f"restart policy {printable(text)!r} is none; "
            "say no, on-failure, on-failure:5, always or unless-stopped"
        )
    return RestartPolicy(match[1], int(match[2] or 0))


def next_pause(pause: float, ran: float) -> float:
    """Return the pause before the next start; the last one was pause, the run took ran seconds."""
    if ran >= GOOD_RUN or not pause:
        return FIRST_PAUSE
    return min(2 * pause, LONGEST_PAUSE)
