"""How slowly a server may answer: each byte comes in time, and still there may be no end of them.

Timeouts of sockets begin anew with each byte. So the head of an answer has to be complete within
twice the read timeout, and its body has to come at ``slowest`` bytes a second at least, averaged
over the time of a read timeout; what the reader itself takes does not count.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import urllib3.connection
import urllib3.connectionpool

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests
    import urllib3

    from hyperbuild.converter.settings import RegistrySettings

_PIECE = 256 << 10


class SlowError(TimeoutError):
    """An answer comes, but so slowly that waiting for its end is no use."""


def pieces(response: requests.Response, settings: RegistrySettings) -> Iterator[bytes]:
    """Yield a body's bytes as they come, their coding left as it is.

    SlowError if they come too slowly, else what urllib3 raises.
    """
    waited, count = 0.0, 0
    while True:
        start = time.monotonic()
        piece: bytes = response.raw.read1(_PIECE, decode_content=False)
        waited += time.monotonic() - start
        count += len(piece)
        if not piece:
            return
        if waited > settings.read_timeout:
            if count < settings.slowest * waited:
                raise SlowError(f"less than {settings.slowest} bytes a second")
            waited, count = 0.0, 0
        yield piece


def read_body(response: requests.Response, limit: int, settings: RegistrySettings) -> bytes:
    """Return a body, or its first bytes, a few more than limit, if it is longer; as ``pieces``."""
    content = bytearray()
    for piece in pieces(response, settings):
        content += piece
        if len(content) > limit:
            break
    return bytes(content)


def watch(manager: urllib3.PoolManager) -> None:
    """Have the connections that manager makes bound the time for an answer's head."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


class _Watched(urllib3.connection.HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        seconds = self.timeout
        sock = cast("socket.socket", self.sock)
        with _cut_after(sock, 2 * seconds if seconds else threading.TIMEOUT_MAX):
            return super().getresponse()


class _WatchedTLS(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Watched


class _TLSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _WatchedTLS


@contextmanager
def _cut_after(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Cut sock if what is done meanwhile takes longer; TimeoutError whatever has come of it."""
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        # Not the method of a TLS socket, which would take it apart under its reader.
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if is_late.is_set():
            raise SlowError("an answer's head without end")
