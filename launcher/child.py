"""Starting a hypervisor so that it never outlives its launcher."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ToolError
from hyperbuild.launcher.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The child asks the kernel for SIGKILL at its parent's death, and then makes sure that the parent
#: had not died before it asked. After exec both hold for the hypervisor itself.
_GUARD = '[ "$PPID" = "$0" ] && exec "$@"'

#: Python ignores these; a program started by it should not.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)


class Child:
    """A running hypervisor: ``pid``, ``pidfd`` (readable once it has ended), ``stderr`` (pipe)."""

    def __init__(self, pid: int, stderr: int) -> None:
        self.pid = pid
        self.stderr = stderr
        self.pidfd = os.pidfd_open(pid)
        self._status: int | None = None

    def kill(self) -> None:
        """Send SIGKILL; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end; return the exit status, or -N for death by signal N."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def close(self) -> None:
        """Make sure that it has ended, and give its descriptors back."""
        self.kill()
        self.wait()
        os.close(self.pidfd)
        os.close(self.stderr)


def spawn(argv: Sequence[str], descriptors: Sequence[int], search_path: str) -> Child:
    """Start argv with descriptors inherited, apart from the terminal, killed when we die.

    It dies with the thread that calls this, so that thread must stay. ToolError: setpriv (of
    util-linux, there on any Debian) is not on search_path.
    """
    setpriv = find_program("setpriv", search_path)
    if setpriv is None:
        raise ToolError("setpriv is not on the PATH; run: apt install util-linux")
    guarded = [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", _GUARD, str(os.getpid()), *argv]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            setpriv,
            guarded,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 2),
                # Onto itself: what the child alone is to inherit stays close-on-exec here.
                *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in descriptors),
            ],
            # Ctrl-C is ours to handle: the guest is asked first.
            setpgroup=0,
            setsigdef=_RESTORED,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return Child(pid, reader)
