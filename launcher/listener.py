"""What the guest tells, put into the timeline and judged; and what a VM's end means."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hyperbuild.converter.records import Record
from hyperbuild.launcher import diagnosis
from hyperbuild.launcher.channel import Event, Exit, Hello, encode_clock
from hyperbuild.launcher.console import diagnose
from hyperbuild.launcher.errors import BootError, LaunchError
from hyperbuild.launcher.session import TIMEOUT_STATUS
from hyperbuild.launcher.timeline import Counter, Timeline
from hyperbuild.launcher.vm import VMResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hyperbuild.converter.errors import HyperbuildError
    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.channel import Message
    from hyperbuild.launcher.driver import Monitor
    from hyperbuild.launcher.machine import Machine
    from hyperbuild.launcher.session import Outcome

#: Events (docs/hyperstart.md): a template's copy goes on, has its identity; the application starts;
#: a pod is ready for its containers.
RESUMED, RENEWED, EXEC, READY = "resumed", "renewed", "exec", "ready"


class Listener(Record):
    """Hears a guest's messages: fills the timeline, checks budgets and the proof of DAX.

    tsc_khz is the rate of the guest's time stamp counter, if it is known; started_by is the event
    with which the application runs, as on_started is told.
    """

    machine: Machine
    monitor: Monitor | None
    timeline: Timeline
    budgets: tuple[Budget, ...]
    progress: Progress
    tsc_khz: int | None
    dax_wanted: bool
    dax_required: bool
    on_started: Callable[[Timeline], None] | None
    started_by: str = EXEC

    def hear(self, message: Message, received: int) -> bytes:
        """Take one message; BudgetError or BootError if the VM has to end for what it tells."""
        if isinstance(message, Event):
            return self._hear_event(message, received)
        if isinstance(message, Exit):
            self.timeline.mark("exit", received)
        elif isinstance(message, Hello):
            counter = read_counter(message.facts, self.tsc_khz)
            if counter:
                self.timeline.count(counter)
            if self.dax_wanted and message.facts.get("dax") != "1":
                self._complain()
            # A copy has its address only once it is renewed.
            if not self.machine.is_restored:
                self._publish()
        return b""

    def _hear_event(self, event: Event, received: int) -> bytes:
        if not self.timeline.mark_guest(event.name, event.nanoseconds, received):
            return b""
        if event.name == self.started_by and self.on_started:
            self.on_started(self.timeline)
        for budget in self.budgets:
            budget.check(self.timeline)
        if self.machine.is_restored and event.name == RENEWED:
            self._publish()
        if self.machine.is_restored and event.name == RESUMED:
            return encode_clock(time.time_ns())
        return b""

    def hear_mark(self) -> None:
        """Take no notice: nobody waits for this VM to stand still."""

    def hear_monitor(self, data: bytes) -> bool:
        """Take the hypervisor's answers; the error of a port that can't be had ends the VM."""
        if self.monitor:
            self.monitor.feed(data)
        return False

    def check_reached(self) -> None:
        """Raise BudgetError for a budget whose phase came too late or never."""
        for budget in self.budgets:
            budget.check_reached(self.timeline)

    def _publish(self) -> None:
        """Open the ports now that somebody answers behind them: whoever came before is refused."""
        if self.monitor:
            self.monitor.publish()

    def _complain(self) -> None:
        text = "the root file system is not mapped by DAX in the guest"
        if not self.machine.disks[0].pmem:
            options = self.machine.kernel_options
            if options is not None and "CONFIG_FS_DAX" not in options:
                return
            text += ": its size is no multiple of 2 MiB; convert the image again"
        if self.dax_required:
            raise BootError(f"{text}, which --require-dax demands")
        self.progress.warn(text)


def read_counter(facts: Mapping[str, str], khz: int | None) -> Counter | None:
    """Read hyperstart's ``counter`` and the kernel's ``stamps``; None if they tell nothing."""
    at_init = _number(facts.get("counter", ""))
    if khz is None or at_init is None:
        return None
    stamps = [_number(text) for text in facts.get("stamps", "").split(",")]
    named = zip(("kernel", "initcalls"), stamps, strict=False)
    steps = {name: value for name, value in named if value is not None and value <= at_init}
    return Counter(khz, at_init, steps)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def conclude(
    outcome: Outcome, returncode: int, told: HyperbuildError | None, timeline: Timeline
) -> VMResult:
    """Turn what is known into a result, or raise what it was that failed.

    told is what the hypervisor said on leaving early, returncode its status (-N for signal N).
    """
    console = outcome.console.text()
    if outcome.error:
        raise outcome.error
    if outcome.failure:
        text = outcome.failure.text
        found = diagnosis.diagnose(diagnosis.Evidence(refusal=text))
        if found and found.name == diagnosis.NO_VERITY:
            text = str(found)
        raise LaunchError(text, status=outcome.failure.status, console=console)
    status = outcome.exit.status if outcome.exit else None
    if outcome.verdict is not None:
        status = outcome.verdict
    if status is None:
        raise diagnose(console) or told or unexplained(returncode, console)
    return VMResult(
        status=status,
        timeline=timeline,
        dax=None if outcome.facts is None else outcome.facts.get("dax") == "1",
        facts=outcome.facts or {},
        console=console,
        has_timed_out=outcome.verdict == TIMEOUT_STATUS,
    )


def unexplained(returncode: int, console: str) -> BootError:
    """Return what to say of a VM that ended before its application, and said nothing."""
    how = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
    return BootError(
        f"the VM ended ({how} of the hypervisor) before its application did; "
        "give it more memory with -m if it needs it",
        console=console,
    )
