"""``hyperbuild boot --smoke``: boots, waits for all that is expected, stops, and reports."""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.booting import (
    budgets_of,
    check_words,
    find_files,
    leased,
    machine_options,
    settled,
    summary,
    usage,
    warm_start,
)
from hyperbuild.converter.errors import HyperbuildError, InputError, UnavailableError
from hyperbuild.converter.files import draft, named_output, write_all
from hyperbuild.launcher.budget import BudgetError, parse_budget
from hyperbuild.launcher.expectations import (
    DEFAULT_TIMEOUT,
    Contract,
    Http,
    check_contract,
    expected,
)
from hyperbuild.launcher.machine import ANY_ADDRESS, PortForward
from hyperbuild.launcher.session import TIMEOUT_STATUS
from hyperbuild.launcher.smoke import SmokeTest
from hyperbuild.launcher.timeline import Timeline, process_start
from hyperbuild.launcher.vm import Streams, Watch, run_vm, settle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hyperbuild.builder.booting import BootOptions
    from hyperbuild.builder.context import Context
    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.defaults import BootDefaults
    from hyperbuild.launcher.expectations import Expectation
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions

_LOOPBACK = "127.0.0.1"


class SmokeError(HyperbuildError):
    """A smoke test did not hold, or could not be made."""

    is_status_final = True


