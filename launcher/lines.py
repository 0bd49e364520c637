"""What goes to the guest while it runs, and whose words are taken from it: one book for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.channel import (
    APPLICATION,
    OUTPUT_WINDOW,
    STDIN,
    Ended,
    Refused,
    Started,
    StreamDecoder,
    Window,
    encode_exec,
    encode_window,
    process_of,
    stdout_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.launcher.channel import Command, Frame, Message


class Lines:
    """The ways to the guest's ports. What is put on them is sent as the guest takes it.

    ``orders`` and ``input`` are what waits for the control and the stream port.
    """

    def __init__(self, orders: bytes = b"", first_input: bytes = b"") -> None:
        self.orders = bytearray(orders)
        self.input = bytearray(first_input)
        self._stream = StreamDecoder()
        #: Bytes of each sequence that were consumed, and the guest not told.
        self._owed: dict[int, int] = {}
        self._last = APPLICATION
        self._asked: set[int] = set()
        self._running: set[int] = set()

    def order(self, messages: bytes) -> None:
        """Send messages to the control port (``encode_signal`` and its like, but ``exec``)."""
        self.orders += messages

    def feed(self, frames: bytes) -> None:
        """Send frames (``encode_frame``) to the stream port: within a process's input window."""
        self.input += frames

    def exec(self, command: Command) -> int:
        """Start command in the guest and return its number; Started or Refused is the answer.

        InputError as of ``encode_exec``.
        """
        number = self._last + 1
        self.orders += encode_exec(number, command)
        self._last = number
        self._asked.add(number)
        self._stream.expect(number)
        return number

    def release(self, sequence: int, size: int) -> None:
        """Let the guest send size bytes more of a stream, as so many of it were consumed.

        It is told by half a window at a time. What has ended takes no notice.
        """
        owed = self._owed.get(sequence, 0) + size
        if owed >= OUTPUT_WINDOW // 2 and self._stream.widen(sequence, owed):
            self.orders += encode_window(sequence, owed)
            owed = 0
        self._owed[sequence] = owed

    @property
    def is_output_over(self) -> bool:
        """Whether both of the application's outputs have ended."""
        return self._stream.ended

    def frames(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that data of the stream port completes; ContentError as of a decoder."""
        for frame in self._stream.feed(data):
            yield frame
            if not frame.data:
                self._owed.pop(frame.sequence, None)

    def check(self, message: Message) -> None:
        """Learn of a message; ContentError if it tells of a process that was not asked for."""
        if isinstance(message, Started):
            self._move(message.process, self._asked)
            self._running.add(message.process)
        elif isinstance(message, Refused):
            self._move(message.process, self._asked)
            self._stream.forget(message.process)
        elif isinstance(message, Ended):
            self._move(message.process, self._running)
        elif isinstance(message, Window):
            process = process_of(message.sequence)
            is_input = message.sequence == stdout_of(process)
            if not is_input or (process not in self._running and message.sequence != STDIN):
                raise ContentError(f"guest: a window of sequence {message.sequence}, not an input")

    @staticmethod
    def _move(process: int, known: set[int]) -> None:
        if process not in known:
            raise ContentError(f"guest: it tells of process {process}, which is not there")
        known.remove(process)
