"""The supervisor's side of a VM's socket: what clients ask, done; and the VM's streams, shared out.

A ``Server`` is the ``Observer`` of the VM's loop (session.py), run after run: everything here
happens while that loop, or the supervisor's own between two runs, turns.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.launcher import wire
from hyperbuild.launcher.channel import (
    APPLICATION,
    Event,
    Exit,
    encode_resize,
    encode_signal,
    encode_stop,
    process_of,
)
from hyperbuild.launcher.connection import Connection
from hyperbuild.launcher.events import READ, Events
from hyperbuild.launcher.instances import SOCKET_NAME, socket_address
from hyperbuild.launcher.journal import is_stdout
from hyperbuild.launcher.labels import Labels
from hyperbuild.launcher.pipes import Pipes
from hyperbuild.launcher.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hyperbuild.launcher.channel import Frame, Message
    from hyperbuild.launcher.journal import Journal
    from hyperbuild.launcher.keeper import Keeper
    from hyperbuild.launcher.lines import Lines
    from hyperbuild.launcher.pod import Member
    from hyperbuild.launcher.vm import Streams

#: Seconds beyond its grace after which a guest that was told to end its application is ended.
_MARGIN = 2.0
_BACKLOG = 64
#: Seconds of grace that a client may ask for.
_LONGEST_GRACE = float(1 << 20)
#: Bytes that may wait for a client while nothing waits for it: then it has to go.
_MOST_WAITING = 16 << 20
_HEALTH = ("healthy", "unhealthy")


class Forced(Exception):  # noqa: N818 - it is no error: somebody wants the VM to end at once
    """Ends a VM's loop, and with it the hypervisor; status is what the VM is said to end with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Server:
    """Serves the clients of one VM, for as long as its supervisor lives.

    grace (seconds) and stop_signal are what the VM is stopped with where nobody says otherwise;
    on_health is called with "healthy" or "unhealthy", on_containers with ``Keeper.documents`` of a
    pod, whose members are ``pod``.
    """

    is_done = False

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        *,
        interactive: bool,
        grace: float,
        stop_signal: int,
        on_health: Callable[[str], None],
        on_containers: Callable[[Sequence[dict[str, Any]]], None],
        pod: Sequence[Member] = (),
    ) -> None:
        #: Whether its user wants the VM to end for good.
        self.is_stopping = False
        self.events = Events(self._take_signal)
        self._journal = journal
        self._interactive = interactive
        self._grace = grace
        self._stop_signal = stop_signal
        self._on_health = on_health
        self._connections: set[Connection] = set()
        self._starters: set[Connection] = set()
        self._attached: set[Connection] = set()
        self._awaiting: set[Connection] = set()
        self._followers: set[Connection] = set()
        self._writer: Connection | None = None
        self._pipes: Pipes | None = None
        self._lines: Lines | None = None
        self._processes: Processes | None = None
        self._is_started = False
        self._is_released = False
        self._forced: Forced | None = None
        self._timeline: dict[str, Any] = {}
        self._labels = Labels([member.name for member in pod])
        self._on_containers = on_containers
        self._keeper: Keeper | None = None
        if pod:
            from hyperbuild.launcher.keeper import Keeper

            self._keeper = Keeper(pod, self.events, self)
        self._listener = _listen(directory)
        self.events.watch(self._listener.fileno(), READ, self._accept)

    @property
    def fd(self) -> int:
        """Readable when there is something to look at."""
        return self.events.fd

    # The observer's part.

    def connect(self, lines: Lines) -> None:
        """Be given the way to the guest, before its first message."""
        self._lines = lines
        self._processes = Processes(lines)
        if self._keeper:
            self._keeper.connect(lines)

    def look(self) -> None:
        """Serve; Forced if the VM is to end now."""
        self.events.turn()
        if self._forced:
            raise self._forced

    def see(self, message: Message) -> None:
        """Take a message of the guest."""
        if isinstance(message, Exit):
            self._release()
        elif isinstance(message, Event):
            if message.name in _HEALTH:
                self._on_health(message.name)
        elif self._keeper and self._keeper.see(message):
            return
        elif self._processes:
            self._processes.see(message)

    def see_output(self, frame: Frame) -> None:
        """Take output of the processes beside the application; its own comes by the pipes."""
        if process_of(frame.sequence) == APPLICATION:
            return
        if self._keeper and self._keeper.see_output(frame):
            return
        if self._processes:
            self._processes.see_output(frame)

    def see_console(self, data: bytes) -> None:
        """Take no notice of the console."""

    # The supervisor's part.

    def adopt(self, sock: socket.socket) -> None:
        """Take a client that is connected already."""
        self._connections.add(Connection(sock, self.events, self._take_request, self._lose))

    def begin(self) -> Streams:
        """Return the streams of a run that begins."""
        self._is_started = self._is_released = False
        self._forced = None
        self._pipes = Pipes(
            self.events,
            interactive=self._interactive,
            on_output=self._take_output,
            on_written=self._grant,
        )
        return self._pipes.streams

    def warn(self, text: str) -> None:
        """Tell a warning to whoever waits for the start, or is attached."""
        for client in self._starters | self._attached | self._unheard():
            client.tell(warning=text)

    def started(self, timeline: dict[str, Any]) -> None:
        """Tell that the application runs; a pod, once all its containers do."""
        self._is_started = True
        self._timeline = timeline
        if self._keeper:
            self._keeper.begin()
        else:
            self._tell_start()

    def _tell_start(self) -> None:
        timeline = self._timeline
        for client in tuple(self._starters):
            client.finish(started=True, timeline=timeline)
        for client in self._attached:
            client.tell(started=True, timeline=timeline)

    def drain(self) -> None:
        """Take the rest of the output, now that the VM is gone."""
        self.events.at(None, self._force)
        self._is_started = False
        self._lines = None
        if self._keeper:
            self._keeper.end()
            self.take_change()
            self._broadcast(wire.STDOUT, self._labels.rest())
        if self._processes:
            self._processes.end()
            self._processes = None
        if self._pipes:
            self._pipes.close()
            self._pipes = None

    def ended(self, status: int, reason: str) -> None:
        """Tell all who are attached or wait that the application ended."""
        # Whoever still waits for the start of a pod learns that it will not come.
        for client in tuple(self._attached | self._awaiting | self._starters):
            client.finish(exit=status, reason=reason)

    def failed(self, text: str, status: int) -> None:
        """Tell all who care that the VM could not be started."""
        for client in self._starters | self._attached | self._awaiting | self._unheard():
            client.finish(error=text, status=status)

    def pause(self, seconds: float) -> None:
        """Serve for some time, or until the VM is to end for good."""
        end = time.monotonic() + seconds
        while not self.is_stopping and (left := end - time.monotonic()) > 0:
            self.events.turn(left)

    def linger(self) -> None:
        """Take no more clients, and serve those there are until they have everything."""
        self.events.forget(self._listener.fileno())
        self._listener.close()
        self._forced = None
        for client in tuple(self._connections):
            client.close()
        # A signal ends that, too.
        while self._connections and not self._forced:
            self.events.turn(None)

    # The keeper's part.

    def take_output(self, stream: int, data: bytes) -> None:
        """Keep output of a pod's container, and show it to who is attached, by whole lines."""
        self._journal.write(stream, data)
        self._broadcast(
            wire.STDOUT if is_stdout(stream) else wire.STDERR, self._labels.feed(stream, data)
        )
        self._tell_growth()

    def take_change(self) -> None:
        """Note how the containers are."""
        if self._keeper:
            self._on_containers(self._keeper.documents())

    def take_start(self) -> None:
        """Tell that all of a pod's containers run."""
        self._tell_start()

    def take_end(self) -> None:
        """End the VM of a pod whose containers have ended."""
        self._release()
        if self._lines:
            self._lines.order(encode_stop(0))
            self.events.at(time.monotonic() + _MARGIN, self._force)

    @property
    def is_over(self) -> bool:
        """Whether all containers of a pod have ended for good, or it failed."""
        return self._keeper is not None and self._keeper.is_over

    @property
    def pod_result(self) -> tuple[int, str]:
        """The exit status of a pod, and why it failed if it did."""
        return self._keeper.result if self._keeper else (0, "")

    # Clients.

    def _unheard(self) -> set[Connection]:
        """Return those whose request is still to be read: a boot that fails at once is faster."""
        return {client for client in self._connections if not client.has_asked}

    def _accept(self, _: int) -> None:
        with suppress(BlockingIOError, ConnectionError):
            self.adopt(self._listener.accept()[0])

    def _lose(self, client: Connection) -> None:
        for group in (self._connections, self._starters, self._attached, self._awaiting,
                      self._followers):  # fmt: skip
            group.discard(client)
        if self._processes:
            self._processes.lose(client)
        if client is self._writer:
            self._writer = None
            # Who wrote its input has gone; as under docker, that is the input's end.
            if self._pipes:
                self._pipes.feed(b"")
        self._regulate()

    def _take_request(self, client: Connection, request: dict[str, Any]) -> None:
        handlers: dict[object, Callable[[Connection, dict[str, Any]], None]] = {
            "start": self._await_start,
            "attach": self._attach,
            "follow": self._follow,
            "wait": self._wait,
            "stop": self._stop,
            "kill": self._kill,
            "exec": self._exec,
        }
        handler = handlers.get(request.get("do"))
        if handler is None:
            client.finish(error="this VM's supervisor does not know the request", status=1)
            return
        handler(client, request)

    def _await_start(self, client: Connection, _: dict[str, Any]) -> None:
        self._starters.add(client)
        client.on_frame = self._take_starters_frame

    def _take_starters_frame(self, frame: wire.Frame) -> None:
        if frame.kind == wire.SIGNAL:
            self._signal(wire.number(frame))

    def _attach(self, client: Connection, request: dict[str, Any]) -> None:
        self._attached.add(client)
        client.on_drained = self._regulate
        client.on_frame = lambda frame: self._take_frame(client, frame)
        if request.get("stdin") and self._writer is None:
            self._writer = client

    def _take_frame(self, client: Connection, frame: wire.Frame) -> None:
        if frame.kind == wire.SIGNAL:
            self._signal(wire.number(frame))
        elif frame.kind == wire.RESIZE and self._is_started and self._lines:
            self._lines.order(encode_resize(APPLICATION, *wire.size(frame)))
        elif frame.kind == wire.STDIN and client is self._writer and self._pipes:
            self._pipes.feed(frame.data)
        elif frame.kind == wire.TOLD:
            # The one thing that a client has to tell: nobody sees the output any more.
            self._ask_to_stop(self._grace)

    def _follow(self, client: Connection, _: dict[str, Any]) -> None:
        self._followers.add(client)
        client.send(wire.encode(wire.GROWN))

    def _wait(self, client: Connection, _: dict[str, Any]) -> None:
        self._awaiting.add(client)

    def _stop(self, client: Connection, request: dict[str, Any]) -> None:
        grace = request.get("grace")
        wanted = float(grace) if isinstance(grace, int | float) else self._grace
        self._awaiting.add(client)
        self._ask_to_stop(min(max(wanted, 0.0), _LONGEST_GRACE))

    def _kill(self, client: Connection, request: dict[str, Any]) -> None:
        number, name = request.get("signal"), str(request.get("container") or "")
        if not self._knows(client, name):
            return
        if not isinstance(number, int) or not 0 < number < signal.NSIG:
            client.finish(error=f"{number} is no signal", status=1)
        elif not self._is_started and number != signal.SIGKILL:
            client.finish(error="its application does not run now", status=1)
        elif name:
            self._kill_container(client, number, name)
        else:
            self._signal(number)
            client.finish(done=True)

    def _kill_container(self, client: Connection, number: int, name: str) -> None:
        if self._keeper and self._keeper.signal(number, name):
            client.finish(done=True)
        else:
            client.finish(error=f"its container {name} does not run now", status=1)

    def _knows(self, client: Connection, name: str) -> bool:
        """Tell whether there is such a container; else the client learns which there are."""
        if not name or (self._keeper and self._keeper.index(name) is not None):
            return True
        names = self._keeper.names if self._keeper else ()
        known = f"there are {', '.join(names)}" if names else "it is no pod"
        client.finish(error=f"the VM has no container {name}; {known}", status=1)
        return False

    def _exec(self, client: Connection, request: dict[str, Any]) -> None:
        name = str(request.get("container") or "")
        if not self._knows(client, name):
            return
        if self._is_started and self._processes:
            index = self._keeper.index(name) if self._keeper else None
            self._processes.start(client, request, index or 0)
        else:
            client.finish(error="its application does not run now", status=1)

    # What is done to the VM.

    def _take_signal(self, _: int) -> None:
        self._ask_to_stop(self._grace)

    def _ask_to_stop(self, grace: float) -> None:
        self.is_stopping = True
        self._release()
        if self._is_started and self._lines:
            if self._keeper:
                self._keeper.stop(grace)
            else:
                self._lines.order(encode_stop(grace))
            self.events.at(time.monotonic() + grace + _MARGIN, self._force)
        else:
            self._force()

    def _signal(self, number: int) -> None:
        """Send a signal to the application; one that runs no more, or not yet, is ended by some.

        A pod is stopped by what asks an application to end.
        """
        if self._keeper and number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._ask_to_stop(self._grace)
            return
        if number in (signal.SIGKILL, self._stop_signal):
            self.is_stopping = True
            self._release()
        if self._is_started and self._lines:
            if self._keeper:
                self._keeper.signal(number)
            else:
                self._lines.order(encode_signal(number))
            if number == signal.SIGKILL:
                self.events.at(time.monotonic() + _MARGIN, self._force)
        elif number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.is_stopping = True
            self._force(number)

    def _force(self, number: int = signal.SIGKILL) -> None:
        why = "killed: its guest did not end it" if self._is_started else "stopped before it ran"
        self._forced = Forced(128 + number, why)

    # Streams.

    def _take_output(self, stream: int, data: bytes) -> None:
        self._journal.write(stream, data)
        self._broadcast(wire.STDOUT if is_stdout(stream) else wire.STDERR, data)
        self._tell_growth()

    def _broadcast(self, kind: int, data: bytes) -> None:
        if not (self._attached and data):
            return
        frames = wire.encode_stream(kind, data)
        for client in tuple(self._attached):
            client.send(frames)
            if client.waiting > _MOST_WAITING:
                client.drop()
        self._regulate()

    def _tell_growth(self) -> None:
        for client in tuple(self._followers):
            # One that has not taken the last word will look at the log again anyway.
            if client.is_idle:
                client.send(wire.encode(wire.GROWN))

    def _regulate(self) -> None:
        """Have the application wait for its slowest reader."""
        held = not self._is_released and any(client.is_full for client in self._attached)
        if self._pipes:
            self._pipes.pause(held)
        if self._keeper:
            self._keeper.hold(held)

    def _release(self) -> None:
        """Let no reader hold up an application that ends: its end is behind its output."""
        self._is_released = True
        self._regulate()

    def _grant(self, amount: int) -> None:
        if self._writer and amount:
            self._writer.send(wire.encode_number(wire.GRANT, amount))


def _listen(directory: Path) -> socket.socket:
    """Listen on the socket in directory, for its owner alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A path of a socket has 107 bytes at most; this one is short however deep it lies.
        listener.bind(socket_address(place))
        (directory / SOCKET_NAME).chmod(0o600)
    except OSError as error:
        raise HyperbuildError(f"cannot listen in {directory}: {error.strerror}") from error
    finally:
        os.close(place)
    listener.setblocking(False)
    listener.listen(_BACKLOG)
    return listener
