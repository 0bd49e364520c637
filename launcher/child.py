"""Starting a hypervisor so that it never outlives its launcher, nor reaches more than its files."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from hyperbuild.launcher.jail import confine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.launcher.confinement import Needs

#: Python ignores the first two, and the launcher catches the rest; a hypervisor does neither.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


def spawn(argv: Sequence[str], descriptors: Sequence[int], needs: Needs) -> Child:
    """Start argv with descriptors inherited, confined to needs, killed when we die.

    It dies with the thread that calls this, so that thread must stay. What keeps it from being
    started is told on its stderr.
    """
    parent = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        # What arrives between the two worlds must not run our handlers there.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _become(argv, descriptors, writer, needs, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return Child(pid, reader)


def _become(
    argv: Sequence[str], descriptors: Sequence[int], stderr: int, needs: Needs, parent: int
) -> NoReturn:
    """Turn this process, just forked, into argv."""
    try:
        # Ctrl-C is the launcher's to handle: the guest is asked first. And no terminal is ours.
        os.setsid()
        for number in _RESTORED:
            # Ignoring it forgets one that waits.
            signal.signal(number, signal.SIG_IGN)
            signal.signal(number, signal.SIG_DFL)
        os.dup2(stderr, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for fd in descriptors:
            os.set_inheritable(fd, True)
        confine(needs, descriptors, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(os.path.realpath(argv[0]), list(argv), {})  # noqa: S606 - there is none
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        where = error.filename if isinstance(error, OSError) else ""
        os.write(2, f"hyperbuild: it could not be confined ({where}: {reason})\n".encode())
    finally:
        os._exit(127)
