"""The health of one container of a pod, as the host asks for it: docker's rules.

Of a VM's only application hyperstart asks itself (initramfs/src/health.c), by the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperbuild.launcher.health import HealthCheck

HEALTHY, UNHEALTHY = "healthy", "unhealthy"

#: Somebody who waits is told soon: seconds to the first look, and the share of the time waited.
_FIRST_LOOK, _SHARE = 0.05, 8


class ContainerHealth:
    """What is known since a start at ``started`` (seconds, as all moments here).

    is_awaited: somebody waits for its first success, so it is asked sooner.
    """

    def __init__(self, check: HealthCheck, started: float, *, is_awaited: bool) -> None:
        self._check = check
        self._started = started
        self._counted = started
        self._is_awaited = is_awaited
        self._failures = 0
        #: "", HEALTHY or UNHEALTHY.
        self.state = ""

    def next_wait(self, moment: float) -> float:
        """Return the seconds from moment to the next look."""
        check, waited = self._check, moment - self._started
        is_starting = not self.state
        in_period = is_starting and waited < check.start_period / 1000
        wait = (check.start_interval if in_period else check.interval) / 1000
        if self._is_awaited and is_starting:
            return min(wait, max(waited / _SHARE, _FIRST_LOOK))
        return wait

    def judge(self, moment: float, *, is_success: bool) -> bool:
        """Take the result of a look that ended at moment; return whether the state is another."""
        before = self.state
        if is_success:
            self.state, self._failures = HEALTHY, 0
        elif self.state == HEALTHY or self._counts(moment):
            self._counted = moment
            self._failures += 1
            if self._failures >= self._check.retries:
                self.state = UNHEALTHY
        return self.state != before

    def _counts(self, moment: float) -> bool:
        """Tell whether a failure counts: at the image's own pace, and not while it starts."""
        return (
            moment - self._started >= self._check.start_period / 1000
            and moment - self._counted >= self._check.interval / 1000
        )
