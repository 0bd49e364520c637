"""Starting a hypervisor so that it never outlives its launcher."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The child asks the kernel for SIGKILL at its parent's death, and then makes sure that the parent
#: had not died before it asked. After exec both hold for the hypervisor itself.
_GUARD = '[ "$PPID" = "$0" ] && exec "$@"'


class Child:
    """A running hypervisor: ``pid``, ``pidfd`` (readable once it has ended), ``stderr`` (pipe)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stderr is None:
            raise ValueError("a child without a stderr pipe")
        self._process = process
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        self.stderr = process.stderr.fileno()

    def kill(self) -> None:
        """Send SIGKILL; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end; return the exit status, or -N for death by signal N."""
        return self._process.wait()

    def close(self) -> None:
        """Make sure that it has ended, and give its descriptors back."""
        self.kill()
        self.wait()
        os.close(self.pidfd)
        if self._process.stderr:
            self._process.stderr.close()


def spawn(argv: Sequence[str], descriptors: Sequence[int], search_path: str) -> Child:
    """Start argv with descriptors inherited, apart from the terminal, killed when we die.

    It dies with the thread that calls this, so that thread must stay. ToolError: setpriv (of
    util-linux, there on any Debian) is not on search_path.
    """
    setpriv = shutil.which("setpriv", path=search_path)
    if setpriv is None:
        raise ToolError("setpriv is not on the PATH; run: apt install util-linux")
    guarded = [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", _GUARD, str(os.getpid()), *argv]
    return Child(
        subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            # Ctrl-C is ours to handle: the guest is asked first.
            process_group=0,
        )
    )
