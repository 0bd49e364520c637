"""What a process may still open and reach, by the kernel's Landlock: rules that it sets for itself.

Sources: linux/landlock.h and the kernel's Documentation/userspace-api/landlock.rst. The numbers of
the system calls are the same on every architecture.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from struct import pack
from typing import TYPE_CHECKING

from hyperbuild.launcher.libc import call

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

EXECUTE, WRITE, READ, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MOVE, TRUNCATE = 1 << 13, 1 << 14
#: All that the first version has; what it says of files, the rest being of directories.
_FIRST = (1 << 13) - 1
_OF_FILES = EXECUTE | WRITE | READ | TRUNCATE
_MAKE_CHARACTER, _MAKE_BLOCK = 1 << 6, 1 << 11
#: Of directories whose files are to be read, or to be all that a user makes of them.
LOOK = EXECUTE | READ | _READ_DIRECTORY
USE = (_FIRST | _MOVE | TRUNCATE) & ~(EXECUTE | _MAKE_CHARACTER | _MAKE_BLOCK)

_BIND_AND_CONNECT = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3
#: The versions that brought moves between directories, TRUNCATE, TCP, and sockets and signals.
_WITH_MOVE, _WITH_TRUNCATE, _WITH_NETWORK, _WITH_SCOPES = 2, 3, 4, 6


def restrict(rules: Iterable[tuple[int, int]], *, network: bool) -> None:
    """Restrict this process and its children, for good, as far as this kernel can.

    No process outside gets its signals and none its connections by abstract sockets; without
    network it has no TCP. rules are the descriptors of all files and directories that it may open,
    with what it may do there. no_new_privs must be set.
    """
    try:
        version = call("syscall", _CREATE, None, 0, _VERSION)
    except OSError:
        # This kernel has none, or it is switched off.
        return
    files = _FIRST | (_MOVE if version >= _WITH_MOVE else 0)
    files |= TRUNCATE if version >= _WITH_TRUNCATE else 0
    tcp = _BIND_AND_CONNECT if version >= _WITH_NETWORK and not network else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _WITH_SCOPES else 0
    attributes = pack("QQQ", files, tcp, scopes)
    known = 24 if scopes else 16 if version >= _WITH_NETWORK else 8
    ruleset = call("syscall", _CREATE, attributes[:known], known, 0)
    try:
        for fd, access in rules:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            allowed = access & files if is_directory else access & files & _OF_FILES
            # Files that have no name, as those in memory, need no rule and take none.
            with suppress(OSError):
                call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, pack("=Qi", allowed, fd), 0)
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
