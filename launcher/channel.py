"""The host's side of hyperstart's two ports: pure encoders and incremental decoders.

The format is that of docs/hyperstart.md, version 4. A decoder is fed bytes as they come, in pieces
of any size. The guest is not trusted: what breaks the format, or a window, is a ContentError, and
no decoder holds more than one message.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.bundle import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Largest payload of a message or frame, in bytes.
PAYLOAD_LIMIT = 65536

#: Bytes that may be under way at first in each stream: of a process's output, and of its input.
OUTPUT_WINDOW = 256 << 10
INPUT_WINDOW = 64 << 10

#: The number of the application; the others' are chosen by the host, each higher than the last.
APPLICATION = 0
#: So many of the others may run at a time.
PROCESSES_LIMIT = 32

#: Sequence numbers of stream frames: those of the application, whose input is STDIN; the mark,
#: which is empty, says that a held VM has sent all.
MARK = 0
STDOUT = 1
STDERR = 2
STDIN = 1

_HELLO, _EVENT, _EXIT, _ERROR, _STARTED, _ENDED, _REFUSED, _WINDOW, _PONG = range(1, 10)
_SIGNAL, _STOP, _SPEC, _START, _CLOCK, _EXEC, _RESIZE, _GRANT, _PING, _RESEED, _CLEAR = range(
    16, 27
)

_MESSAGE_HEADER = struct.Struct(">II")
_FRAME_HEADER = struct.Struct(">QI")
_EXEC_HEADER = struct.Struct(">IIIHH")
_SIZE = struct.Struct(">IHH")
_AMOUNT = struct.Struct(">QI")
_PAIR = struct.Struct(">II")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

_WANTS_INPUT, _HAS_TERMINAL, _IS_BUILTIN = 1, 2, 4


def stdout_of(process: int) -> int:
    """Return the sequence of a process's standard output, which is that of its input, too."""
    return 2 * process + STDOUT


def stderr_of(process: int) -> int:
    """Return the sequence of a process's standard error."""
    return 2 * process + STDERR


def process_of(sequence: int) -> int:
    """Return whose stream it is."""
    return (sequence - 1) // 2


class Hello(Record):
    """The guest is up; facts about it by name (``dax`` is "1" or "0", ``rootfs`` the format)."""

    facts: Mapping[str, str]


class Event(Record):
    """A step of the boot at nanoseconds of the guest's CLOCK_BOOTTIME."""

    name: str
    nanoseconds: int


class Exit(Record):
    """The application ended with status 0 to 255 (128+N for death by signal N)."""

    status: int


class Failure(Record):
    """The application could not be started: status 125, 126 or 127 and a line that says why."""

    status: int
    text: str


class Started(Record):
    """A process of EXEC runs."""

    process: int


class Ended(Record):
    """A process of EXEC ended with status 0 to 255 (128+N for death by signal N).

    All of its output is on the stream port by then, where it may still have to be read.
    """

    process: int
    status: int


class Refused(Record):
    """A process was not started: status 125, 126 or 127 and a line that says why."""

    process: int
    status: int
    text: str


class Window(Record):
    """So many bytes more of a process's input (its sequence) may be sent."""

    sequence: int
    size: int


class Pong(Record):
    """The answer to the PING with that token."""

    token: int


Message = Hello | Event | Exit | Failure | Started | Ended | Refused | Window | Pong


class Frame(Record):
    """A piece of a process's output, empty at its end; or the MARK."""

    sequence: int
    data: bytes


class ControlDecoder:
    """Bytes of the control port -> messages; those of unknown type are skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that data completes."""
        self._buffer += data
        for (kind, _), payload in _split(self._buffer, _MESSAGE_HEADER, "control message"):
            message = _message(kind, payload)
            if message is not None:
                yield message


