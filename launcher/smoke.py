"""A smoke test: looks on while a VM runs, and knows when all that is expected of it has come."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.launcher.channel import Event, Exit, Failure
from hyperbuild.launcher.console import ConsoleRing
from hyperbuild.launcher.diagnosis import Evidence, diagnose
from hyperbuild.launcher.expectations import (
    Ends,
    Health,
    Http,
    Log,
    Port,
    Works,
    compile_regex,
)
from hyperbuild.launcher.matching import SLOW, SlowSearchError, finds
from hyperbuild.launcher.probe import HttpProbe, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hyperbuild.launcher.channel import Frame, Message
    from hyperbuild.launcher.expectations import Expectation
    from hyperbuild.launcher.lines import Lines

#: Bytes of what came before that a regular expression is still searched in.
_TAIL = 8 << 10
#: Events that are remembered; a guest, which is not trusted, may tell of any number.
_NOTED = ("exec", "renewed", "listening", "healthy")
_PORT_EVENT = re.compile(r"(port|loopback) (\d{1,5})", re.ASCII)


@dataclass(slots=True)
class Check:
    """One expectation: when it was met (nanoseconds of CLOCK_MONOTONIC), or why it was not."""

    expectation: Expectation
    held_at: int | None = None
    failure: str = ""


class SmokeTest:
    """An ``Observer`` of one VM (session.py).

    It has seen enough once all is met, or one thing can't be any more.

    forwards maps ports of the guest to those of this host's loopback that lead there; timeout, in
    seconds from now, is for others to keep. events of the guest are waited for as well, though not
    expected.
    """

    def __init__(
        self,
        expectations: Iterable[Expectation],
        forwards: Mapping[int, int],
        timeout: float,
        events: Iterable[str] = (),
    ) -> None:
        self.checks = [Check(expectation) for expectation in expectations]
        self.console = ConsoleRing()
        self.output = ConsoleRing()
        self.started_at = time.monotonic_ns()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._timeout = timeout
        self._awaited = frozenset(events)
        self._forwards = forwards
        self._logs = {
            check.expectation: _Searcher(check.expectation.regex)
            for check in self.checks
            if isinstance(check.expectation, Log)
        }
        self._probes: dict[Http, HttpProbe] = {}
        self._answers: deque[tuple[Http, int, bytes]] = deque()
        self._events: set[str] = set()
        self._ports: set[int] = set()
        self._hidden: set[int] = set()
        self._status: int | None = None
        self._refusal = ""
        self._refused: Check | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        has_all = self.has_held and self._awaited <= self._events
        return has_all or self._refused is not None

    @property
    def is_late(self) -> bool:
        """Whether the time that it was given is over."""
        return time.monotonic_ns() - self.started_at >= self._timeout * 1e9

    @property
    def has_held(self) -> bool:
        """Whether all is met."""
        return all(check.held_at is not None for check in self.checks)

    def is_told_otherwise(self, status: int) -> bool:
        """Whether the application ended, and not with status."""
        return self._status is not None and self._status != status

    def connect(self, lines: Lines) -> None:
        """Ask nothing of the guest: a test looks on."""

    def close(self) -> None:
        """Stop asking."""
        for probe in self._probes.values():
            probe.stop()
        for probe in self._probes.values():
            # One that waits for a guest that is gone has its answer at once.
            probe.join(1.0)
        # A probe that still waits may write to it: then it stays, as the process soon does not.
        if not any(probe.is_alive() for probe in self._probes.values()):
            os.close(self.fd)

    def see(self, message: Message) -> None:
        """Take a message of the guest."""
        if isinstance(message, Exit):
            self._status = message.status
            self._meet(Ends(message.status))
            if message.status == 0:
                self._meet(Works())
        elif isinstance(message, Failure):
            self._refusal = message.text
        elif isinstance(message, Event):
            self._see_event(message.name)

    def _see_event(self, name: str) -> None:
        if name in _NOTED:
            self._events.add(name)
        match = _PORT_EVENT.fullmatch(name)
        if name == "healthy":
            self._meet(Health())
        elif name == "unhealthy":
            self._refuse(
                Health(),
                "the health check failed as often as the image allows; "
                "see what it runs (hyperbuild inspect), or give another with --health-cmd",
            )
        elif match and match[1] == "loopback":
            self._hidden.add(int(match[2]))
        elif match:
            self._see_port(int(match[2]))

    def _see_port(self, port: int) -> None:
        self._ports.add(port)
        self._meet(Port(port))
        for check in self.checks:
            expected = check.expectation
            if isinstance(expected, Works) and port in (expected.ports or (port,)):
                self._meet(expected)
        self._ask(port)

    def _ask(self, port: int) -> None:
        for expected in dict.fromkeys(check.expectation for check in self.checks):
            if isinstance(expected, Http) and expected.port == port:
                probe = HttpProbe(expected, self._forwards[port], self._take_answer)
                self._probes[expected] = probe
                probe.start()

    def _take_answer(self, expected: Http, status: int, body: bytes) -> None:
        """Be told by a probe's thread."""
        self._answers.append((expected, status, body))
        os.eventfd_write(self.fd, 1)

    def look(self) -> None:
        """Take what the probes have found."""
        os.eventfd_read(self.fd)
        while self._answers:
            expected, status, body = self._answers.popleft()
            if wrong := judge(expected, status, body):
                self._refuse(expected, f"{wrong}; correct the service or what is expected of it")
            else:
                self._meet(expected)

    def see_output(self, frame: Frame) -> None:
        """Take what the application wrote; an empty frame ends a stream."""
        self.output.feed(frame.data)
        for expected, searcher in self._logs.items():
            try:
                if searcher.finds(frame):
                    self._meet(expected)
            except SlowSearchError:
                self._refuse(expected, SLOW)

    def see_console(self, data: bytes) -> None:
        """Take what the guest's kernel printed."""
        self.console.feed(data)

    def conclude(self, error: str, *, has_timed_out: bool, was_stopped: bool = False) -> None:
        """Say of all that was not met why, now that the VM is gone.

        error is the launcher's own word for what failed, if anything did; was_stopped tells that
        it was made to end by whoever runs the test.
        """
        if was_stopped:
            # How it ended when it was told to is no finding.
            self._status = None
        if self._status is None and not self._refusal and error:
            self._refusal = error
        missing = [check for check in self.checks if check.held_at is None and not check.failure]
        failures = [self._explain(check.expectation, has_timed_out) for check in missing]
        for check, failure in zip(missing, failures, strict=True):
            check.failure = failure

    def reason(self) -> str:
        """Return the line that says what was not met and why; empty if all was.

        What failed by itself comes before what never came because of that.
        """
        failed = self._refused or next((check for check in self.checks if check.failure), None)
        return f"{failed.expectation}: {failed.failure}" if failed else ""

    def _meet(self, expectation: Expectation) -> None:
        for check in self.checks:
            if check.expectation == expectation and check.held_at is None:
                check.held_at = time.monotonic_ns()

    def _refuse(self, expectation: Expectation, failure: str) -> None:
        for check in self.checks:
            if check.expectation == expectation and check.held_at is None:
                check.failure = failure
                self._refused = self._refused or check

    def _explain(self, expectation: Expectation, has_timed_out: bool) -> str:
        found = diagnose(
            Evidence(
                console=self.console.text(),
                output=self.output.text(),
                # How it ended when it was told to is no finding.
                status=None if has_timed_out or self._refused else self._status,
                refusal=self._refusal,
            )
        )
        if found:
            return str(found)
        if self._refusal:
            return self._refusal
        if self._refused:
            return "not met when the test ended for another failure; see that one"
        if has_timed_out:
            return self._explain_timeout(expectation)
        if self._status is not None:
            return (
                f"the application ended with status {self._status} before that; "
                "expect that by exit, or correct its command"
            )
        return "the VM was stopped before that; run it again"

    def _explain_timeout(self, expectation: Expectation) -> str:
        within = f"within {self._timeout:g} s"
        longer = "give it longer with --timeout"
        if not self._events & {"exec", "renewed"}:
            return f"the application was not started {within}; {longer}"
        if isinstance(expectation, Port | Http) and expectation.port not in self._ports:
            return self._explain_closed(expectation.port, within)
        if isinstance(expectation, Works):
            return self._explain_idle(expectation, within)
        if isinstance(expectation, Http):
            seen = self._probes[expectation].seen if expectation in self._probes else "not asked"
            return f"no answer that counts {within}, last seen: {seen}; {longer}"
        if isinstance(expectation, Health):
            return f"the health check did not succeed {within}; {longer}, or correct the check"
        if isinstance(expectation, Log):
            return f"nothing that the application wrote {within} matches; {longer}"
        return f"the application did not end {within}; {longer}"

    def _explain_closed(self, port: int, within: str) -> str:
        if port in self._hidden:
            return (
                "it is open inside the guest alone (on 127.0.0.1); "
                "have the application listen on 0.0.0.0"
            )
        others = ", ".join(map(str, sorted(self._ports)))
        instead = f"expect one that is open ({others})" if others else "give it longer (--timeout)"
        return f"nothing listened on it {within}; {instead}, or correct the application"

    def _explain_idle(self, expectation: Works, within: str) -> str:
        if self._ports:
            others = ", ".join(map(str, sorted(self._ports)))
            return f"the application listened on {others} instead; expect that by --expect-port"
        if self._hidden:
            return (
                "the application listens inside the guest alone (on 127.0.0.1); "
                "have it listen on 0.0.0.0"
            )
        what = "listened on none" if expectation.ports else "neither listened on a port nor ended"
        return (
            f"the application {what} {within}; "
            "say what it shall do instead, with --expect-log for one"
        )


class _Searcher:
    """Searches both streams of an application for one regular expression as they come."""

    def __init__(self, regex: str) -> None:
        self._pattern = compile_regex(regex)
        # Where the end of a line matters, one that is not finished is not looked at.
        self._needs_end = bool(re.search(r"\$|\\Z", regex))
        self._tails: dict[int, bytes] = {}
        self._is_over = False

    def finds(self, frame: Frame) -> bool:
        """Tell whether what came with frame completes the first match; SlowSearchError once."""
        if self._is_over:
            return False
        # What is before the position says whether ^ fits there: not in the middle of a line.
        text = self._tails.get(frame.sequence, b"\n") + frame.data
        whole = text
        if self._needs_end and frame.data:
            whole = text[: text.rfind(b"\n") + 1]
        self._tails[frame.sequence] = text[-_TAIL:]
        # What was found is not searched for again, nor what took too long.
        self._is_over = True
        self._is_over = finds(self._pattern, whole, 1)
        return self._is_over
