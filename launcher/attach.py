"""A terminal's or a script's end of a running VM: its streams, and signals."""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import HyperbuildError, UnavailableError
from hyperbuild.launcher import wire
from hyperbuild.launcher.instances import KILLED_STATUS
from hyperbuild.launcher.output import Output
from hyperbuild.launcher.signals import RESIZED, signal_numbers
from hyperbuild.launcher.terminal import raw_on_demand, terminal_size

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

#: What docker's client passes on, too: all that may come from outside.
_PASSED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
#: So many of them from an impatient user leave the VM alone.
_PATIENCE = 3
_IMPATIENT = (signal.SIGINT, signal.SIGTERM)
_CHUNK = 64 << 10
#: So many bytes wait to be written, and no more is taken.
_HELD = 256 << 10
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class RefusedError(HyperbuildError):
    """What was asked for could not be started, or ended with the VM; with a status of its own."""

    is_status_final = True

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


class Attachment:
    """Carries until the supervisor closes; see ``run``.

    on_told is called with what is told on the way. Signals that come are passed on, as is stdin if
    it is a descriptor, and the size of terminal if there is one: then stdin is one too, and raw
    from the moment on when something runs at the other end.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        stdin: int | None,
        on_told: Callable[[dict[str, Any]], None] = lambda _: None,
        stdout: int = 1,
        stderr: int = 2,
        terminal: int | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._stdin = stdin
        self._on_told = on_told
        self._terminal = terminal
        self._make_raw: Callable[[], None] | None = None
        self._out = {wire.STDOUT: Output(stdout), wire.STDERR: Output(stderr)}
        #: Bytes of each stream that wait to be written.
        self._held = dict.fromkeys(self._out, 0)
        self._decoder = wire.Decoder()
        self._waiting = bytearray()
        self._window = wire.INPUT_WINDOW
        self._asked = 0
        self._is_open = True
        self._is_given_up = False
        self._last: dict[str, Any] | None = None
        self._has_started = False

    def run(self, request: dict[str, Any], *last: str) -> dict[str, Any]:
        """Ask for request, carry, and return the last that was told: how the VM ended, or began.

        last are what that has to hold one of. RefusedError: it could not be started, or its
        supervisor was killed while it ran; UnavailableError: the supervisor died before, or the
        user has had enough.
        """
        self._waiting += wire.encode_request(request)
        with ExitStack() as stack:
            numbers = stack.enter_context(signal_numbers((*_PASSED, RESIZED)))
            if self._terminal is not None and self._stdin is not None:
                self._make_raw = stack.enter_context(raw_on_demand(self._stdin))
            while self._is_open or not all(output.empty for output in self._out.values()):
                self._turn(numbers)
        told = self._last or {}
        if "error" in told:
            raise RefusedError(str(told["error"]), int(told["status"]))
        if any(name in told for name in last):
            return told
        if self._has_started:
            raise RefusedError("the VM's supervisor was killed, and the VM with it", KILLED_STATUS)
        raise UnavailableError(
            "the VM's supervisor ended without a word; see what 'hyperbuild list --all' tells"
        )

    def _turn(self, numbers: int | None) -> None:
        poll = select.poll()
        sock = self._sock.fileno()
        if self._is_open:
            full = sum(self._held.values()) >= _HELD
            poll.register(
                sock, (0 if full else _READABLE) | (select.POLLOUT if self._waiting else 0)
            )
            if self._stdin is not None and self._window > 0:
                poll.register(self._stdin, _READABLE)
        for output in self._out.values():
            if not output.empty:
                poll.register(output.fd, select.POLLOUT)
        if numbers is not None:
            poll.register(numbers, select.POLLIN)
        for fd, mask in poll.poll():
            if fd == sock:
                self._carry(mask)
            elif fd == numbers:
                self._pass_signals(fd)
            elif fd == self._stdin:
                self._read_stdin(fd)
            else:
                self._write(fd)
        for output in self._out.values():
            for kind, size in output.take_done().items():
                self._held[kind] -= size

    def _carry(self, mask: int) -> None:
        if mask & select.POLLOUT and not wire.send_waiting(self._sock, self._waiting):
            self._waiting.clear()
        if mask & _READABLE and self._is_open:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._is_open = False
        for frame in self._decoder.feed(data):
            if frame.kind in self._out:
                self._out[frame.kind].feed(frame.data, frame.kind)
                self._held[frame.kind] += len(frame.data)
            elif frame.kind == wire.GRANT:
                self._window += wire.number(frame)
            elif frame.kind == wire.TOLD:
                self._hear(wire.told(frame))

    def _hear(self, told: dict[str, Any]) -> None:
        self._last = told
        self._on_told(told)
        if told.get("started"):
            self._has_started = True
            self._resize()
            if self._make_raw:
                self._make_raw()

    def _read_stdin(self, fd: int) -> None:
        try:
            data = os.read(fd, min(self._window, _CHUNK))
        except BlockingIOError:
            return
        except OSError:
            # A terminal that went away.
            data = b""
        self._window -= len(data)
        self._waiting += wire.encode(wire.STDIN, data)
        if not data:
            self._stdin = None

    def _write(self, fd: int) -> None:
        output = next(one for one in self._out.values() if one.fd == fd and not one.empty)
        try:
            output.write()
        except OSError as error:
            raise UnavailableError(
                f"cannot write the application's output: {error.strerror}"
            ) from error
        # Whoever would see more has gone: as with `boot`, that is the end of it.
        if output.broken and not self._is_given_up:
            self._is_given_up = True
            self._waiting += wire.encode_told({"do": "stop"})

    def _pass_signals(self, numbers: int) -> None:
        for number in os.read(numbers, 64):
            if number == RESIZED:
                self._resize()
            elif number in _PASSED:
                self._waiting += wire.encode_number(wire.SIGNAL, number)
                self._asked += number in _IMPATIENT
        if self._asked >= _PATIENCE:
            raise UnavailableError(
                "the VM has not ended after so many signals and is left alone; "
                "end it with hyperbuild kill"
            )

    def _resize(self) -> None:
        if self._terminal is not None:
            self._waiting += wire.encode_resize(*terminal_size(self._terminal))
