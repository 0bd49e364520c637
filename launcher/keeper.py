"""The containers of a pod while its VM runs: started in their order, watched, started again.

Everything happens while the loop of the VM's supervisor turns, as in server.py.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, Protocol

from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.launcher.channel import (
    Command,
    Ended,
    Refused,
    Started,
    encode_clear,
    encode_signal,
    process_of,
    stdout_of,
)
from hyperbuild.launcher.container import ALIVE, WAITING, Container
from hyperbuild.launcher.instances import EXITED
from hyperbuild.launcher.journal import stderr_of_container, stdout_of_container
from hyperbuild.launcher.pod import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hyperbuild.launcher.channel import Frame, Message
    from hyperbuild.launcher.events import Events
    from hyperbuild.launcher.lines import Lines
    from hyperbuild.launcher.pod import Member

_FAILURE = 125


class Follower(Protocol):
    """Who wants to know what becomes of a pod's containers; each method is called as it happens."""

    def take_output(self, stream: int, data: bytes) -> None:
        """Take output of a container; ``stream`` is the journal's number for it."""

    def take_change(self) -> None:
        """Learn that ``Keeper.documents`` tells something new."""

    def take_start(self) -> None:
        """Learn that all containers have been started."""

    def take_end(self) -> None:
        """Learn that no container runs, and none will."""


