"""Searching by a stranger's regular expression, which may take longer than the world lasts."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import re

#: Seconds for one search of some kilobytes, or of a page: what is written well takes milliseconds.
SEARCH_SECONDS = 2.0


#: What is said of it then.
SLOW = (
    f"the regular expression was searched for {SEARCH_SECONDS:g} s without an end (it repeats what "
    "repeats); write a simpler one"
)


class SlowSearchError(Exception):
    """A search was given up."""


def finds(pattern: re.Pattern[bytes], text: bytes, position: int = 0) -> bool:
    """Tell whether pattern is found in text from position on; SlowSearchError after SEARCH_SECONDS.

    Python's matcher lets no other thread run, but looks for signals. So an alarm ends it, which
    only the main thread can have: in others there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        return pattern.search(text, position) is not None
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, SEARCH_SECONDS)
    try:
        return pattern.search(text, position) is not None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _give_up(_number: int, _frame: object) -> NoReturn:
    raise SlowSearchError
