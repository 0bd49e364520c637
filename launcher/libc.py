"""Functions of libc that Python lacks, called through the module beneath ctypes.

That takes a fifth of the time to load, and this is on the way to every boot.
"""

from __future__ import annotations

import os
from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, dlopen, dlsym
from _ctypes import get_errno as read_errno
from functools import cache


class _Int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_libc = dlopen(None, 0)  # type: ignore[arg-type]


@cache
def _function(name: str) -> _Function:
    return _Function(dlsym(_libc, name))


def call(name: str, *arguments: str | bytes | int | None) -> int:
    """Call a function that takes ints and pointers and returns an int.

    OSError, with the function's name, if it returns -1.
    """
    given = [each.encode() if isinstance(each, str) else each for each in arguments]
    result: int = _function(name)(*given)
    if result == -1:
        raise OSError(read_errno(), os.strerror(read_errno()), name)
    return result
