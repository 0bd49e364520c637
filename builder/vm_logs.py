"""``hyperbuild logs``: a VM's log, its streams apart again."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import HyperbuildError, InputError, printable
from hyperbuild.converter.files import write_all
from hyperbuild.converter.records import Record
from hyperbuild.launcher import wire
from hyperbuild.launcher.client import NotRunningError, connect, frames
from hyperbuild.launcher.instances import timestamp
from hyperbuild.launcher.journal import STDOUT, Lines, Reader, last_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.launcher.instances import Instance, Instances
    from hyperbuild.launcher.journal import Piece

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NANO = 1_000_000_000
_AT_ONCE = 64 << 10


class LogOptions(Record):
    """What of a log is wanted; ``since`` in nanoseconds since the epoch."""

    follow: bool
    tail: int | None
    timestamps: bool
    since: int


def parse_since(text: str) -> int:
    """Read a time, or how long ago it was, as nanoseconds since the epoch; InputError otherwise."""
    if match := re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII):
        return time.time_ns() - int(match[1]) * _SECONDS[match[2]] * _NANO
    if re.fullmatch(r"\d{1,11}(\.\d{1,9})?", text, re.ASCII):
        return int(float(text) * _NANO)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{printable(text)} is no time; say 10m, 2026-11-26T20:00:00Z or seconds since 1970"
        ) from None
    if moment.tzinfo is None:
        moment = moment.astimezone()
    passed = moment - datetime.fromtimestamp(0, UTC)
    return (passed.days * 86400 + passed.seconds) * _NANO + passed.microseconds * 1000


def print_log(instances: Instances, instance: Instance, options: LogOptions) -> None:
    """Write a VM's log to stdout and stderr; with follow, until the VM has ended.

    HyperbuildError: some of it was gone before it could be read.
    """
    grown = _growth(instances, instance) if options.follow else iter(())
    # A follower is entered before the first look, so that nothing is written between the two.
    next(grown, None)
    log = _Log(Reader(instance.directory), options)
    log.print_first()
    for _ in grown:
        log.print_rest()
    if options.follow:
        log.print_rest()
    if log.reader.gaps:
        raise HyperbuildError(
            "the log was written faster than it could be read: the oldest of it is missing; "
            "give it more room with run --log-size"
        )


class _Log:
    """What of a log is wanted, printed as it comes; runs of one stream are written at once."""

    def __init__(self, reader: Reader, options: LogOptions) -> None:
        self.reader = reader
        self._options = options
        self._lines = Lines()
        self._stream = STDOUT
        self._waiting = bytearray()

    def print_first(self) -> None:
        """Print what there is, or the end of it."""
        if self._options.tail is None:
            self.print_rest()
        else:
            self._print(last_lines(self._pieces(), self._options.tail))

    def print_rest(self) -> None:
        """Print what is there since the last time."""
        options = self._options
        if options.tail is None and not (options.since or options.timestamps):
            for chunk in self.reader.read():
                self._add(chunk.stream, chunk.data)
            self._flush()
        else:
            self._print(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        for chunk in self.reader.read():
            for piece in self._lines.split(chunk):
                if piece.nanoseconds >= self._options.since:
                    yield piece

    def _print(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            data = piece.data
            if self._options.timestamps and piece.begins:
                data = timestamp(piece.nanoseconds).encode() + b" " + data
            self._add(piece.stream, data)
        self._flush()

    def _add(self, stream: int, data: bytes) -> None:
        if stream != self._stream or len(self._waiting) > _AT_ONCE:
            self._flush()
        self._stream = stream
        self._waiting += data

    def _flush(self) -> None:
        if self._waiting:
            write_all(1 if self._stream == STDOUT else 2, self._waiting)
            self._waiting = bytearray()


def _growth(instances: Instances, instance: Instance) -> Iterator[None]:
    """Yield whenever the log has grown, until its VM has ended."""
    try:
        sock = connect(instances, instance)
    except NotRunningError:
        return
    with sock:
        sock.sendall(wire.encode_request({"do": "follow"}))
        for frame in frames(sock):
            if frame.kind == wire.GROWN:
                yield
