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
from hyperbuild.launcher.journal import (
    NOTE,
    STDOUT,
    Lines,
    Reader,
    is_stdout,
    last_lines,
    stderr_of_container,
    stdout_of_container,
)
from hyperbuild.launcher.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.launcher.instances import Instance, Instances
    from hyperbuild.launcher.journal import Chunk, Piece

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NANO = 1_000_000_000
_AT_ONCE = 64 << 10


class LogOptions(Record):
    """What of a log is wanted; ``since`` in nanoseconds since the epoch.

    ``container`` is one of a pod; "" are all, each line behind its container's name.
    """

    follow: bool
    tail: int | None
    timestamps: bool
    since: int
    container: str = ""


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
    log = _Log(Reader(instance.directory), options, instance)
    log.print_first()
    for _ in grown:
        log.print_rest()
    if options.follow:
        log.print_rest()
    log.print_last()
    if log.reader.gaps:
        raise HyperbuildError(
            "the log was written faster than it could be read: the oldest of it is missing; "
            "give it more room with run --log-size"
        )


class _Log:
    """What of a log is wanted, printed as it comes; runs of one stream are written at once."""

    def __init__(self, reader: Reader, options: LogOptions, instance: Instance) -> None:
        self.reader = reader
        self._options = options
        names = [container["name"] for container in instance.asked.containers]
        self._wanted = _wanted(instance.asked.name, names, options.container)
        self._labels = Labels(names) if names and self._wanted is None else None
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
            for chunk in self._chunks():
                self._add(chunk.stream, chunk.data)
            self._flush()
        else:
            self._print(self._pieces())

    def print_last(self) -> None:
        """Print what of lines is there that were never completed."""
        if self._labels:
            write_all(1, self._labels.rest())

    def _chunks(self) -> Iterator[Chunk]:
        for chunk in self.reader.read():
            if self._wanted is None or chunk.stream in self._wanted:
                yield chunk

    def _pieces(self) -> Iterator[Piece]:
        for chunk in self._chunks():
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
        if self._labels:
            # No data would be the line's end.
            data = self._labels.feed(stream, data) if data else data
        if stream != self._stream or len(self._waiting) > _AT_ONCE:
            self._flush()
        self._stream = stream
        self._waiting += data

    def _flush(self) -> None:
        if self._waiting:
            write_all(1 if is_stdout(self._stream) else 2, self._waiting)
            self._waiting = bytearray()


def _wanted(vm: str, names: list[str], container: str) -> tuple[int, ...] | None:
    """Return the streams of a container, None for all; InputError if there is no such one."""
    if not container:
        return None
    if container not in names:
        known = f"there are {', '.join(names)}" if names else "it is no pod"
        raise InputError(f"VM {vm} has no container {printable(container)}; {known}")
    index = names.index(container)
    return (NOTE, stdout_of_container(index), stderr_of_container(index))


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