class StreamDecoder:
    """Bytes of the stream port -> frames, of the application and of processes that are expected.

    Each stream ends once, and keeps to its window, which ``widen`` opens.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._windows: dict[int, int] = {}
        self.expect(APPLICATION)

    @property
    def ended(self) -> bool:
        """Whether both of the application's streams have ended."""
        return not self.is_open(APPLICATION)

    def is_open(self, process: int) -> bool:
        """Tell whether more output of process may come."""
        return not self._windows.keys().isdisjoint((stdout_of(process), stderr_of(process)))

    def expect(self, process: int) -> None:
        """Take frames of process from now on, which may come before it is said to have started."""
        self._windows |= dict.fromkeys((stdout_of(process), stderr_of(process)), OUTPUT_WINDOW)

    def forget(self, process: int) -> None:
        """Take no more frames of process."""
        self._windows.pop(stdout_of(process), None)
        self._windows.pop(stderr_of(process), None)

    def widen(self, sequence: int, size: int) -> bool:
        """Take size bytes more of a stream; return whether it is still open."""
        if sequence not in self._windows:
            return False
        self._windows[sequence] += size
        return True

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that data completes."""
        self._buffer += data
        for (sequence, _), payload in _split(self._buffer, _FRAME_HEADER, "stream frame"):
            if sequence == MARK and not payload:
                yield Frame(MARK, b"")
                continue
            window = self._windows.get(sequence)
            if window is None:
                raise ContentError(
                    f"guest: a stream frame of sequence {sequence}, which isn't open"
                )
            if len(payload) > window:
                raise ContentError(
                    f"guest: {len(payload)} bytes of sequence {sequence}, whose window has {window}"
                )
            if payload:
                self._windows[sequence] = window - len(payload)
            else:
                del self._windows[sequence]
            yield Frame(sequence, payload)


class InputWindow:
    """How much of a process's input may be sent: what ``spend`` takes, the guest gives again."""

    def __init__(self) -> None:
        self.left = INPUT_WINDOW

    def spend(self, size: int) -> None:
        """Count size bytes, at most what is left, as sent."""
        self.left -= size

    def widen(self, size: int) -> None:
        """Count size bytes as consumed; ContentError if so many were not under way."""
        if size > INPUT_WINDOW - self.left:
            raise ContentError(f"guest: it has consumed {size} bytes of input that were not sent")
        self.left += size


def encode_signal(number: int, process: int = APPLICATION) -> bytes:
    """Return the message that sends signal number to a process."""
    return _MESSAGE_HEADER.pack(_SIGNAL, _PAIR.size) + _PAIR.pack(number, process)


def encode_stop(grace: float) -> bytes:
    """Return the message that stops the application, by SIGKILL after grace seconds."""
    return _MESSAGE_HEADER.pack(_STOP, 4) + _U32.pack(min(round(grace * 1000), 2**32 - 1))


def encode_spec(files: Mapping[str, bytes]) -> bytes:
    """Return the messages that give a held VM the files of its new boot spec, and its start."""
    messages = []
    for name, content in files.items():
        head = name.encode() + b"\0"
        room = PAYLOAD_LIMIT - len(head)
        for at in range(0, max(len(content), 1), room):
            payload = head + content[at : at + room]
            messages += [_MESSAGE_HEADER.pack(_SPEC, len(payload)), payload]
    return b"".join((*messages, _MESSAGE_HEADER.pack(_START, 0)))


def encode_clock(nanoseconds: int) -> bytes:
    """Return the message that tells a VM the time, in nanoseconds since the epoch."""
    return _MESSAGE_HEADER.pack(_CLOCK, _U64.size) + _U64.pack(nanoseconds)


class Command(Record):
    """What EXEC starts: args, with what docker's exec may say of it.

    user is as in the boot spec (decimal ``uid gid group…``), empty: as the application, or root for
    a built-in; cwd, an absolute path, likewise. env are ``NAME=value`` to be added to the
    application's. With a terminal of (rows, columns) all output is standard output. A built-in is
    hyperstart's own: ``archive PATH``, ``extract DIR``, ``stat PATH``. In a pod it is the container
    of that number that counts, instead of the application.
    """

    args: tuple[bytes, ...]
    user: bytes = b""
    cwd: bytes = b""
    env: tuple[bytes, ...] = ()
    wants_input: bool = False
    terminal: tuple[int, int] | None = None
    is_builtin: bool = False
    container: int = 0


def encode_exec(process: int, command: Command) -> bytes:
    """Return the message that starts command as that process, whose number was never used.

    InputError: it is too long, or a string has a NUL or is empty where that means something.
    """
    flags = (
        _WANTS_INPUT * command.wants_input
        | _HAS_TERMINAL * (command.terminal is not None)
        | _IS_BUILTIN * command.is_builtin
    )
    strings = (command.user, command.cwd, *command.env, b"", *command.args)
    if any(b"\0" in text for text in strings) or not all(command.env) or not any(command.args[:1]):
        raise InputError("a command or a variable is empty, or has a NUL in it; correct it")
    rows, columns = command.terminal or (0, 0)
    payload = _EXEC_HEADER.pack(process, command.container, flags, rows, columns)
    payload += b"".join(text + b"\0" for text in strings)
    if len(payload) > PAYLOAD_LIMIT:
        raise InputError(
            f"the command and its variables take {len(payload)} bytes, and {PAYLOAD_LIMIT} may be; "
            "put them into a file"
        )
    return _MESSAGE_HEADER.pack(_EXEC, len(payload)) + payload


