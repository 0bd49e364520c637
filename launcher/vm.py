"""Running a bundle: from its files to the exit status of its application.

Until the hypervisor runs every millisecond is the user's, so what only a running VM needs is
imported after that, while the machine comes up.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.records import Record
from hyperbuild.launcher.machine import Hold
from hyperbuild.launcher.ports import assign_ports
from hyperbuild.launcher.signals import signal_numbers
from hyperbuild.launcher.starting import DRIVER, find_host, prepare_cold, prepare_warm, started
from hyperbuild.launcher.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.budget import Budget
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions
    from hyperbuild.launcher.pod import Member
    from hyperbuild.launcher.session import Observer
    from hyperbuild.launcher.starting import Prepared
    from hyperbuild.launcher.template import Templates


class Streams(Record):
    """The user's descriptors; without stdin the application reads an end of file.

    terminal is the one whose size that of the application follows, if that has one.
    """

    stdout: int = 1
    stderr: int = 2
    stdin: int | None = None
    terminal: int | None = None


class VMResult(Record):
    """How a VM ended.

    ``status`` is the application's (128+N for death by signal N), 124 after a timeout, 128+N if
    signal N told the launcher to stop. ``dax`` is hyperstart's proof (None: it never said);
    ``facts`` is all it said of the guest; ``console`` is the end of the guest's console;
    ``has_timed_out`` tells a timeout from an application that ended with 124.
    """

    status: int
    timeline: Timeline
    dax: bool | None
    facts: Mapping[str, str]
    console: str
    has_timed_out: bool = False


class WarmStart(Record):
    """Where templates are, and whether a VM that none of them fits may not boot from cold."""

    templates: Templates
    required: bool = False


class Watch(Record):
    """Who wants to know of a boot, and what: see ``run_vm``.

    Without ``heeds_signals`` those to the launcher are somebody else's to handle.
    """

    timeline: Timeline
    progress: Progress = QUIET
    budgets: Sequence[Budget] = ()
    on_started: Callable[[Timeline], None] | None = None
    observer: Observer | None = None
    heeds_signals: bool = True


def run_vm(
    files: BundleFiles,
    options: MachineOptions,
    *,
    search_path: str,
    streams: Streams | None = None,
    watch: Watch | None = None,
    warm: WarmStart | None = None,
    pod: Sequence[Member] = (),
) -> VMResult:
    """Boot files, carry the application's streams and wait for its end.

    search_path is where programs are found (as in PATH). watch's timeline, whose first step is the
    caller's, is filled in whatever comes; its on_started is called with it when the application is
    started, and its observer may have the VM stopped. With warm the VM is the copy of a template,
    with pod one of several containers, which watch's observer has to start.
    While it runs in the main thread, SIGINT, SIGTERM and SIGHUP stop the VM: the first asks the
    application, within the grace of options; the next kills. On every way out, the death of this
    process included, the hypervisor is gone.

    InputError, AccessError, UnavailableError, ToolError: it can't be started as asked;
    LaunchError: hyperstart could not start the application, or give a copy its own identity;
    TemplateError: no template fits, and one is required; BudgetError: one of the budgets is
    exceeded, which ends the VM; BootError: the VM failed; ContentError: the guest broke the
    protocol.
    """
    if watch is None:
        watch = Watch(Timeline())
        watch.timeline.mark("start")
    host = find_host(options, search_path)
    files, options = settle(files, options, watch.progress)
    with signal_numbers() if watch.heeds_signals else nullcontext() as signals:
        rest = (options, streams or Streams(), watch, signals)
        if warm:
            from hyperbuild.launcher.template import TemplateError

            try:
                with prepare_warm(host, files, options, warm.templates) as prepared:
                    return _carry(prepared, *rest)
            except TemplateError as error:
                if warm.required:
                    raise
                watch.progress.warn(f"{error}; this boot is a cold one")
        with prepare_cold(host, files, options, pod=pod) as prepared:
            return _carry(prepared, *rest)


def settle(
    files: BundleFiles, options: MachineOptions, progress: Progress
) -> tuple[BundleFiles, MachineOptions]:
    """Return both as the VM will have them: the process as options change it, all ports chosen.

    progress is told of each port that is. What is settled stays so. InputError: as of
    ``overridden`` and ``assign_ports``.
    """
    if options.user or options.workdir or options.entrypoint is not None:
        from hyperbuild.launcher.overrides import overridden

        files = overridden(files, options)
        options = options.replace(user="", workdir="", entrypoint=None)
    chosen = assign_ports(options, files.bundle.process)
    for port in chosen.ports:
        if port not in options.ports:
            progress.say(f"host port {port} leads to port {port.guest_port} of the VM")
    return files, chosen


def _carry(
    prepared: Prepared,
    options: MachineOptions,
    streams: Streams,
    watch: Watch,
    signals: int | None,
) -> VMResult:
    """Start what is prepared and carry it to its end."""
    with started(prepared, watch.timeline) as vm:
        from hyperbuild.launcher.channel import encode_frame
        from hyperbuild.launcher.listener import EXEC, READY, RENEWED, Listener, conclude
        from hyperbuild.launcher.session import Session, Wiring

        wiring = Wiring(
            *vm.ports, streams.stdout, streams.stderr, streams.stdin, signals, streams.terminal
        )
        # What a copy of a running application waits for is its identity alone.
        begun = EXEC if prepared.hold in (Hold.NOWHERE, Hold.EXEC) else RENEWED
        begun = READY if prepared.is_pod else begun
        listener = Listener(
            prepared.machine,
            vm.monitor,
            watch.timeline,
            tuple(watch.budgets),
            watch.progress,
            tsc_khz=prepared.host.tsc_khz,
            dax_wanted=options.dax and not prepared.machine.disks[0].verity,
            dax_required=options.require_dax,
            on_started=watch.on_started,
            started_by=begun,
        )
        session = Session(
            vm.child,
            wiring,
            listener,
            orders=prepared.orders,
            first_input=b"" if streams.stdin is not None else encode_frame(b""),
            timeout=options.timeout,
            grace=options.grace,
            observer=watch.observer,
        )
        outcome = session.run()
        told = DRIVER.explain(outcome.stderr.decode(errors="replace"), prepared.machine)
        if prepared.state is not None and outcome.is_silent:
            from hyperbuild.launcher.template import TemplateError

            raise TemplateError(
                f"the template could not be restored ({told or 'no word of the guest'}); "
                "make it again with hyperbuild warm"
            )
        result = conclude(outcome, vm.child.wait(), told, watch.timeline)
    listener.check_reached()
    return result
