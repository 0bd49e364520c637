"""The one process that a VM has beside its hypervisor: it carries, serves, keeps the state true.

    python -P -m hyperbuild.launcher.supervisor DIRECTORY

Descriptors are as ``order.start`` sets them: 0 the order (pickled by the caller, which is another
process of the same program), 3 the VM's lock, 4 the connection of who has started it.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import HyperbuildError, printable
from hyperbuild.converter.progress import Task
from hyperbuild.converter.records import Record
from hyperbuild.launcher import wire
from hyperbuild.launcher.errors import BootError
from hyperbuild.launcher.instances import (
    EXITED,
    RESTARTING,
    RUNNING,
    SOCKET_NAME,
    State,
    erase,
    timestamp,
    write_state,
)
from hyperbuild.launcher.journal import Journal
from hyperbuild.launcher.order import CONNECTION_FD, LOCK_FD
from hyperbuild.launcher.restarting import next_pause
from hyperbuild.launcher.server import Forced, Server
from hyperbuild.launcher.timeline import Timeline
from hyperbuild.launcher.vm import Watch, run_vm

if TYPE_CHECKING:
    from hyperbuild.launcher.order import Order

_FAILURE = 125


class End(Record):
    """How a run ended; one that was never started did not get to its application."""

    status: int
    reason: str
    was_started: bool


class Supervisor:
    """One VM in ``directory``, from its first boot to its end for good."""

    def __init__(self, directory: Path, order: Order, starter: socket.socket) -> None:
        self._directory = directory
        self._order = order
        self._state = State(pid=os.getpid())
        self._started = 0.0
        self._journal = Journal(directory, order.log_size)
        self._server = Server(
            directory,
            self._journal,
            interactive=order.interactive,
            grace=order.options.grace,
            stop_signal=order.files.bundle.process.stop_signal.number,
            on_health=lambda health: self._change(health=health),
            on_containers=lambda containers: self._change(containers=containers),
            pod=order.pod,
        )
        self._server.adopt(starter)

    def run(self, lock: int) -> None:
        """Run the VM, again and again if that is its policy; lock is given back once it is over."""
        end = self._run(self._order.started_at)
        if not end.was_started:
            # Nothing of it has run, and who asked for it is told why: there is nothing to keep.
            erase(self._directory)
            os.close(lock)
            self._server.failed(end.reason, end.status)
        else:
            end = self._run_again(end)
            self._journal.close()
            (self._directory / SOCKET_NAME).unlink(missing_ok=True)
            if self._order.auto_remove:
                erase(self._directory)
            os.close(lock)
            self._server.ended(end.status, end.reason)
        self._server.linger()

    def _run_again(self, end: End) -> End:
        """Go on as the policy says; return the last end, when the state tells of it."""
        pause = 0.0
        policy = self._order.restart
        while policy.wants(end.status, self._state.restarts) and not self._is_final():
            pause = next_pause(pause, time.monotonic() - self._started)
            self._finish(RESTARTING, end)
            self._server.ended(end.status, end.reason)
            self._server.pause(pause)
            if self._server.is_stopping:
                return self._finish_stopped(end)
            self._state = self._state.replace(restarts=self._state.restarts + 1)
            self._started = time.monotonic()
            again = self._run(time.monotonic_ns())
            if self._server.is_stopping and not again.was_started:
                return self._finish_stopped(end)
            end = again
        self._finish(EXITED, end)
        return end

    def _is_final(self) -> bool:
        """Tell whether the last end was wanted, or is that of a pod whose containers all ended."""
        return self._server.is_stopping or self._server.is_over

    def _finish_stopped(self, last: End) -> End:
        """Finish a VM that was stopped before it ran again: its last run's end stays its end."""
        end = last.replace(reason=last.reason or "stopped before it ran again")
        self._finish(EXITED, end)
        return end

    def _run(self, started_at: int) -> End:
        """Boot the VM once and see it to its end."""
        order, timeline = self._order, Timeline()
        timeline.mark("start", started_at)
        before = self._state.started
        watch = Watch(
            timeline,
            Relay(self._server),
            order.budgets,
            on_started=self._note_start,
            observer=self._server,
            heeds_signals=False,
        )
        status, reason = _FAILURE, ""
        try:
            result = run_vm(
                order.files,
                order.options,
                search_path=order.search_path,
                streams=self._server.begin(),
                watch=watch,
                warm=order.warm,
                pod=order.pod,
            )
            status = result.status
            if self._server.is_over:
                status, reason = self._server.pod_result
            if result.has_timed_out:
                reason = "it ran longer than its --timeout"
        except Forced as forced:
            status, reason = forced.status, str(forced)
        except BootError as error:
            status, reason = error.exit_status, str(error)
        except HyperbuildError as error:
            reason = str(error)
        except OSError as error:
            reason = f"{error.filename or 'the VM'}: {error.strerror or error}"
        except Exception as error:
            reason = f"a defect of hyperbuild ({type(error).__name__}: {error})"
        self._server.drain()
        return End(status, printable(reason), self._state.started != before)

    def _note_start(self, timeline: Timeline) -> None:
        self._started = time.monotonic()
        document = timeline.document()
        self._change(
            status=RUNNING, started=timestamp(), finished="", exit_status=None, reason="",
            health="", timeline=document,
        )  # fmt: skip
        self._server.started(document)

    def _finish(self, status: str, end: End) -> None:
        self._change(
            status=status, exit_status=end.status, reason=end.reason, finished=timestamp(),
            health="", pid=self._state.pid if status == RESTARTING else None,
        )  # fmt: skip

    def _change(self, **changes: Any) -> None:
        self._state = self._state.replace(**changes)
        try:
            write_state(self._directory, self._state)
        except OSError:
            # A full disk: the VM shall live on, and its end is told by the lock in any case.
            self._server.warn("the VM's state could not be written; free some space on its disk")


class Relay:
    """Tells what is said of a boot to those who wait for it."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def say(self, message: str) -> None:
        """Take no notice: what is worth saying, the client says itself."""

    def warn(self, message: str) -> None:
        """Pass on what the user should act on."""
        self._server.warn(message)

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:  # noqa: ARG002
        """Show nothing."""
        return Task()


def main() -> None:
    """Take over what the caller has left, and run the VM."""
    directory = Path(sys.argv[1])
    # Whatever else the caller had open is not ours to hold open.
    os.closerange(CONNECTION_FD + 1, os.sysconf("SC_OPEN_MAX"))
    with os.fdopen(os.dup(0), "rb") as file:
        order = pickle.load(file)  # noqa: S301 - a memory file that our own parent has written
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")
    for fd in (LOCK_FD, CONNECTION_FD):
        os.set_inheritable(fd, False)
    starter = socket.socket(fileno=CONNECTION_FD)
    try:
        supervisor = Supervisor(directory, order, starter)
    except HyperbuildError as error:
        erase(directory)
        starter.sendall(wire.encode_told({"error": str(error), "status": _FAILURE}))
    else:
        supervisor.run(LOCK_FD)


if __name__ == "__main__":
    main()