def encode_clear(container: int) -> bytes:
    """Return the message that kills all that runs in a container of a pod."""
    return _MESSAGE_HEADER.pack(_CLEAR, _U32.size) + _U32.pack(container)


def encode_resize(process: int, rows: int, columns: int) -> bytes:
    """Return the message that gives the terminal of a process another size."""
    return _MESSAGE_HEADER.pack(_RESIZE, _SIZE.size) + _SIZE.pack(process, rows, columns)


def encode_window(sequence: int, size: int) -> bytes:
    """Return the message that lets so many bytes more of a stream come."""
    return _MESSAGE_HEADER.pack(_GRANT, _AMOUNT.size) + _AMOUNT.pack(sequence, size)


def encode_ping(token: int) -> bytes:
    """Return the message that a Pong with the same token answers."""
    return _MESSAGE_HEADER.pack(_PING, _U64.size) + _U64.pack(token)


def encode_reseed(seed: bytes) -> bytes:
    """Return the message that mixes seed, 1 to 512 bytes, into the guest's random numbers."""
    return _MESSAGE_HEADER.pack(_RESEED, len(seed)) + seed


def encode_frame(data: bytes, process: int = APPLICATION) -> bytes:
    """Return the frame that gives data (at most PAYLOAD_LIMIT bytes) to a process's standard input.

    Without data it ends that. A process of EXEC must have started.
    """
    return _FRAME_HEADER.pack(stdout_of(process), len(data)) + data


def _split(
    buffer: bytearray, header: struct.Struct, what: str
) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Take whole messages from buffer; yield each header's two numbers and the payload."""
    start = 0
    try:
        while len(buffer) - start >= header.size:
            kind, length = header.unpack_from(buffer, start)
            if length > PAYLOAD_LIMIT:
                raise ContentError(f"guest: a {what} of {length} bytes; {PAYLOAD_LIMIT} may be")
            end = start + header.size + length
            if end > len(buffer):
                break
            payload = bytes(memoryview(buffer)[start + header.size : end])
            start = end
            yield (kind, length), payload
    finally:
        del buffer[:start]


def _message(kind: int, payload: bytes) -> Message | None:
    decode = _DECODERS.get(kind)
    try:
        return decode(payload) if decode else None
    except (struct.error, UnicodeDecodeError) as error:
        raise ContentError(f"guest: a control message of type {kind} is malformed") from error


def _hello(payload: bytes) -> Hello:
    (version,) = _U32.unpack_from(payload)
    if version != PROTOCOL_VERSION:
        raise ContentError(
            f"guest: hyperstart speaks version {version} of its protocol, not {PROTOCOL_VERSION}; "
            "make the bundle again with this hyperbuild"
        )
    pairs = (line.partition("=") for line in payload[_U32.size :].decode().splitlines())
    return Hello({key: value for key, _, value in pairs})


def _event(payload: bytes) -> Event:
    (nanoseconds,) = _U64.unpack_from(payload)
    return Event(payload[_U64.size :].decode(), nanoseconds)


def _exit(payload: bytes) -> Exit:
    (status,) = _U32.unpack(payload)
    if status > 255:
        raise ContentError(f"guest: the exit status {status} is over 255")
    return Exit(status)


def _failure(payload: bytes) -> Failure:
    (status,) = _U32.unpack_from(payload)
    if status not in (125, 126, 127):
        raise ContentError(f"guest: a failure of status {status}, not 125, 126 or 127")
    return Failure(status, payload[_U32.size :].decode().strip())


def _started(payload: bytes) -> Started:
    return Started(*_U32.unpack(payload))


def _ended(payload: bytes) -> Ended:
    process, status = _PAIR.unpack(payload)
    if status > 255:
        raise ContentError(f"guest: the exit status {status} is over 255")
    return Ended(process, status)


def _refused(payload: bytes) -> Refused:
    process, status = _PAIR.unpack_from(payload)
    if status not in (125, 126, 127):
        raise ContentError(f"guest: a failure of status {status}, not 125, 126 or 127")
    return Refused(process, status, payload[_PAIR.size :].decode().strip())


def _window(payload: bytes) -> Window:
    return Window(*_AMOUNT.unpack(payload))


def _pong(payload: bytes) -> Pong:
    return Pong(*_U64.unpack(payload))


_DECODERS: Mapping[int, Callable[[bytes], Message]] = {
    _HELLO: _hello,
    _EVENT: _event,
    _EXIT: _exit,
    _ERROR: _failure,
    _STARTED: _started,
    _ENDED: _ended,
    _REFUSED: _refused,
    _WINDOW: _window,
    _PONG: _pong,
}
