"""Processes beside the application, as clients of a VM's supervisor want them: exec."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError, HyperbuildError
from hyperbuild.launcher import wire
from hyperbuild.launcher.channel import (
    PAYLOAD_LIMIT,
    PROCESSES_LIMIT,
    Command,
    Ended,
    InputWindow,
    Refused,
    Started,
    Window,
    encode_frame,
    encode_resize,
    encode_signal,
    process_of,
    stdout_of,
)

if TYPE_CHECKING:
    from hyperbuild.launcher.channel import Frame, Message
    from hyperbuild.launcher.connection import Connection
    from hyperbuild.launcher.lines import Lines

_FAILURE = 125


class Processes:
    """The processes of one run of a VM, each with the client that asked for it."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._processes: dict[int, _Process] = {}

    def start(self, client: Connection, request: dict[str, Any], container: int = 0) -> None:
        """Have the guest start what a client asks for, in that container; it is told the rest."""
        if len(self._processes) >= PROCESSES_LIMIT:
            client.finish(
                error=f"{PROCESSES_LIMIT} commands run in it already; wait until one has ended",
                status=_FAILURE,
            )
            return
        try:
            command = _command(request).replace(container=container)
            number = self._lines.exec(command)
        except HyperbuildError as error:
            client.finish(error=str(error), status=_FAILURE)
            return
        detached = bool(request.get("detach"))
        process = _Process(number, self._lines, client, command, detached=detached)
        self._processes[number] = process
        client.on_frame = process.take_frame
        client.on_drained = process.release

    def see(self, message: Message) -> None:
        """Take what the guest tells of a process."""
        if isinstance(message, Window):
            if process := self._processes.get(process_of(message.sequence)):
                process.widen(message.size)
        elif isinstance(message, Started | Refused | Ended):
            process = self._processes.get(message.process)
            if process and process.see(message):
                del self._processes[message.process]

    def see_output(self, frame: Frame) -> None:
        """Take a piece of a process's output, or its end."""
        number = process_of(frame.sequence)
        process = self._processes.get(number)
        if process is None:
            self._lines.release(frame.sequence, len(frame.data))
        elif process.see_output(frame):
            del self._processes[number]

    def lose(self, client: Connection) -> None:
        """Learn that a client has gone."""
        for process in self._processes.values():
            process.lose(client)

    def end(self) -> None:
        """Tell all clients that there is no VM any more."""
        for process in self._processes.values():
            process.end()
        self._processes.clear()


class _Process:
    """One process: its input waits here for its window, its output is as fast as its client."""

    def __init__(
        self, number: int, lines: Lines, client: Connection, command: Command, *, detached: bool
    ) -> None:
        self._number = number
        self._lines = lines
        self._client = client
        self._command = command
        self._is_detached = detached
        self._window = InputWindow()
        self._input = bytearray()
        self._input_ended = False
        self._is_started = False
        self._status: int | None = None
        self._streams = 2
        #: Bytes of each stream that the client has not taken yet.
        self._owed: dict[int, int] = {}

    # The guest's words; each returns whether that was the last of it.

    def see(self, message: Started | Refused | Ended) -> bool:
        if isinstance(message, Refused):
            self._client.finish(error=message.text, status=message.status)
            return True
        if isinstance(message, Ended):
            self._status = message.status
            return self._finish()
        self._is_started = True
        if self._is_detached:
            self._client.finish(started=True)
        else:
            self._client.tell(started=True)
        self._pass_input()
        return False

    def see_output(self, frame: Frame) -> bool:
        if not frame.data:
            self._streams -= 1
            return self._finish()
        kind = wire.STDOUT if frame.sequence == stdout_of(self._number) else wire.STDERR
        if not self._client.is_gone:
            self._client.send(wire.encode_stream(kind, frame.data))
        self._owed[frame.sequence] = self._owed.get(frame.sequence, 0) + len(frame.data)
        if self._client.is_gone or not self._client.is_full:
            self.release()
        return False

    def widen(self, size: int) -> None:
        self._window.widen(size)
        self._pass_input()

    def _finish(self) -> bool:
        if self._status is None or self._streams:
            return False
        self._client.finish(exit=self._status)
        return True

    # The client's.

    def take_frame(self, frame: wire.Frame) -> None:
        if frame.kind == wire.STDIN and self._command.wants_input and not self._input_ended:
            if len(self._input) + len(frame.data) > wire.INPUT_WINDOW:
                raise ContentError("more input than its window on a VM's socket")
            self._input += frame.data
            self._input_ended = not frame.data
            self._pass_input()
        elif frame.kind == wire.SIGNAL and self._is_started:
            self._lines.order(encode_signal(wire.number(frame), self._number))
        elif frame.kind == wire.RESIZE:
            self._lines.order(encode_resize(self._number, *wire.size(frame)))
        elif frame.kind == wire.TOLD:
            # Nobody sees its output any more.
            self._hang_up(signal.SIGTERM)

    def release(self) -> None:
        """Let the guest go on: what was sent to the client is with it."""
        for sequence, size in self._owed.items():
            self._lines.release(sequence, size)
        self._owed.clear()

    def lose(self, client: Connection) -> None:
        if client is not self._client or self._is_detached:
            return
        self.release()
        self._hang_up(signal.SIGHUP)
        if not self._input_ended:
            self._input_ended = True
            self._pass_input()

    def end(self) -> None:
        self._client.finish(error="the VM ended before the command did", status=137)

    def _hang_up(self, number: signal.Signals) -> None:
        """As a terminal that is closed: what was there for a client ends with it."""
        if self._is_started and self._status is None:
            self._lines.order(encode_signal(number, self._number))

    def _pass_input(self) -> None:
        if not self._is_started or not self._command.wants_input:
            return
        sent = 0
        while self._input and self._window.left:
            piece = bytes(self._input[: min(PAYLOAD_LIMIT, self._window.left)])
            del self._input[: len(piece)]
            self._window.spend(len(piece))
            self._lines.feed(encode_frame(piece, self._number))
            sent += len(piece)
        if sent and not self._client.is_gone:
            self._client.send(wire.encode_number(wire.GRANT, sent))
        if self._input_ended and not self._input and self._command.wants_input:
            self._lines.feed(encode_frame(b"", self._number))
            # Once is enough.
            self._command = self._command.replace(wants_input=False)


def _command(request: dict[str, Any]) -> Command:
    """Read what a client wants to be started; ContentError if it says it in another way."""
    try:
        terminal = request.get("terminal")
        return Command(
            args=tuple(os.fsencode(text) for text in request["args"]),
            user=os.fsencode(request.get("user", "")),
            cwd=os.fsencode(request.get("cwd", "")),
            env=tuple(os.fsencode(text) for text in request.get("env", ())),
            wants_input=bool(request.get("stdin")),
            terminal=(int(terminal[0]), int(terminal[1])) if terminal else None,
            is_builtin=bool(request.get("builtin")),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ContentError("a command that is none on a VM's socket") from error
