"""One VM from its start to its end: a loop over its sockets, the signals and the user's streams."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Protocol

from hyperbuild.converter.errors import ContentError, HyperbuildError, UnavailableError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.channel import (
    APPLICATION,
    MARK,
    PAYLOAD_LIMIT,
    STDIN,
    STDOUT,
    ControlDecoder,
    Exit,
    Failure,
    Hello,
    InputWindow,
    Window,
    encode_frame,
    encode_resize,
    encode_stop,
    process_of,
)
from hyperbuild.launcher.console import ConsoleRing
from hyperbuild.launcher.lines import Lines
from hyperbuild.launcher.output import Output
from hyperbuild.launcher.signals import ENDING, RESIZED

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Mapping

    from hyperbuild.launcher.channel import Frame, Message
    from hyperbuild.launcher.child import Child

#: Exit status after a timeout, as timeout(1) has it.
TIMEOUT_STATUS = 124

#: Seconds beyond its grace after which a guest that was asked to stop is killed.
_MARGIN = 2.0
_CHUNK = 256 << 10
_STDERR_KEPT = 16 << 10
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Wiring(Record):
    """Our ends of the VM's sockets, and the descriptors of the user.

    ``monitor`` is there if the hypervisor's words on it matter. signals gives numbers of signals as
    bytes (or is None), as does ``signal_numbers``. terminal is one whose size the application's
    follows.
    """

    console: socket
    control: socket
    stream: socket
    monitor: socket | None
    stdout: int
    stderr: int
    stdin: int | None
    signals: int | None
    terminal: int | None = None


class Outcome:
    """What is known of a VM: filled as it runs.

    ``verdict`` is the status that our own reason for stopping it gives (a timeout, a signal).
    """

    def __init__(self) -> None:
        self.facts: Mapping[str, str] | None = None
        self.exit: Exit | None = None
        self.failure: Failure | None = None
        self.verdict: int | None = None
        self.error: HyperbuildError | None = None
        self.console = ConsoleRing()
        self.stderr = bytearray()

    @property
    def is_silent(self) -> bool:
        """Whether the guest said nothing, and nothing else explains the VM's end."""
        return not (self.facts or self.failure or self.error) and self.verdict is None


class Hearer(Protocol):
    """Whoever makes something of what is told.

    A HyperbuildError of its ends the VM and becomes the outcome's.
    """

    def hear(self, message: Message, received: int, /) -> bytes:
        """Take one message of the guest, received at nanoseconds of CLOCK_MONOTONIC.

        What is returned is sent to the guest's control port.
        """

    def hear_mark(self) -> None:
        """Learn that a held VM has no more output to come."""

    def hear_monitor(self, data: bytes, /) -> bool:
        """Take what the hypervisor says; return whether the VM is to be ended now."""


class Observer(Protocol):
    """Whoever looks on, and may have seen enough: then the VM is stopped as by a SIGTERM.

    It may also speak. What processes of its own tell and write goes to it alone; what it consumes
    of their output it must release (``Lines.release``).
    """

    def connect(self, lines: Lines, /) -> None:
        """Take the lines to the guest: before the first message."""

    @property
    def fd(self) -> int:
        """A descriptor that is readable when there is something to look at."""

    @property
    def is_done(self) -> bool:
        """Whether enough is seen."""

    def look(self) -> None:
        """Do what the descriptor has become readable for."""

    def see(self, message: Message, /) -> None:
        """Take a message of the guest."""

    def see_output(self, frame: Frame, /) -> None:
        """Take a piece of a process's output, or its end. The application's is written anyway."""

    def see_console(self, data: bytes, /) -> None:
        """Take a piece of what the console printed."""


