"""The pipes between a VM's loop and its supervisor: the application's streams, for one run."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from hyperbuild.launcher.events import READ, WRITE
from hyperbuild.launcher.vm import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.launcher.events import Events

_CHUNK = 64 << 10


class Pipes:
    """Three pipes, of which a VM has one end each (``streams``).

    on_output is called with the number of a stream (1, 2) and bytes that came of it, on_written
    with the number of bytes of standard input that were taken (or can't be any more).
    """

    def __init__(
        self,
        events: Events,
        *,
        interactive: bool,
        on_output: Callable[[int, bytes], None],
        on_written: Callable[[int], None],
    ) -> None:
        self._events = events
        self._on_output = on_output
        self._on_written = on_written
        self._input = bytearray()
        self._input_ended = False
        self._paused = False
        self._ours: dict[int, int] = {}
        self._theirs: list[int] = []
        for number in (1, 2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._ours[number] = reader
            self._theirs.append(writer)
        stdin = None
        if interactive:
            stdin, self._ours[0] = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._ours[0], False)
            self._theirs.append(stdin)
        self.streams = Streams(self._theirs[0], self._theirs[1], stdin)
        self.pause(False)

    def pause(self, wanted: bool) -> None:
        """Leave output where it is, so that the application has to wait; or go on."""
        self._paused = wanted
        for number in (1, 2):
            if number in self._ours:
                fd = self._ours[number]
                self._events.watch(fd, 0 if wanted else READ, partial(self._read, number))

    def feed(self, data: bytes) -> None:
        """Pass data on to standard input, or its end if there is none."""
        if 0 not in self._ours:
            self._on_written(len(data))
            return
        self._input += data
        self._input_ended = self._input_ended or not data
        self._write()

    def close(self) -> None:
        """Take what is still in the pipes, now that the VM writes no more, and close them."""
        for fd in self._theirs:
            os.close(fd)
        for number in (1, 2):
            while number in self._ours:
                self._read(number)
        self._close(0)

    def _read(self, number: int, _: int = 0) -> None:
        try:
            data = os.read(self._ours[number], _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._on_output(number, data)
        else:
            self._close(number)

    def _write(self, _: int = 0) -> None:
        fd = self._ours[0]
        try:
            while self._input:
                done = os.write(fd, self._input[:_CHUNK])
                del self._input[:done]
                self._on_written(done)
        except BlockingIOError:
            self._events.watch(fd, WRITE, self._write)
            return
        except OSError:
            # Nobody reads it any more: whoever writes shall not wait for that.
            self._on_written(len(self._input))
            self._input.clear()
            self._close(0)
            return
        self._events.forget(fd)
        if self._input_ended:
            self._close(0)

    def _close(self, number: int) -> None:
        fd = self._ours.pop(number, None)
        if fd is not None:
            with suppress(OSError):
                self._events.forget(fd)
            os.close(fd)
