"""Making a template: a VM boots, stands still where it is told to, and is copied into a file."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, UnavailableError
from hyperbuild.converter.files import draft, sweep
from hyperbuild.converter.progress import QUIET
from hyperbuild.launcher.channel import Event
from hyperbuild.launcher.confinement import admit
from hyperbuild.launcher.console import diagnose
from hyperbuild.launcher.errors import BootError, LaunchError
from hyperbuild.launcher.health import read_healthcheck
from hyperbuild.launcher.listener import unexplained
from hyperbuild.launcher.machine import Hold
from hyperbuild.launcher.session import TIMEOUT_STATUS, Session, Wiring
from hyperbuild.launcher.signals import signal_numbers
from hyperbuild.launcher.starting import DRIVER, find_host, prepare_cold, started
from hyperbuild.launcher.template import ingredients, seal, template_key
from hyperbuild.launcher.timeline import Timeline
from hyperbuild.launcher.vm import settle

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.converter.errors import HyperbuildError
    from hyperbuild.launcher.channel import Message
    from hyperbuild.launcher.driver import Monitor
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import Machine, MachineOptions
    from hyperbuild.launcher.session import Outcome
    from hyperbuild.launcher.template import Templates
    from hyperbuild.launcher.vm import Streams

_AWAITED = {
    Hold.EXEC: "ready for its application",
    Hold.LISTENING: "listening",
    Hold.HEALTHY: "healthy",
}


def make_template(
    files: BundleFiles,
    options: MachineOptions,
    hold: Hold,
    templates: Templates,
    *,
    search_path: str,
    streams: Streams,
) -> Path:
    """Boot files until hold, save the VM, and return the template's path.

    What the application writes until then goes to streams. The file is made under another name and
    gets its own when it is whole. Errors as of ``run_vm``; InputError: hold can never come.
    """
    if hold is Hold.HEALTHY and not read_healthcheck(
        files.bundle.process.healthcheck, options.health_command
    ):
        raise InputError(
            "the image has no health check; give one with --health-cmd, "
            "or choose --when listening or exec"
        )
    host = find_host(options, search_path)
    files, options = settle(files, options, QUIET)
    size = options.memory << 20
    templates.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(templates.root)
    with signal_numbers() as signals, draft(templates.root) as file:
        # It has all that the guest has in memory.
        os.fchmod(file.fd, 0o600)
        admit(file.fd)
        _check_space(templates.root, size)
        os.ftruncate(file.fd, size)
        with prepare_cold(host, files, options, ram=file.fd, hold=hold) as prepared:
            made_with = ingredients(DRIVER, host.program, host.cpu, files, prepared.machine)
            # The hypervisor shares this descriptor's position: the state comes behind the RAM.
            os.lseek(file.fd, size, os.SEEK_SET)
            with started(prepared, Timeline()) as vm:
                catcher = _Catcher(vm.monitor, file.fd)
                wiring = Wiring(*vm.ports, streams.stdout, streams.stderr, None, signals)
                session = Session(
                    vm.child, wiring, catcher, timeout=options.timeout, grace=options.grace
                )
                outcome = session.run()
                if not catcher.is_saved:
                    raise _explain(outcome, vm.child.wait(), prepared.machine, hold)
        seal(file.fd, size, template_key(files, options, hold), made_with)
        path = templates.path(files, options, hold)
        file.publish(path)
    return path


class _Catcher:
    """Hears a VM until it stands still, and has it saved then: all its output must have come."""

    def __init__(self, monitor: Monitor | None, state: int) -> None:
        self.is_saved = False
        self._monitor = monitor
        self._state = state
        self._missing = {"held", "mark"}

    def hear(self, message: Message, _: int) -> bytes:
        """Take one message; BootError if what is waited for will not come."""
        if isinstance(message, Event) and message.name == "held":
            self._come("held")
        elif isinstance(message, Event) and message.name == "unhealthy":
            raise BootError(
                "the health check has failed as often as the image allows; "
                "correct it, or choose --when listening or exec"
            )
        return b""

    def hear_mark(self) -> None:
        """Learn that all output has come."""
        self._come("mark")

    def hear_monitor(self, data: bytes) -> bool:
        """Take the hypervisor's answers; the VM can go once it is saved."""
        if self._monitor and self._monitor.feed(data):
            self.is_saved = True
        return self.is_saved

    def _come(self, what: str) -> None:
        self._missing.discard(what)
        if not self._missing and self._monitor:
            self._monitor.save(self._state)


def _check_space(directory: Path, size: int) -> None:
    """Raise UnavailableError where size bytes do not fit: RAM that can't be written is a crash."""
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < size:
        raise UnavailableError(
            f"{directory} has no room for a template of {size >> 20} MiB; "
            "free some space there, or give less memory with -m"
        )


def _explain(outcome: Outcome, status: int, machine: Machine, hold: Hold) -> HyperbuildError:
    """Say why a VM that has ended is not saved."""
    if outcome.error:
        return outcome.error
    console = outcome.console.text()
    if outcome.failure:
        return LaunchError(outcome.failure.text, status=outcome.failure.status, console=console)
    if outcome.verdict == TIMEOUT_STATUS:
        return BootError(
            f"the VM was not {_AWAITED[hold]} in time; give it longer with --timeout",
            console=console,
        )
    if outcome.verdict is not None:
        return BootError("stopped by a signal; no template was made", console=console)
    if outcome.exit:
        return BootError(
            f"the application ended with status {outcome.exit.status} before it was "
            f"{_AWAITED[hold]}; see what it says above",
            console=console,
        )
    if status == -signal.SIGBUS:
        return UnavailableError("no space for the template's memory; free some, or give less by -m")
    told = DRIVER.explain(outcome.stderr.decode(errors="replace"), machine)
    return diagnose(console) or told or unexplained(status, console)
