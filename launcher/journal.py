"""What an application wrote, kept on disk within bounds: every byte, its stream and its time.

A log is the files ``log.N`` of one directory, N counting up; the two newest are kept, each of at
most half of the log's size. A file is records, one after the other, each the bytes that were read
at once:

    u64 nanoseconds since the epoch | u8 stream (1 stdout, 2 stderr, 0 a note) | u32 length | bytes

The containers of a pod have streams of their own, two each: 1 and 2, 3 and 4, and so on. Numbers
are big-endian. A note is a line of ours: so many bytes could not be kept, and why. What is
cut off at the end of a file was never wholly written.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

NOTE, STDOUT, STDERR = 0, 1, 2
#: As many as the containers of a pod have.
LAST_STREAM = 32
DEFAULT_SIZE = 20 << 20
#: Bytes: a log must have room for a few records; more than that is no bound.
SMALLEST_SIZE, LARGEST_SIZE = 64 << 10, 1 << 40

_HEADER = struct.Struct(">QBI")
_LARGEST_RECORD = 1 << 20
_READ = 64 << 10


def stdout_of_container(index: int) -> int:
    """Return the stream of a container's standard output."""
    return 2 * index + STDOUT


def stderr_of_container(index: int) -> int:
    """Return the stream of a container's standard error."""
    return 2 * index + STDERR


def container_of(stream: int) -> int:
    """Return the index of the container whose stream it is."""
    return (stream - STDOUT) // 2


def is_stdout(stream: int) -> bool:
    """Tell whether a stream is a standard output."""
    return stream % 2 == STDOUT


class Chunk(Record):
    """Bytes that were written to a stream, at nanoseconds since the epoch."""

    nanoseconds: int
    stream: int
    data: bytes


class Piece(Record):
    """A part of a line (all of it, as a rule): where its line began, and whether it begins here."""

    nanoseconds: int
    stream: int
    data: bytes
    begins: bool


class Journal:
    """Writes the log in ``directory``. A disk that takes no more costs output, never the VM."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._half = size // 2
        self._number = 0
        self._used = 0
        self._lost = 0
        self._why = ""
        self._fd: int | None = None

    def write(self, stream: int, data: bytes) -> None:
        """Add data; what can't be kept is counted, and told once there is room again."""
        now = time.time_ns()
        if self._lost:
            note = f"{self._lost} bytes of output were not kept: {self._why}\n".encode()
            if not self._add(now, NOTE, note):
                self._lost += len(data)
                return
            self._lost = 0
        for at in range(0, len(data), _READ):
            if not self._add(now, stream, data[at : at + _READ]):
                self._lost += len(data) - at
                return

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _add(self, now: int, stream: int, data: bytes) -> bool:
        record = _HEADER.pack(now, stream, len(data)) + data
        try:
            self._make_room(len(record))
            assert self._fd is not None  # noqa: S101 - for the type checker
            done = os.write(self._fd, record)
            if done == len(record):
                self._used += done
                return True
            self._why = "the disk is full"
        except OSError as error:
            self._why = error.strerror or str(error)
        # What was written of a record is no record.
        if self._fd is not None:
            with suppress(OSError):
                os.ftruncate(self._fd, self._used)
        return False

    def _make_room(self, size: int) -> None:
        """Begin the next file if this one has no room for size bytes more."""
        if self._fd is not None and self._used + size <= self._half:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        number = self._number + (self._fd is not None)
        # The oldest goes first: the new one may need its room.
        with suppress(FileNotFoundError):
            (self._directory / f"log.{number - 2}").unlink()
        fd = os.open(self._directory / f"log.{number}", flags, 0o600)
        self.close()
        self._fd, self._number, self._used = fd, number, 0


class Reader:
    """Reads a log from its beginning; also one that is being written.

    ``gaps`` counts files that were gone before they could be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd: int | None = None
        self._number = -1
        self._rest = b""
        self.gaps = 0

    def read(self) -> Iterator[Chunk]:
        """Yield what there is by now; called again, what came since."""
        while True:
            # Asked before the last look at this file: a file with a successor is complete.
            succeeded = self._next_number() is not None
            yield from self._read_file()
            if not succeeded or not self._advance():
                return

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _next_number(self) -> int | None:
        numbers = [
            int(name.removeprefix("log."))
            for name in os.listdir(self._directory)  # noqa: PTH208 - names are all that is wanted
            if re.fullmatch(r"log\.\d{1,18}", name)
        ]
        return min((number for number in numbers if number > self._number), default=None)

    def _advance(self) -> bool:
        number = self._next_number()
        if number is None:
            return False
        try:
            fd = os.open(self._directory / f"log.{number}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Rotated away since: the next has a higher number.
            return self._advance()
        self.close()
        if self._number >= 0 and number > self._number + 1:
            self.gaps += 1
        self._fd, self._number, self._rest = fd, number, b""
        return True

    def _read_file(self) -> Iterator[Chunk]:
        if self._fd is None:
            return
        while data := os.read(self._fd, _READ):
            self._rest += data
            at = 0
            while len(self._rest) - at >= _HEADER.size:
                nanoseconds, stream, length = _HEADER.unpack_from(self._rest, at)
                # What no writer of ours has written ends the file: it can't be followed any more.
                if length > _LARGEST_RECORD or stream > LAST_STREAM:
                    os.lseek(self._fd, 0, os.SEEK_END)
                    self._rest = b""
                    return
                end = at + _HEADER.size + length
                if end > len(self._rest):
                    break
                yield Chunk(nanoseconds, stream, self._rest[at + _HEADER.size : end])
                at = end
            self._rest = self._rest[at:]


class Lines:
    """Chunks -> pieces of lines; a line may come in many chunks, those of other streams between."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def split(self, chunk: Chunk) -> Iterator[Piece]:
        """Yield the pieces of chunk, each ending with its line's newline or with the chunk."""
        for data in re.findall(rb"[^\n]*\n|[^\n]+", chunk.data):
            begun = self._begun.pop(chunk.stream, None)
            at = chunk.nanoseconds if begun is None else begun
            if not data.endswith(b"\n"):
                self._begun[chunk.stream] = at
            yield Piece(at, chunk.stream, data, begun is None)


def last_lines(pieces: Iterable[Piece], count: int) -> list[Piece]:
    """Return the pieces of the last count lines, in their order."""
    kept: deque[list[tuple[int, Piece]]] = deque(maxlen=count)
    under_way: dict[int, list[tuple[int, Piece]]] = {}
    for number, piece in enumerate(pieces):
        if piece.begins:
            under_way[piece.stream] = []
            kept.append(under_way[piece.stream])
        under_way.setdefault(piece.stream, []).append((number, piece))
    numbered = sorted((pair for line in kept for pair in line), key=lambda pair: pair[0])
    return [piece for _, piece in numbered]


def parse_size(text: str) -> int:
    """Read the size of a log, ``512K`` or ``20M`` or ``1G``, as bytes; InputError otherwise."""
    match = re.fullmatch(r"(\d{1,9})([kmg])(?:i?b)?", text, re.ASCII | re.IGNORECASE)
    size = int(match[1]) << {"k": 10, "m": 20, "g": 30}[match[2].lower()] if match else 0
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise InputError(
            f"log size {printable(text)!r} is none; give {SMALLEST_SIZE >> 10}K to "
            f"{LARGEST_SIZE >> 30}G, as in 20M"
        )
    return size
