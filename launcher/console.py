"""The last of what the guest's kernel said, and what it means if the VM just ended."""

from __future__ import annotations

from hyperbuild.launcher import diagnosis
from hyperbuild.launcher.errors import BootError

#: Bytes of console that are kept.
_KEPT = 64 << 10


class ConsoleRing:
    """Keeps the end of what the console printed, whatever the guest prints."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        """Add data, forgetting the oldest."""
        self._kept += data
        if len(self._kept) > _KEPT:
            del self._kept[:-_KEPT]

    def text(self) -> str:
        """Return what is kept, lines ending in a newline alone."""
        return self._kept.decode(errors="replace").replace("\r", "")


def diagnose(console: str) -> BootError | None:
    """Return the failure that the console tells of: hyperstart's own, or a kernel panic."""
    found = diagnosis.diagnose(diagnosis.Evidence(console))
    if found is None or found.name not in diagnosis.OF_MACHINE:
        return None
    return BootError(str(found), console=console)