class Keeper:
    """Keeps the containers of one pod, run after run of its VM."""

    def __init__(self, members: Sequence[Member], events: Events, follower: Follower) -> None:
        self._members = tuple(members)
        self._events = events
        self._follower = follower
        self._lines: Lines | None = None
        self._reset()

    def _reset(self) -> None:
        awaited = {
            name
            for member in self._members
            for name, condition in member.after
            if condition is Condition.HEALTHY
        }
        self._containers = {
            member.name: Container(self, index, member, is_awaited=member.name in awaited)
            for index, member in enumerate(self._members)
        }
        #: What runs, by the numbers of the processes; and how many streams may still come of each.
        self._processes: dict[int, Container] = {}
        self._flows: dict[int, tuple[Container, int]] = {}
        self._checks: dict[int, Container] = {}
        self._owed: dict[int, int] = {}
        self._is_held = False
        self._is_stopping = False
        self._all_started = False
        self.is_over = False
        self._failure: tuple[int, str] | None = None

    # What the supervisor's server says.

    def connect(self, lines: Lines) -> None:
        """Be given the way to the guest of a run that begins."""
        self._reset()
        self._lines = lines

    def begin(self) -> None:
        """Start what waits for nothing: the guest is ready."""
        self._start_ready()

    def end(self) -> None:
        """Learn that there is no VM any more."""
        self._events.at(None, self._clear_all)
        for container in self._containers.values():
            container.lose()
        self._lines = None

    def see(self, message: Message) -> bool:
        """Take what the guest tells; return whether it was about a process of the pod's own."""
        if not isinstance(message, Started | Ended | Refused):
            return False
        if message.process in self._checks:
            self._see_check(message)
            return True
        container = self._processes.get(message.process)
        if container is None:
            return False
        if isinstance(message, Started):
            container.note_start()
            self._note_starts()
            self._follower.take_change()
            return True
        del self._processes[message.process]
        if isinstance(message, Refused):
            del self._flows[message.process]
            if self._all_started or self._is_stopping:
                self._take_end(container, message.status, message.text)
            else:
                container.note_end(message.status, message.text)
                self._fail(message.status, f"container {container.name}: {message.text}")
        else:
            self._order(encode_clear(container.index))
            self._take_end(container, message.status, "")
        self._follower.take_change()
        self._check_over()
        return True

    def see_output(self, frame: Frame) -> bool:
        """Take a piece of output; return whether it is of a process of the pod's own."""
        number = process_of(frame.sequence)
        if number in self._checks:
            # Nobody has asked for what a health check says.
            if self._lines:
                self._lines.release(frame.sequence, len(frame.data))
            return True
        if number not in self._flows:
            return False
        container, streams = self._flows[number]
        is_stdout = frame.sequence == stdout_of(number)
        stream = (stdout_of_container if is_stdout else stderr_of_container)(container.index)
        self._follower.take_output(stream, frame.data)
        if frame.data:
            self._owed[frame.sequence] = self._owed.get(frame.sequence, 0) + len(frame.data)
            self.hold(self._is_held)
        elif streams > 1:
            self._flows[number] = (container, streams - 1)
        else:
            del self._flows[number]
            self._check_over()
        return True

    def hold(self, wanted: bool) -> None:
        """Let the containers wait with their output for a reader that is slow; or go on."""
        self._is_held = wanted
        if wanted or not self._lines:
            return
        for sequence, size in self._owed.items():
            self._lines.release(sequence, size)
        self._owed.clear()

    def stop(self, grace: float) -> None:
        """Stop all: who waits for others first; after grace seconds by SIGKILL."""
        self._is_stopping = True
        for container in self._containers.values():
            container.forgo()
        self._events.at(time.monotonic() + grace, self._clear_all)
        self._stop_next()
        self._follower.take_change()
        self._check_over()

    def signal(self, number: int, name: str = "") -> bool:
        """Send a signal to the application of one container, or of each; False if none runs."""
        wanted = [
            container
            for container in self._containers.values()
            if not name or container.name == name
        ]
        # All are asked, however many it takes.
        return any([container.signal(number) for container in wanted])  # noqa: C419

    def index(self, name: str) -> int | None:
        """Return the number of the container called name ("": the first); None if there is none."""
        container = self._containers.get(name) if name else next(iter(self._containers.values()))
        return container.index if container else None

    @property
    def names(self) -> tuple[str, ...]:
        """The containers' names, in their order."""
        return tuple(self._containers)

    @property
    def result(self) -> tuple[int, str]:
        """The pod's exit status and, if it did not end by itself, why.

        That is the first container's, in their order, that did not end with 0.
        """
        if self._failure:
            return self._failure
        for container in self._containers.values():
            if container.exit_status:
                return container.exit_status, ""
        return 0, ""

    def documents(self) -> tuple[dict[str, Any], ...]:
        """Describe each container for state.json."""
        return tuple(container.document() for container in self._containers.values())

    # Starts and ends.

    def _start_ready(self) -> None:
        """Start what has waited for nothing else; a pod with one that waits in vain fails."""
        for container in self._containers.values():
            if container.status != WAITING or self._is_stopping:
                continue
            for name, condition in container.member.after:
                other = self._containers[name]
                if other.meets(condition):
                    continue
                if what := other.never_meets(condition):
                    self._fail(_FAILURE, f"container {container.name} waits in vain: {name} {what}")
                break
            else:
                self._start(container)

    def _start(self, container: Container) -> None:
        assert self._lines  # noqa: S101 - nothing is due without a guest
        try:
            number = self._lines.exec(container.command)
        except HyperbuildError as error:
            container.note_end(_FAILURE, str(error))
            self._fail(_FAILURE, f"container {container.name}: {error}")
            return
        container.note_order(number)
        self._processes[number] = container
        self._flows[number] = (container, 2)

    def _note_starts(self) -> None:
        self._start_ready()
        if self._is_stopping:
            self._stop_next()
        elif not self._all_started and all(
            container.has_started for container in self._containers.values()
        ):
            self._all_started = True
            self._follower.take_start()

    def _take_end(self, container: Container, status: int, reason: str) -> None:
        container.note_end(status, reason)
        if self._is_stopping:
            self._stop_next()
        else:
            container.restart_later()
            self._start_ready()

    def start_again(self, container: Container) -> None:
        """Start what has ended, now that its pause is over."""
        self._start(container)
        self._follower.take_change()

    def _fail(self, status: int, reason: str) -> None:
        """End a pod that can't become what it is to be."""
        if not self._failure:
            self._failure = (status, reason)
        if not self._is_stopping:
            self.stop(self._members[0].options.grace)

    def _stop_next(self) -> None:
        needed = {
            name
            for container in self._containers.values()
            if container.status in ALIVE
            for name, _ in container.member.after
        }
        for container in self._containers.values():
            if container.name not in needed:
                container.ask_to_stop()

    def _clear_all(self) -> None:
        for container in self._containers.values():
            if container.status in ALIVE:
                self._order(encode_clear(container.index))

    def _check_over(self) -> None:
        """Tell the end, once: nothing runs, nothing is to start, all output is there."""
        over = all(container.status == EXITED for container in self._containers.values())
        if over and not self._flows and not self.is_over:
            self.is_over = True
            self._follower.take_end()

    def _order(self, message: bytes) -> None:
        if self._lines:
            self._lines.order(message)

    # Health.

    def look(self, container: Container) -> None:
        """Ask for a container's health, or give up the check that has not ended in its time."""
        running = next((number for number, one in self._checks.items() if one is container), None)
        if running is not None:
            self._order(encode_signal(signal.SIGKILL, running))
            return
        if not self._lines or not container.check:
            return
        args = tuple(os.fsencode(word) for word in container.check.argv)
        number = self._lines.exec(Command(args=args, container=container.index))
        self._checks[number] = container
        self._events.at(time.monotonic() + container.check.timeout / 1000, container.look)

    def _see_check(self, message: Started | Ended | Refused) -> None:
        if isinstance(message, Started):
            return
        container = self._checks.pop(message.process)
        # What it has still written may come after its end.
        is_success = isinstance(message, Ended) and message.status == 0
        if container.judge(is_success=is_success):
            self._follower.take_change()
            self._start_ready()

    def at(self, moment: float | None, call: Callable[[], None]) -> None:
        """Have call called at moment (of time.monotonic); None takes it back."""
        self._events.at(moment, call)

    def order_signal(self, number: int, process: int) -> None:
        """Send a signal to a process."""
        self._order(encode_signal(number, process))