class Session:
    """The loop. ``run`` returns once the hypervisor has ended and its output is written.

    orders and first_input are sent to the guest's control and stream ports before all else.
    """

    def __init__(
        self,
        child: Child,
        wiring: Wiring,
        hearer: Hearer,
        *,
        orders: bytes = b"",
        first_input: bytes = b"",
        timeout: float | None,
        grace: float,
        observer: Observer | None = None,
    ) -> None:
        self.outcome = Outcome()
        self._child = child
        self._wiring = wiring
        self._hearer = hearer
        self._observer = observer
        self._lines = Lines(orders, first_input)
        self._grace = grace
        self._timeout_at = None if timeout is None else time.monotonic() + timeout
        self._kill_at: float | None = None
        self._drop_at: float | None = None
        self._alive = False
        self._stopping = False
        self._stdin = wiring.stdin
        self._control = ControlDecoder()
        self._room = InputWindow()
        self._is_resized = False
        self._stdout = Output(wiring.stdout)
        same = wiring.stderr == wiring.stdout
        self._stderr = self._stdout if same else Output(wiring.stderr)
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        #: Descriptors of the VM that have not ended.
        self._sources: set[int] = set()

    def run(self) -> Outcome:
        """Carry everything until the end; see the class."""
        self._open(self._wiring.console.fileno(), self._read_console)
        self._open(self._wiring.control.fileno(), self._carry_control)
        self._open(self._wiring.stream.fileno(), self._carry_stream)
        if self._wiring.monitor:
            self._open(self._wiring.monitor.fileno(), self._read_monitor)
        self._open(self._child.stderr, self._read_stderr)
        self._open(self._child.pidfd, self._close)
        if self._wiring.signals is not None:
            self._watch(self._wiring.signals, select.POLLIN, self._read_signals)
        if self._observer:
            self._observer.connect(self._lines)
            self._watch(self._observer.fd, select.POLLIN, self._let_look)
        while self._sources or not self._written:
            self._update_interests()
            for fd, _ in self._poll.poll(self._wait()):
                # An earlier handler of this round may have closed it.
                if handler := self._handlers.get(fd):
                    handler(fd)
            self._release()
            self._check_deadlines()
            self._check_observer()
        return self.outcome

    @property
    def _written(self) -> bool:
        return self._stdout.empty and self._stderr.empty

    def _open(self, fd: int, handler: Callable[[int], None]) -> None:
        self._sources.add(fd)
        self._watch(fd, _READABLE, handler)

    def _close(self, fd: int) -> None:
        self._sources.discard(fd)
        self._watch(fd, 0, self._close)

    def _watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        if mask:
            self._poll.register(fd, mask)
            self._handlers[fd] = handler
        elif self._handlers.pop(fd, None):
            self._poll.unregister(fd)

    def _update_interests(self) -> None:
        """Watch the ways out only while something waits for them."""
        stream = self._wiring.stream.fileno()
        for fd, waiting, handler in (
            (stream, self._lines.input, self._carry_stream),
            (self._wiring.control.fileno(), self._lines.orders, self._carry_control),
        ):
            if fd in self._sources:
                self._watch(fd, _READABLE | (select.POLLOUT if waiting else 0), handler)
        # A VM that does not come up has not had any of the user's input.
        if self._stdin is not None and self.outcome.facts is not None:
            wanted = self._room.left and stream in self._sources
            self._watch(self._stdin, _READABLE if wanted else 0, self._read_stdin)
        for output in (self._stdout, self._stderr):
            self._watch(output.fd, 0 if output.empty else select.POLLOUT, self._write)

    def _wait(self) -> float | None:
        """Return milliseconds to the next deadline."""
        deadlines = [at for at in (self._timeout_at, self._kill_at, self._drop_at) if at]
        return max(0.0, (min(deadlines) - time.monotonic()) * 1000) if deadlines else None

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        if self._timeout_at and now >= self._timeout_at:
            self._timeout_at = None
            self._stop(TIMEOUT_STATUS)
        if self._kill_at and now >= self._kill_at:
            self._kill()
        if self._drop_at and now >= self._drop_at:
            self._drop()

    def _release(self) -> None:
        """Have the guest send as much as was written, or dropped."""
        for output in (self._stdout, self._stderr):
            for sequence, size in output.take_done().items():
                self._lines.release(sequence, size)

    def _let_look(self, _: int) -> None:
        if self._observer:
            self._observer.look()

    def _check_observer(self) -> None:
        ended = self.outcome.exit or self.outcome.failure or self.outcome.error
        if self._observer and self._observer.is_done and not (self._stopping or ended):
            self._stop(None)

    def _stop(self, verdict: int | None) -> None:
        """End the VM for our own reason: ask its application; the second time, kill."""
        ended = self.outcome.exit is not None or self.outcome.failure is not None
        if self.outcome.verdict is None and not (ended and self._written):
            self.outcome.verdict = verdict
        if ended or self._stopping or not self._alive:
            self._kill()
            self._drop()
            return
        self._stopping = True
        self._kill_at = time.monotonic() + self._grace + _MARGIN
        self._lines.order(encode_stop(self._grace))

    def _kill(self) -> None:
        """End the VM now. An application that ended has its output written in any case."""
        self._child.kill()
        self._kill_at = None
        if self.outcome.exit is None:
            self._drop_at = time.monotonic() + _MARGIN

    def _drop(self) -> None:
        self._drop_at = None
        self._stdout.drop()
        self._stderr.drop()

    def _fail(self, error: HyperbuildError) -> None:
        self.outcome.error = self.outcome.error or error
        self._kill()

    def _read(self, fd: int) -> bytes:
        """Read what is there; at the end, close."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        except ConnectionError:
            data = b""
        if not data:
            self._close(fd)
        return data

    def _read_console(self, fd: int) -> None:
        data = self._read(fd)
        self.outcome.console.feed(data)
        if self._observer:
            self._observer.see_console(data)

    def _read_stderr(self, fd: int) -> None:
        self.outcome.stderr += self._read(fd)
        del self.outcome.stderr[:-_STDERR_KEPT]

    def _read_monitor(self, fd: int) -> None:
        try:
            if self._hearer.hear_monitor(self._read(fd)):
                self._kill()
        except HyperbuildError as error:
            self._close(fd)
            self._fail(error)

    def _carry_control(self, fd: int) -> None:
        self._send(self._wiring.control, self._lines.orders)
        data = self._read(fd)
        received = time.monotonic_ns()
        try:
            for message in self._control.feed(data):
                self._take(message, received)
        except HyperbuildError as error:
            self._close(fd)
            self._fail(error)

    def _take(self, message: Message, received: int) -> None:
        self._alive = True
        self._lines.check(message)
        if self._observer:
            self._observer.see(message)
        if isinstance(message, Hello):
            if self.outcome.facts is not None:
                raise ContentError("guest: hyperstart says hello twice")
            self.outcome.facts = message.facts
        elif isinstance(message, Window) and message.sequence == STDIN:
            self._room.widen(message.size)
        elif isinstance(message, Exit):
            self.outcome.exit = message
        elif isinstance(message, Failure):
            self.outcome.failure = message
        self._end_if_done()
        self._lines.order(self._hearer.hear(message, received))
        # A copy takes this only after what it is told first.
        if isinstance(message, Hello) and self._is_resized:
            self._resize()

    def _end_if_done(self) -> None:
        """End the VM as soon as it has told everything ("The end" in docs/hyperstart.md)."""
        if self.outcome.failure or (self.outcome.exit and self._lines.is_output_over):
            self._kill()

    def _carry_stream(self, fd: int) -> None:
        self._send(self._wiring.stream, self._lines.input)
        try:
            for frame in self._lines.frames(self._read(fd)):
                if frame.sequence == MARK:
                    self._hearer.hear_mark()
                    continue
                if process_of(frame.sequence) == APPLICATION:
                    output = self._stdout if frame.sequence == STDOUT else self._stderr
                    output.feed(frame.data, frame.sequence)
                if self._observer:
                    self._observer.see_output(frame)
            self._end_if_done()
        except HyperbuildError as error:
            self._close(fd)
            self._fail(error)

    def _send(self, port: socket, waiting: bytearray) -> None:
        """Send as much of what waits as port takes now; nothing waits for who has gone."""
        if not waiting:
            return
        try:
            del waiting[: port.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            waiting.clear()

    def _read_stdin(self, fd: int) -> None:
        data = os.read(fd, min(PAYLOAD_LIMIT, self._room.left))
        self._room.spend(len(data))
        self._lines.feed(encode_frame(data))
        if not data:
            self._watch(fd, 0, self._read_stdin)
            self._stdin = None

    def _write(self, fd: int) -> None:
        output = self._stdout if fd == self._stdout.fd else self._stderr
        try:
            output.write()
        except OSError as error:
            output.drop()
            self._fail(UnavailableError(f"cannot write the application's output: {error.strerror}"))
        if output.broken and self._sources and not self._stopping:
            self._stop(None)

    def _read_signals(self, fd: int) -> None:
        for number in os.read(fd, 64):
            if number in ENDING:
                self._stop(128 + number)
            elif number == RESIZED:
                self._resize()

    def _resize(self) -> None:
        """Give the application's terminal the size of the user's, once there is who listens."""
        self._is_resized = self.outcome.facts is None
        if self._wiring.terminal is None or self._is_resized:
            return
        from hyperbuild.launcher.terminal import terminal_size

        self._lines.order(encode_resize(APPLICATION, *terminal_size(self._wiring.terminal)))
