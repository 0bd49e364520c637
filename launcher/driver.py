"""What a hypervisor's module gives to the launcher, and what it is given (docs/drivers.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from _socket import socket

    from hyperbuild.converter.errors import HyperbuildError
    from hyperbuild.launcher.machine import Machine


class Wires(Record):
    """Descriptors (stream sockets) that the child inherits: serial console and the two ports.

    ``monitor`` is the hypervisor's own control protocol, for a machine that needs one.
    """

    console: int
    control: int
    stream: int
    monitor: int | None = None


class Monitor(Protocol):
    """The hypervisor's control protocol, as far as a VM needs it while it runs."""

    def save(self, state: int, /) -> None:
        """Ask for the VM's state, its RAM file excepted, to be written to the descriptor state."""

    def restore(self, state: int, /) -> None:
        """Tell a program that is not started yet to begin with state, which it will inherit."""

    def publish(self) -> None:
        """Ask for the machine's host ports to be opened."""

    def feed(self, data: bytes, /) -> bool:
        """Take what the hypervisor says; return whether a VM that was to be saved is.

        The error of what could not be done is raised: an InputError if it is the user's to mend.
        """


class Driver(Protocol):
    """A module, one for each hypervisor; nothing outside of it names the hypervisor's options.

    What the functions do not say is the same for all: the command is started by ``child.spawn``,
    watched by its end and its stderr, asked to stop through hyperstart, and ended by SIGKILL.
    """

    def find(self, search_path: str, /) -> str:
        """Return the program's path along search_path; ToolError says what to install."""

    def places(self, program: str, /) -> tuple[str, ...]:
        """Return the files and directories that program, while it runs, finds by their paths."""

    def version(self, program: str, /) -> str:
        """Return the first line that program says of its version; ToolError if it does not run."""

    def command(self, program: str, machine: Machine, wires: Wires, /) -> list[str]:
        """Return the argv that boots machine at once: nothing is looked up, nothing changed.

        InputError: this hypervisor cannot have such a machine.
        """

    def monitor(self, port: socket, machine: Machine, /) -> Monitor:
        """Return the monitor on our end port of its socket; the program may not be started yet."""

    def explain(self, stderr: str, machine: Machine, /) -> HyperbuildError | None:
        """Return what the program's words on leaving early mean, None if it said nothing."""
