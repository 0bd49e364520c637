"""Asking a guest's port by HTTP, in a thread beside the VM's loop, until somebody answers."""

from __future__ import annotations

import threading
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from hyperbuild.launcher.expectations import compile_regex
from hyperbuild.launcher.matching import SLOW, SlowSearchError, finds

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.launcher.expectations import Http

#: Seconds: for one answer, and between two attempts, twice as long each time.
_ANSWER = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_BODY_READ = 4 << 20
#: What servers, or those in front of them, answer until they are up.
_NOT_UP = (502, 503, 504)
_BODY_SHOWN = 80


class HttpProbe(threading.Thread):
    """Asks for what is expected, by a port of this host's loopback.

    Who does not answer, or says that it is not up, is asked again. Any other answer is the last:
    on_answer is called with its status and body. ``seen`` is what came of the last attempt so far.
    """

    def __init__(
        self, expected: Http, port: int, on_answer: Callable[[Http, int, bytes], None]
    ) -> None:
        super().__init__(daemon=True)
        self.seen = "not asked yet"
        self._expected = expected
        self._port = port
        self._on_answer = on_answer
        self._is_over = threading.Event()

    def stop(self) -> None:
        """Ask no more; an answer that still comes is nobody's."""
        self._is_over.set()

    def run(self) -> None:
        """Ask until there is an answer."""
        pause = _FIRST_PAUSE
        while not self._is_over.is_set():
            try:
                status, body = self._ask()
            except (OSError, HTTPException) as error:
                self.seen = f"no answer ({getattr(error, 'strerror', None) or error!r})"
            else:
                self.seen = f"status {status}"
                if status not in _NOT_UP or status == self._expected.status:
                    self._on_answer(self._expected, status, body)
                    return
            self._is_over.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask(self) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER)
        try:
            headers = {"Host": "localhost", "Connection": "close", "User-Agent": "hyperbuild"}
            connection.request("GET", self._expected.path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_BODY_READ)
        finally:
            connection.close()


def judge(expected: Http, status: int, body: bytes) -> str:
    """Return what is wrong with an answer; empty if it is as expected."""
    wanted = expected.status
    if status != wanted if wanted is not None else status >= 400:
        return f"the answer has status {status}, not {wanted or 'one below 400'}"
    try:
        if expected.regex and not finds(compile_regex(expected.regex), body):
            begin = body[:_BODY_SHOWN].decode(errors="replace")
            return f"nothing in the answer's {len(body)} bytes matches, which begin {begin!r}"
    except SlowSearchError:
        return SLOW
    return ""
