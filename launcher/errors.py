"""What goes wrong between starting a hypervisor and the end of the application."""

from __future__ import annotations

from hyperbuild.converter.errors import HyperbuildError


class BootError(HyperbuildError):
    """The VM did not get to its application, or ended without telling the application's status.

    ``console`` holds the last lines of the guest's console, for whoever wants to see more.
    """

    exit_status = 125

    def __init__(self, message: str, *, console: str = "") -> None:
        super().__init__(message)
        self.console = console


class LaunchError(BootError):
    """The guest could not start the application, or could not have.

    ``exit_status`` is 125 (hyperstart failed), 126 (not executable) or 127 (not found).
    """

    def __init__(self, message: str, *, status: int, console: str = "") -> None:
        super().__init__(message, console=console)
        self.exit_status = status
