"""Processes beside the application, by way of an observer of the session, and terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.channel import (
    Command,
    Ended,
    Event,
    InputWindow,
    Refused,
    Started,
    Window,
    encode_frame,
    encode_signal,
    process_of,
    stdout_of,
)
from hyperbuild.launcher.terminal import find_terminal, raw_on_demand, terminal_size
from hyperbuild.launcher.timeline import Timeline
from hyperbuild.launcher.vm import Streams, Watch, run_vm
from tests.launcher.boots import HANG, boot, options

if TYPE_CHECKING:
    from hyperbuild.launcher.channel import Frame, Message
    from hyperbuild.launcher.lines import Lines
    from hyperbuild.launcher.located import BundleFiles

pytestmark = pytest.mark.boot


class Speaker:
    """Runs commands once the application runs, gives each its input, and has seen enough then."""

    def __init__(self, *commands: Command, given: bytes = b"") -> None:
        self.fd = os.eventfd(0)
        self.messages: list[Message] = []
        self.output: dict[int, bytes] = {}
        self._commands = commands
        self._given = given
        self._left: dict[int, bytes] = {}
        self._rooms: dict[int, InputWindow] = {}
        self._waiting: set[tuple[int, str]] = set()
        self.is_done = False

    def connect(self, lines: Lines) -> None:
        self._lines = lines

    def look(self) -> None:
        os.eventfd_read(self.fd)

    def see_console(self, data: bytes) -> None:
        pass

    def see(self, message: Message) -> None:
        self.messages.append(message)
        match message:
            case Event("exec", _):
                for command in self._commands:
                    number = self._lines.exec(command)
                    self._waiting |= {(number, what) for what in ("end", "stdout", "stderr")}
            case Started(process):
                self._left[process], self._rooms[process] = self._given, InputWindow()
                self._send(process)
            case Window(sequence, size) if sequence != 1:
                self._rooms[process_of(sequence)].widen(size)
                self._send(process_of(sequence))
            case Ended(process, _):
                self._settle(process, "end")
            case Refused(process, _, _):
                for what in ("end", "stdout", "stderr"):
                    self._settle(process, what)

    def _send(self, process: int) -> None:
        left, room = self._left[process], self._rooms[process]
        part = left[: room.left]
        room.spend(len(part))
        self._left[process] = left[len(part) :]
        if part:
            self._lines.feed(encode_frame(part, process))
        if left and not self._left[process]:
            self._lines.feed(encode_frame(b"", process))

    def see_output(self, frame: Frame) -> None:
        process = process_of(frame.sequence)
        if process == 0:
            return
        self.output[frame.sequence] = self.output.get(frame.sequence, b"") + frame.data
        self._lines.release(frame.sequence, len(frame.data))
        if not frame.data:
            is_out = frame.sequence == stdout_of(process)
            self._settle(process, "stdout" if is_out else "stderr")

    def _settle(self, process: int, what: str) -> None:
        self._waiting.discard((process, what))
        self.is_done = not self._waiting


def speak(files: BundleFiles, speaker: Speaker) -> None:
    """Boot files, whose application waits, with speaker as the observer; its output is dropped."""
    watch = Watch(Timeline(), observer=speaker)
    watch.timeline.mark("start")
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        run_vm(
            files,
            options("sleep", "1000"),
            search_path=os.environ["PATH"],
            streams=Streams(nowhere, nowhere),
            watch=watch,
        )
    finally:
        os.close(nowhere)
        os.close(speaker.fd)


def test_an_observer_runs_commands(busybox: BundleFiles) -> None:
    data = bytes(range(256)) * 8000
    speaker = Speaker(
        Command((b"cat",), wants_input=True),
        Command((b"sh", b"-c", b"echo $A; echo err >&2; exit 9"), env=(b"A=x",)),
        Command((b"no-such",)),
        given=data,
    )
    speak(busybox, speaker)
    assert speaker.output[3] == data
    assert (speaker.output[5], speaker.output[6]) == (b"x\n", b"err\n")
    ended = {m.process: m.status for m in speaker.messages if isinstance(m, Ended)}
    assert ended == {1: 0, 2: 9}
    refused = [m for m in speaker.messages if isinstance(m, Refused)]
    assert [(m.process, m.status) for m in refused] == [(3, 127)]


def test_a_guest_that_breaks_a_window_is_ended(rogue: BundleFiles) -> None:
    reader, writer = os.pipe()
    with pytest.raises(ContentError, match="65536 bytes of sequence 1, whose window has 0"):
        run_vm(
            rogue,
            options("window-nonsense"),
            search_path=os.environ["PATH"],
            streams=Streams(stdout=writer),
        )
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("input-nonsense", "has consumed 1 bytes of input that were not sent"),
        ("process-nonsense", "tells of process 7, which is not there"),
        ("stranger-nonsense", "a stream frame of sequence 15, which isn't open"),
    ],
)
def test_a_guest_that_breaks_the_rules_is_ended(rogue: BundleFiles, what: str, said: str) -> None:
    with pytest.raises(ContentError, match=said):
        boot(rogue, options(what))


class Typist(threading.Thread):
    """Sits at a terminal: waits for what is shown, then does the next thing."""

    def __init__(self, *script: tuple[bytes, bytes | tuple[int, int]]) -> None:
        super().__init__(daemon=True)
        self.master, self.slave = pty.openpty()
        self.shown = bytearray()
        self._script = script
        self.resize(25, 90)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def run(self) -> None:
        for awaited, action in self._script:
            while awaited not in self.shown:
                self.shown += os.read(self.master, 4096)
            del self.shown[: self.shown.index(awaited) + len(awaited)]
            if isinstance(action, bytes):
                os.write(self.master, action)
            else:
                self.resize(*action)
                os.kill(os.getpid(), signal.SIGWINCH)


def test_a_terminal_from_end_to_end(busybox: BundleFiles) -> None:
    typist = Typist(
        (b"# ", b"busybox stty size\r"),
        (b"25 90\r\n", (40, 132)),
        (b"# ", b"while [ \"$(busybox stty size)\" != '40 132' ]; do :; done; echo re'sized'\r"),
        (b"resized\r\n", b"sh -c \"echo be'gun'; sleep 1000\"\r"),
        # The shell has given the terminal back: who interrupts earlier interrupts nobody.
        (b"begun\r\n", b"\x03"),
        (b"# ", b"exit 3\r"),
    )
    before = termios.tcgetattr(typist.slave)
    reading = os.dup(typist.slave)
    watch = Watch(Timeline())
    watch.timeline.mark("start")
    with raw_on_demand(typist.slave) as make_raw:
        watch = watch.replace(on_started=lambda _: make_raw())
        typist.start()
        result = run_vm(
            busybox,
            options("sh", "-i", tty=terminal_size(typist.slave)),
            search_path=os.environ["PATH"],
            streams=Streams(typist.slave, typist.slave, reading, typist.slave),
            watch=watch,
        )
    typist.join(HANG)
    assert result.status == 3, bytes(typist.shown)
    assert termios.tcgetattr(typist.slave) == before
    for fd in (reading, typist.slave, typist.master):
        os.close(fd)


def test_raw_mode_ends_with_whatever_comes() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with pytest.raises(RuntimeError), raw_on_demand(slave) as make_raw:
        assert termios.tcgetattr(slave) == before
        make_raw()
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        assert not termios.tcgetattr(slave)[1] & termios.OPOST
        raise RuntimeError
    assert termios.tcgetattr(slave) == before
    reader, writer = os.pipe()
    assert find_terminal(reader, slave) == slave
    assert find_terminal(reader) is None
    assert terminal_size(None) == terminal_size(reader) == (0, 0)
    for fd in (master, slave, reader, writer):
        os.close(fd)


def test_a_signal_goes_to_the_process_it_names() -> None:
    assert encode_signal(9, 3) == struct.pack(">IIII", 16, 8, 9, 3)
