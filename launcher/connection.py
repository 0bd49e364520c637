"""One client of a VM's supervisor: its request, then frames, in and out, never blocking."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher import wire
from hyperbuild.launcher.events import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from hyperbuild.launcher.events import Events

_CHUNK = 64 << 10
#: Bytes that may wait for a client before it counts as full.
_LIMIT = 256 << 10


class Connection:
    """A client. on_request is called with its request, on_frame then with each frame.

    on_end is called once, when it has gone or broken the protocol. ``on_drained``, if it is set, is
    called whenever it stops being full.
    """

    def __init__(
        self,
        sock: socket,
        events: Events,
        on_request: Callable[[Connection, dict[str, Any]], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._events = events
        self._on_request = on_request
        self._on_end = on_end
        self._request = wire.RequestDecoder()
        self._decoder = wire.Decoder()
        self._waiting = bytearray()
        #: Whether its request was read.
        self.has_asked = False
        self._closing = False
        self.is_gone = False
        self.on_frame: Callable[[wire.Frame], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self._update()

    @property
    def is_full(self) -> bool:
        """Whether no more should be sent now."""
        return len(self._waiting) >= _LIMIT

    @property
    def waiting(self) -> int:
        """Bytes that wait for the client."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent is with the kernel."""
        return not self._waiting

    def send(self, frames: bytes) -> None:
        """Send frames, or keep them until the client takes them."""
        if self.is_gone or self._closing:
            return
        self._waiting += frames
        self._flush()

    def tell(self, **told: Any) -> None:
        """Send what is told of the VM."""
        self.send(wire.encode_told(told))

    def finish(self, **told: Any) -> None:
        """Tell the last there is to tell, and close once it is sent."""
        self.tell(**told)
        self.close()

    def close(self) -> None:
        """Close once all is sent; nothing more is read."""
        self._closing = True
        if self._waiting:
            self._update()
        else:
            self.drop()

    def drop(self) -> None:
        """Close now."""
        if not self.is_gone:
            self.is_gone = True
            self._events.forget(self._sock.fileno())
            self._sock.close()
            self._on_end(self)

    def _update(self) -> None:
        if not self.is_gone:
            mask = (0 if self._closing else READ) | (WRITE if self._waiting else 0)
            self._events.watch(self._sock.fileno(), mask or READ, self._carry)

    def _carry(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if mask & ~WRITE and not self.is_gone:
            self._read()

    def _flush(self) -> None:
        was_full = self.is_full
        if not wire.send_waiting(self._sock, self._waiting):
            self.drop()
            return
        if self._closing and not self._waiting:
            self.drop()
            return
        self._update()
        if was_full and not self.is_full and self.on_drained:
            self.on_drained()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        # A client that is to go has nothing to say any more; that it went is worth knowing.
        if not data:
            self.drop()
            return
        if self._closing:
            return
        try:
            self._take(data)
        except (ContentError, ArithmeticError, TypeError, ValueError, struct.error):
            # Only the VM's owner gets here; what it says may be nonsense nevertheless.
            self.drop()

    def _take(self, data: bytes) -> None:
        if not self.has_asked:
            whole = self._request.feed(data)
            if whole is None:
                return
            self.has_asked = True
            request, data = whole
            self._on_request(self, request)
        for frame in self._decoder.feed(data):
            if self.is_gone or self._closing:
                return
            if self.on_frame:
                self.on_frame(frame)
