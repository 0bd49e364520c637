"""Machines with firmware, which start from their disk: QEMU's, without KVM."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: UEFI as Debian has it (package ovmf): its code, and the variables of a machine that is new.
_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

#: Seconds for a machine to say or do what is awaited.
PATIENCE = 240


class Powered:
    """A machine that runs; ``port`` of the host leads to port 80 of it."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path, port: int) -> None:
        self._process = process
        self._home = home
        self.port = port

    @property
    def console(self) -> str:
        """What it has written to its serial port so far."""
        return (self._home / "console").read_text(errors="replace")

    def wait(self) -> int:
        """Return QEMU's status once the machine has powered itself off."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the machine runs on; it said:\n{self.console}") from None

    def fetch(self) -> bytes:
        """Return what its web server answers, asked until it does."""
        deadline = time.monotonic() + PATIENCE
        request = b"GET / HTTP/1.0\r\n\r\n"
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.console
            # QEMU takes every connection, and hangs up on those that the guest does not.
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as talk:
                    talk.sendall(request)
                    answer = b"".join(iter(lambda: talk.recv(65536), b""))
            except OSError:
                answer = b""
            if answer:
                return answer
            time.sleep(0.2)
        raise AssertionError(f"nobody answers; the machine said:\n{self.console}")

    def press_power_button(self) -> None:
        """Ask the machine to end, as `virsh shutdown` does."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._home / "monitor"))
            with monitor.makefile("rw") as talk:
                for command in ("qmp_capabilities", "system_powerdown"):
                    talk.write(json.dumps({"execute": command}) + "\n")
                    talk.flush()
                    # Greetings and events come between the answers.
                    while '"return"' not in talk.readline():
                        pass


@contextmanager
def powered(home: Path, *drives: str, uefi: bool = True) -> Iterator[Powered]:
    """Start a machine with drives, as options of QEMU's; home is made, and keeps what it says."""
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    argv = [
        *("timeout", str(3 * PATIENCE), "qemu-system-x86_64"),
        *("-machine", "q35" if uefi else "pc", "-accel", "tcg", "-m", "512M"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{home}/console"),
        *("-qmp", f"unix:{home}/monitor,server=on,wait=off"),
        *("-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:80"),
    ]
    if uefi:
        shutil.copy(_VARIABLES, home / "variables")
        argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={_CODE}"]
        argv += ["-drive", f"if=pflash,format=raw,file={home}/variables"]
    argv += drives
    (home / "console").touch()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        yield Powered(process, home, port)
    finally:
        # timeout passes this on; killed, it would leave the machine running.
        process.terminate()
        process.wait()
