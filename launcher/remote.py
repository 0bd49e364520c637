"""A command in a VM whose input and output are this program's own, not its user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import HyperbuildError, UnavailableError
from hyperbuild.converter.records import Record
from hyperbuild.launcher import wire
from hyperbuild.launcher.attach import RefusedError
from hyperbuild.launcher.client import connect

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from hyperbuild.launcher.instances import Instance, Instances

_CHUNK = 256 << 10
#: Bytes of what a command complains that are kept.
_COMPLAINT = 4096


class Guest(Record):
    """A VM that runs, or with ``container`` that one of a pod ("": the first)."""

    instances: Instances
    instance: Instance
    container: str = ""

    @property
    def name(self) -> str:
        """What the VM is called."""
        return self.instance.asked.name

    def run(self, *args: str, stdin: bool = False) -> RemoteCommand:
        """Start a built-in of hyperstart (docs/hyperstart.md); errors as of ``connect``."""
        request: dict[str, Any] = {"args": list(args), "builtin": True, "stdin": stdin}
        request["container"] = self.container
        return RemoteCommand(connect(self.instances, self.instance), request)


class RemoteCommand:
    """Asks for request over sock, writes input as the guest takes it, and reads output.

    It is read by ``output``, once; ``check`` then tells whether the command has succeeded.
    RefusedError: it could not be started; UnavailableError: the supervisor died.
    """

    def __init__(self, sock: socket.socket, request: dict[str, Any]) -> None:
        self._sock = sock
        self._decoder = wire.Decoder()
        self._window = wire.INPUT_WINDOW
        self._complaint = b""
        self._last: dict[str, Any] = {}
        self._is_open = True
        sock.sendall(wire.encode_request({"do": "exec", **request}))

    def write(self, data: bytes) -> int:
        """Send data as input (all of it: the number of bytes is returned, as files do)."""
        view = memoryview(data)
        while view:
            while self._window <= 0:
                # What it writes while it is fed is not asked for.
                self._receive()
                if "exit" in self._last or not self._is_open:
                    self.check()
                    raise UnavailableError("the command in the VM ended before its input did")
            piece = view[: min(self._window, wire.PAYLOAD_LIMIT)]
            self._send(wire.encode(wire.STDIN, bytes(piece)))
            self._window -= len(piece)
            view = view[len(piece) :]
        return len(data)

    def end_input(self) -> None:
        """Send the end of input."""
        self._send(wire.encode(wire.STDIN))

    def output(self) -> Iterator[bytes]:
        """Yield standard output as it comes, to its end."""
        while self._is_open:
            yield from self._receive()

    def check(self) -> None:
        """Raise HyperbuildError unless the command has ended well; its own words are the text."""
        for _ in self.output():
            pass
        if "exit" not in self._last:
            raise UnavailableError("the VM's supervisor ended without a word")
        if self._last["exit"]:
            text = self._complaint.decode(errors="replace").strip()
            raise HyperbuildError(text or f"the command in the VM ended with {self._last['exit']}")

    def _send(self, frames: bytes) -> None:
        try:
            self._sock.sendall(frames)
        except ConnectionError:
            # What the supervisor has said before it went is still to be read.
            return

    def _receive(self) -> list[bytes]:
        try:
            data = self._sock.recv(_CHUNK)
        except ConnectionError:
            data = b""
        self._is_open = bool(data)
        output = []
        for frame in self._decoder.feed(data):
            if frame.kind == wire.STDOUT:
                output.append(frame.data)
            elif frame.kind == wire.STDERR:
                self._complaint = (self._complaint + frame.data)[-_COMPLAINT:]
            elif frame.kind == wire.GRANT:
                self._window += wire.number(frame)
            elif frame.kind == wire.TOLD:
                self._last = wire.told(frame)
        if "error" in self._last:
            raise RefusedError(str(self._last["error"]), int(self._last["status"]))
        return output
