"""The host's side of hyperstart's two ports: pure encoders and incremental decoders.

The format is that of docs/hyperstart.md, version 2. A decoder is fed bytes as they come, in pieces
of any size. The guest is not trusted: what breaks the format is a ContentError, and no decoder
holds more than one message.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.records import Record
from hyperbuild.launcher.bundle import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Largest payload of a message or frame, in bytes.
PAYLOAD_LIMIT = 65536

#: Sequence numbers of stream frames; the mark, which is empty, says that a held VM has sent all.
MARK = 0
STDOUT = 1
STDERR = 2
STDIN = 1

_HELLO, _EVENT, _EXIT, _ERROR = 1, 2, 3, 4
_SIGNAL, _STOP, _SPEC, _START, _CLOCK = 16, 17, 18, 19, 20

_MESSAGE_HEADER = struct.Struct(">II")
_FRAME_HEADER = struct.Struct(">QI")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


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


Message = Hello | Event | Exit | Failure


class Frame(Record):
    """A piece of the application's output (STDOUT or STDERR), empty at its end; or the MARK."""

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
    """Bytes of the stream port -> frames; each of the two streams ends once."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._open = {STDOUT, STDERR}

    @property
    def ended(self) -> bool:
        """Whether both streams have ended."""
        return not self._open

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that data completes."""
        self._buffer += data
        for (sequence, _), payload in _split(self._buffer, _FRAME_HEADER, "stream frame"):
            if sequence == MARK and not payload:
                yield Frame(MARK, b"")
                continue
            if sequence not in self._open:
                raise ContentError(
                    f"guest: a stream frame of sequence {sequence}, which isn't open"
                )
            if not payload:
                self._open.remove(sequence)
            yield Frame(sequence, payload)


def encode_signal(number: int) -> bytes:
    """Return the message that sends signal number to the application."""
    return _MESSAGE_HEADER.pack(_SIGNAL, 4) + _U32.pack(number)


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
    """Return the message that tells a VM which resumed the time, in nanoseconds since the epoch."""
    return _MESSAGE_HEADER.pack(_CLOCK, _U64.size) + _U64.pack(nanoseconds)


def encode_frame(data: bytes) -> bytes:
    """Return the frame that gives data (at most PAYLOAD_LIMIT bytes) to standard input.

    Without data it ends standard input.
    """
    return _FRAME_HEADER.pack(STDIN, len(data)) + data


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


_DECODERS: Mapping[int, Callable[[bytes], Message]] = {
    _HELLO: _hello,
    _EVENT: _event,
    _EXIT: _exit,
    _ERROR: _failure,
}
