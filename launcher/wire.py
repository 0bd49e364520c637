"""What a VM's supervisor and its clients say to one another over the socket (docs/running.md).

The client begins with its request, a JSON object on one line. Then frames go both ways:

    u32 kind | u32 length | payload                        big-endian, length at most 65536

TOLD is a JSON object, as all that the supervisor says of the VM. GRANT lets the client send so many
bytes more of standard input than the first INPUT_WINDOW. An empty STDIN frame is its end.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

STDIN, STDOUT, STDERR, TOLD, GRANT, SIGNAL, RESIZE, GROWN = range(8)

PAYLOAD_LIMIT = 65536
#: Bytes of standard input that a client may have under way.
INPUT_WINDOW = 256 << 10
#: Bytes of a request: a command's arguments may be as long as the kernel lets them be.
REQUEST_LIMIT = 4 << 20

_HEADER = struct.Struct(">II")
_U32 = struct.Struct(">I")
_SIZE = struct.Struct(">HH")


class Frame(Record):
    """One frame."""

    kind: int
    data: bytes


class Decoder:
    """Bytes -> frames, in pieces of any size; ContentError for a frame that is too long."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that data completes."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if length > PAYLOAD_LIMIT:
                raise ContentError(f"a frame of {length} bytes on a VM's socket")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(kind, payload)


class RequestDecoder:
    """Bytes -> the request, and what came behind it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Return the request once it is whole; ContentError for one that is none."""
        seen = max(len(self._buffer) - 1, 0)
        self._buffer += data
        end = self._buffer.find(b"\n", seen)
        if end < 0:
            if len(self._buffer) > REQUEST_LIMIT:
                raise ContentError("a request that is too long on a VM's socket")
            return None
        return _object(bytes(self._buffer[:end])), bytes(self._buffer[end + 1 :])


def send_waiting(sock: socket, waiting: bytearray) -> bool:
    """Send as much of what waits as a non-blocking sock takes; False if the other end has gone."""
    try:
        while waiting:
            del waiting[: sock.send(waiting)]
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def encode_request(request: dict[str, Any]) -> bytes:
    """Return the line that asks for request."""
    return json.dumps(request).encode() + b"\n"


def encode(kind: int, data: bytes = b"") -> bytes:
    """Return one frame; data is at most PAYLOAD_LIMIT bytes."""
    return _HEADER.pack(kind, len(data)) + data


def encode_stream(kind: int, data: bytes) -> bytes:
    """Return the frames of data of any length; none if it is empty."""
    step = PAYLOAD_LIMIT
    return b"".join(encode(kind, data[at : at + step]) for at in range(0, len(data), step))


def encode_told(told: dict[str, Any]) -> bytes:
    """Return the frame that tells an object."""
    raw = json.dumps(told).encode()
    if len(raw) > PAYLOAD_LIMIT:
        raw = json.dumps({key: str(value)[:4096] for key, value in told.items()}).encode()
    return encode(TOLD, raw)


def encode_number(kind: int, number: int) -> bytes:
    """Return a frame of one number (GRANT, SIGNAL)."""
    return encode(kind, _U32.pack(number))


def encode_resize(rows: int, columns: int) -> bytes:
    """Return the frame that tells the size of the client's terminal."""
    return encode(RESIZE, _SIZE.pack(rows, columns))


def told(frame: Frame) -> dict[str, Any]:
    """Return what a TOLD frame tells; ContentError if it is none."""
    return _object(frame.data)


def number(frame: Frame) -> int:
    """Return the number of a frame; ContentError if it has none."""
    if len(frame.data) != _U32.size:
        raise ContentError("a frame without its number on a VM's socket")
    value: int = _U32.unpack(frame.data)[0]
    return value


def size(frame: Frame) -> tuple[int, int]:
    """Return rows and columns of a RESIZE frame; ContentError if it has none."""
    if len(frame.data) != _SIZE.size:
        raise ContentError("a frame without its size on a VM's socket")
    rows, columns = _SIZE.unpack(frame.data)
    return rows, columns


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ContentError("what is no JSON on a VM's socket") from error
    if not isinstance(found, dict):
        raise ContentError("what is no JSON object on a VM's socket")
    return found
