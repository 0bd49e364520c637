"""One container of a pod, as the supervisor of its VM knows it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, Protocol

from hyperbuild.launcher.channel import Command
from hyperbuild.launcher.container_health import HEALTHY, UNHEALTHY, ContainerHealth
from hyperbuild.launcher.health import read_healthcheck
from hyperbuild.launcher.instances import EXITED, RESTARTING, RUNNING, timestamp
from hyperbuild.launcher.pod import Condition
from hyperbuild.launcher.restarting import next_pause
from hyperbuild.launcher.spec import arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.launcher.health import HealthCheck
    from hyperbuild.launcher.pod import Member

#: Statuses beside those of a VM: it waits for others, or has been asked for and not yet heard of.
WAITING, STARTING = "waiting", "starting"
#: It is in the guest.
ALIVE = (STARTING, RUNNING)


class Actions(Protocol):
    """What a container has done for it."""

    def at(self, moment: float | None, call: Callable[[], None], /) -> None:
        """Have call called at moment (of time.monotonic); None takes it back."""

    def order_signal(self, number: int, process: int, /) -> None:
        """Send a signal to a process of the guest."""

    def start_again(self, container: Container, /) -> None:
        """Start it, now that its pause is over."""

    def look(self, container: Container, /) -> None:
        """Ask for its health, or give up the check that has not ended in its time."""


class Container:
    """One container, in one run of its VM: what is known of it, and when it has something done."""

    def __init__(self, actions: Actions, index: int, member: Member, *, is_awaited: bool) -> None:
        process = member.files.bundle.process
        self._actions = actions
        self.index = index
        self.member = member
        self.name = member.name
        args = arguments(process, member.options.args)
        self.command = Command(args=tuple(os.fsencode(word) for word in args), container=index)
        self.check: HealthCheck | None = read_healthcheck(
            process.healthcheck, member.options.health_command
        )
        self._is_awaited = is_awaited
        self._stop_signal = process.stop_signal.number
        self.status = WAITING
        self.has_started = False
        self.exit_status: int | None = None
        self._reason = ""
        self._started = self._finished = ""
        self._started_at = 0.0
        self._pause = 0.0
        self._restarts = 0
        self._process = 0
        self._is_asked = False
        self._is_killed = False
        self._health: ContainerHealth | None = None

    def document(self) -> dict[str, Any]:
        """Describe it for state.json."""
        return {
            "name": self.name,
            "status": self.status,
            "exit_status": self.exit_status,
            "reason": self._reason,
            "started": self._started,
            "finished": self._finished,
            "restarts": self._restarts,
            "health": self._health.state if self._health else "",
        }

    def meets(self, condition: Condition) -> bool:
        """Tell whether those that wait for it, on that condition, may start."""
        if condition is Condition.COMPLETED:
            return self.status == EXITED and self.exit_status == 0
        if condition is Condition.HEALTHY:
            return self._health is not None and self._health.state == HEALTHY
        return self.has_started

    def never_meets(self, condition: Condition) -> str:
        """Say why those that wait for it, on that condition, wait in vain; "" if they may not."""
        if self.status == EXITED:
            return f"ended with {self.exit_status}"
        is_unhealthy = self._health is not None and self._health.state == UNHEALTHY
        return "is unhealthy" if condition is Condition.HEALTHY and is_unhealthy else ""

    def note_order(self, process: int) -> None:
        """Learn that its start is under way, as that process."""
        self.status, self._process, self._is_asked = STARTING, process, False

    def note_start(self) -> None:
        """Learn that it runs."""
        self.status, self.has_started = RUNNING, True
        self.exit_status, self._reason = None, ""
        self._started, self._finished = timestamp(), ""
        self._started_at = time.monotonic()
        if self.check:
            self._health = ContainerHealth(
                self.check, self._started_at, is_awaited=self._is_awaited
            )
            self._look_later()

    def note_end(self, status: int, reason: str) -> None:
        """Learn that it ended; reason is empty if by itself."""
        self.status, self.exit_status, self._reason = EXITED, status, reason
        self._finished = timestamp()
        self._health = None
        self._actions.at(None, self.look)

    def restart_later(self) -> None:
        """Start again after a pause, if that is its policy."""
        policy = self.member.restart
        if self._is_killed or not policy.wants(self.exit_status or 0, self._restarts):
            return
        ran = time.monotonic() - self._started_at
        self._pause = next_pause(self._pause, ran)
        self.status = RESTARTING
        self._actions.at(time.monotonic() + self._pause, self._start_again)

    def _start_again(self) -> None:
        self._restarts += 1
        self._actions.start_again(self)

    def forgo(self) -> None:
        """Start no more."""
        self._actions.at(None, self._start_again)
        if self.status in (WAITING, RESTARTING):
            self.status = EXITED

    def ask_to_stop(self) -> None:
        """Send the image's stop signal, once, if it runs."""
        if self.status == RUNNING and not self._is_asked:
            self._is_asked = True
            self._actions.order_signal(self._stop_signal, self._process)

    def signal(self, number: int) -> bool:
        """Send a signal, if it runs; return whether there was anything to do."""
        if number in (signal.SIGKILL, self._stop_signal):
            # As under docker: who is killed by its user stays dead.
            self._is_killed = True
            if self.status == RESTARTING:
                self.forgo()
                return True
        if self.status != RUNNING:
            return False
        self._actions.order_signal(number, self._process)
        return True

    def lose(self) -> None:
        """Learn that the VM is gone."""
        self._actions.at(None, self.look)
        self.forgo()
        if self.status in ALIVE:
            self.note_end(128 + signal.SIGKILL, "the VM ended")

    def look(self) -> None:
        """Have its health asked for: the time has come."""
        self._actions.look(self)

    def _look_later(self) -> None:
        if self._health:
            now = time.monotonic()
            self._actions.at(now + self._health.next_wait(now), self.look)

    def judge(self, *, is_success: bool) -> bool:
        """Take the result of a health check; return whether it changes something."""
        if not self._health:
            return False
        changed = self._health.judge(time.monotonic(), is_success=is_success)
        self._look_later()
        return changed