@dataclass(slots=True)
class SmokeRecord:
    """What a report says of a smoke test: filled as it goes.

    The application's standard output goes to the descriptor ``stdout``.
    """

    timeline: Timeline
    budgets: list[Budget]
    stdout: int = 1
    test: SmokeTest | None = None
    reason: str = ""
    log: Path | None = None
    over: dict[Budget, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object (docs/smoke.md)."""
        start = self.timeline.steps()[0].nanoseconds
        checks = self.test.checks if self.test else []
        return {
            "held": not self.reason,
            "reason": self.reason,
            "seconds": round((time.monotonic_ns() - start) / 1e9, 3),
            "expectations": [
                {
                    "name": str(check.expectation),
                    "held": check.held_at is not None,
                    "ms": check.held_at and round((check.held_at - start) / 1e6, 3),
                    "failure": check.failure,
                }
                for check in checks
            ],
            "budgets": [
                {"name": str(budget), "held": budget not in self.over,
                 "failure": self.over.get(budget, "")}
                for budget in self.budgets
            ],
            "log": self.log and str(self.log),
            "output": self.test.output.text() if self.test else "",
            "console": self.test.console.text() if self.test else "",
        }  # fmt: skip

    def judge(self, error: HyperbuildError | None) -> None:
        """Find the reason, now that the VM is gone: of its end (error) or what did not hold.

        A step that is late does not end the VM of a smoke test: what is expected is seen, too.
        """
        for budget in self.budgets:
            try:
                budget.check_reached(self.timeline)
            except BudgetError as late:
                self.over[budget] = str(late)
        if self.test:
            self.reason = self.test.reason()
        if error and not self.reason:
            self.reason = str(error)
        self.reason = self.reason or next(iter(self.over.values()), "")


def smoke_image(context: Context, options: BootOptions, made: BundleFiles | None = None) -> int:
    """Test what options name (found already, or made) and return 0.

    SmokeError says what did not hold, and why. The reports are written whatever comes of it, the
    log of what went wrong if anything did.
    """
    with usage():
        check_words(options)
        if options.tty:
            raise InputError("-t is for people, and a smoke test has none; drop -t or --smoke")
        budgets = list(budgets_of(options))
        machine_options(context, options, tuple(budgets))
        check_contract(_own_contract(options), health_command=options.health_command)
    timeline = Timeline()
    # What was made was made before the boot, and is the result.
    timeline.mark("start", None if made else process_start())
    try:
        if options.console_log:
            named_output(options.console_log)
        record = SmokeRecord(timeline, budgets, stdout=2 if made else 1)
        with ExitStack() as stack:
            if options.report:
                from hyperbuild.builder.boot_report import reported

                stack.enter_context(
                    reported(
                        options.report, options.image, timeline, record.budgets, record.document
                    )
                )
            if not made:
                stack.enter_context(leased(context, options.image))
            _smoke(context, options, record, made)
    except SmokeError:
        raise
    except HyperbuildError as error:
        raise SmokeError(str(error)) from error
    context.console.say(_all_held(record))
    return 0


def _smoke(
    context: Context, options: BootOptions, record: SmokeRecord, made: BundleFiles | None
) -> None:
    """Boot what options name, or made, and fill record; SmokeError if anything did not hold."""
    error: HyperbuildError | None = None
    try:
        files = made or find_files(context, options)
        options, contract = _settled(options, files, record)
        machine = machine_options(context, options, tuple(record.budgets))
        # A test asks by the ports that there will be.
        files, machine = settle(files, machine, context.console)
        timeout = contract.timeout or DEFAULT_TIMEOUT
        # An application that is to end is not asked for the health that its recipe has in mind.
        health = machine.health_command if contract.exit is None else ""
        found = expected(contract, files.bundle.process, health_command=health)
        forwards, published = _forwards(found, machine)
        ports = (*machine.ports, *published)
        record.test = SmokeTest(found, forwards, timeout, _awaited(record.budgets))
        machine = machine.replace(ports=ports, timeout=timeout, watch=True, watch_ports=True)
        _run(files, machine, record, record.test, context, options)
    except HyperbuildError as failure:
        error = failure
    record.judge(error)
    # A VM that was not started has said nothing.
    if record.reason and record.timeline.reached("hypervisor") is not None:
        record.log = _write_log(context, options, record)
        raise SmokeError(
            f"{options.image}: {record.reason} (console and output: {record.log})"
        ) from error
    if record.reason:
        raise SmokeError(record.reason) from error


def _settled(
    options: BootOptions, files: BundleFiles, record: SmokeRecord
) -> tuple[BootOptions, Contract]:
    """Return options and contract with what the bundle says; its budgets go into record."""
    bundled, own = files.bundle.boot, _own_contract(options)
    if bundled is None:
        return options, own
    if not record.budgets:
        record.budgets += _bundled_budgets(bundled, options)
    return settled(options, bundled), _joined(own, bundled)


def _run(
    files: BundleFiles,
    machine: MachineOptions,
    record: SmokeRecord,
    test: SmokeTest,
    context: Context,
    options: BootOptions,
) -> None:
    """Run the VM to its end, and have the test say what that means."""
    failure, status = "", None
    try:
        status = run_vm(
            files,
            machine,
            search_path=context.environment.get("PATH", ""),
            streams=Streams(record.stdout, stdin=0 if options.interactive else None),
            watch=Watch(
                record.timeline,
                context.console,
                on_started=lambda timeline: context.console.say(
                    summary(timeline, counting=machine.counting)
                ),
                observer=test,
            ),
            warm=warm_start(context, options),
        ).status
    except HyperbuildError as error:
        failure = str(error)
        raise
    finally:
        test.close()
        timed_out = status == TIMEOUT_STATUS and test.is_late
        # A signal to the launcher has a status of its own, whatever the application's was then.
        stopped = status is not None and not timed_out and test.is_told_otherwise(status)
        test.conclude(failure, has_timed_out=timed_out, was_stopped=stopped)


def _awaited(budgets: Iterable[Budget]) -> set[str]:
    """Return what budgets are about that may come after all that is expected."""
    return {budget.phase for budget in budgets} & {"listening", "healthy"}


def _own_contract(options: BootOptions) -> Contract:
    return Contract(
        http=options.expect_http,
        port=options.expect_port,
        log=options.expect_log,
        exit=options.expect_exit,
        timeout=options.timeout,
    )


def _joined(own: Contract, bundled: BootDefaults) -> Contract:
    """Return own if it expects anything by name, else the bundle's, with own's timeout if any."""
    if bundled.smoke is None or not own.is_silent:
        return own
    return bundled.smoke.replace(timeout=own.timeout or bundled.smoke.timeout)


def _bundled_budgets(bundled: BootDefaults, options: BootOptions) -> tuple[Budget, ...]:
    """Return the bundle's budgets; a copy boots in another way, so that none of them is for it."""
    if options.warm or options.require_warm:
        return ()
    return tuple(parse_budget(text) for text in bundled.budgets)


def _forwards(
    found: Iterable[Expectation], machine: MachineOptions
) -> tuple[dict[int, int], tuple[PortForward, ...]]:
    """Return ports of the guest with those of our loopback that lead there, and the new ones."""
    wanted = {expectation.port for expectation in found if isinstance(expectation, Http)}
    if wanted and not machine.network:
        raise InputError("an http expectation needs a network; drop it or --network none")
    forwards = {
        port.guest_port: port.host_port
        for port in machine.ports
        if port.protocol == "tcp" and port.host_ip in (ANY_ADDRESS, _LOOPBACK)
    }
    published = []
    # All are held until all are known: none is found twice.
    with ExitStack() as stack:
        for port in sorted(wanted - set(forwards)):
            probe = stack.enter_context(socket.socket())
            probe.bind((_LOOPBACK, 0))
            forwards[port] = int(probe.getsockname()[1])
            published.append(PortForward(forwards[port], port, "tcp", _LOOPBACK))
    return forwards, tuple(published)


def _write_log(context: Context, options: BootOptions, record: SmokeRecord) -> Path:
    """Keep what the VM said, the reason on top; UnavailableError if that can't be written."""
    path = options.console_log
    if path is None:
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", options.image).strip("-.")[-80:]
        # What nobody looked at for a month goes.
        context.sealed("smoke")
        moment = time.strftime("%Y%m%d-%H%M%S")
        path = context.cache / "smoke" / f"{name}-{moment}-{time.monotonic_ns() % 10**6:06}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Applications say passwords. What is kept where nobody has asked for it is for us alone.
        path.parent.chmod(0o700)
    test = record.test
    parts = [record.reason, ""]
    if test:
        parts += ["== output of the application", test.output.text(), ""]
        parts += ["== console of the guest", test.console.text()]
    place = named_output(path)
    try:
        with draft(place.parent) as file:
            if options.console_log is None:
                os.fchmod(file.fd, 0o600)
            write_all(file.fd, "\n".join(parts).encode("utf-8", "surrogateescape"))
            file.publish(place)
    except OSError as error:
        raise UnavailableError(
            f"{record.reason} (the log {path} can't be written: {error.strerror}; "
            "choose another with --console-log)"
        ) from error
    return path


def _all_held(record: SmokeRecord) -> str:
    checks = record.test.checks if record.test else []
    start = record.timeline.steps()[0].nanoseconds
    parts = [
        f"{check.expectation} after {(check.held_at - start) / 1e6:.0f} ms"
        for check in checks
        if check.held_at is not None
    ]
    return f"smoke test held: {', '.join(parts)}"
