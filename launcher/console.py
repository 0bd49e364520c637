"""The last of what the guest's kernel said, and what it means if the VM just ended."""

from __future__ import annotations

import re

from hyperbuild.launcher.errors import BootError

#: Bytes of console that are kept.
_KEPT = 64 << 10

_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_HYPERSTART = re.compile(r"^hyperstart: (.*)", re.MULTILINE)


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
    if told := _HYPERSTART.findall(console):
        return BootError(f"hyperstart failed: {told[-1]}", console=console)
    panic = _PANIC.search(console)
    if panic is None:
        return None
    reason = panic[1].strip()
    if re.search(r"memory|oom", reason, re.IGNORECASE):
        remedy = "give the VM more memory with -m"
    elif re.search(r"init|root fs", reason):
        remedy = "the initramfs does not fit the kernel; make the bundle again"
    else:
        remedy = "this kernel does not fit this machine; build it again, or boot with -m or --cpus"
    return BootError(f"the guest's kernel panicked: {reason}; {remedy}", console=console)
