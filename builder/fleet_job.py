"""One job of a fleet in a process of its own: found in the registry, or made, tested and pushed.

python -m hyperbuild.builder.fleet_job    is started by a worker, never by a person

stdin has the job, one line of JSON. When it ends the worker is gone, or does not want the job any
more: then this process ends as by SIGTERM, and what is half-made is taken back. stdout has lines of
JSON, each a list that begins with a word:

    ["say", TEXT]  ["warn", TEXT]                           as of Progress
    ["step", NUMBER, NAME, TOTAL, UNIT]  ["at", NUMBER, DONE]  ["over", NUMBER]      a Task
    ["outcome", OBJECT]                                     the last: an Outcome
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hyperbuild.builder.building import BuildOptions, request_of, tested
from hyperbuild.builder.context import read_context
from hyperbuild.builder.converting import stored_bundle
from hyperbuild.builder.fleet_code import fingerprint
from hyperbuild.builder.fleet_plan import Job, fragment_files
from hyperbuild.builder.pulling import find_marked
from hyperbuild.builder.pushing import push_bundle
from hyperbuild.converter.errors import HyperbuildError, InputError, explained
from hyperbuild.converter.progress import Task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

    from hyperbuild.builder.context import Context

BUILT, CACHED, FAILED = "built", "cached", "failed"
#: Seconds between two words about how far a step is.
_INTERVAL = 0.25
_SMOKE_REPORT = "smoke.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job: BUILT, CACHED or FAILED, and where its bundle is, or why there is none.

    ``seconds`` says how long its steps took ("look", "convert", "push"; "convert" has the smoke
    test in it), ``smoke`` is the report of that (docs/smoke.md). ``worker`` is where it was made.
    """

    status: str
    bundle: str = ""
    error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    smoke: dict[str, Any] | None = None
    worker: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


class Relay:
    """Progress that is told to the worker, line by line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._numbers = count()

    def say(self, message: str) -> None:
        """Tell one line."""
        self.tell("say", message)

    def warn(self, message: str) -> None:
        """Tell one line to act on."""
        self.tell("warn", message)

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:
        """Begin a step."""
        number = next(self._numbers)
        self.tell("step", number, name, total, unit)
        return _Step(self, number)

    def tell(self, *words: object) -> None:
        """Write one line; nobody may be there to read it."""
        line = json.dumps(words).encode() + b"\n"
        with self._lock, suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._fd, line) :]


class _Step(Task):
    def __init__(self, relay: Relay, number: int) -> None:
        self._relay, self._number = relay, number
        self._done, self._told = 0, time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            if time.monotonic() < self._told + _INTERVAL:
                return
            self._told = time.monotonic()
        self._relay.tell("at", self._number, self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._relay.tell("over", self._number)


def do(context: Context, job: Job) -> Outcome:
    """Have the job's bundle attached to its image: found there, or made. Errors as of both."""
    if fingerprint() != job.code:
        raise InputError(
            f"the worker has hyperbuild {fingerprint()}, and the fleet was planned by {job.code}; "
            "install the same everywhere and restart the workers"
        )
    seconds: dict[str, float] = {}
    authfile = Path(job.terms.authfile) if job.terms.authfile else None
    with _timed(seconds, "look"):
        found = find_marked(context, job.place, job.platform, authfile, job.marks)
    if found:
        return Outcome(CACHED, found, seconds=seconds)
    with context.store().lease(), context.scratch() as room:
        for name, text in fragment_files(job.fragments).items():
            (room / name).parent.mkdir(exist_ok=True)
            (room / name).write_text(text)
        recipe = job.read_recipe(room if job.fragments else None)
        report = room / _SMOKE_REPORT
        options = BuildOptions(
            authfile=authfile, with_smoke=job.tests, report=(report,), accel=job.terms.accel
        )
        request = replace(request_of(context, recipe, options), image=job.place, known_as=job.image)
        try:
            with _timed(seconds, "convert"), ExitStack() as stack:
                with _unheard():
                    stack.enter_context(tested(context, recipe, request, options))
                made = stored_bundle(context, request)
            with _timed(seconds, "push"):
                pushed = push_bundle(
                    context, made.digest, None, authfile, None, with_sbom=True, marks=job.marks
                )
        except Exception as error:
            return Outcome(FAILED, error=_why(error), seconds=seconds, smoke=_smoke(report))
        return Outcome(BUILT, pushed.name, seconds=seconds, smoke=_smoke(report))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = round(time.monotonic() - start, 3)


def _smoke(report: Path) -> dict[str, Any] | None:
    """Return what a report says of the smoke test, if there was one."""
    if not report.exists():
        return None
    told: dict[str, Any] = json.loads(report.read_bytes())["smoke"]
    return told


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what a tested application writes out of the worker's log: the report has its end."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _why(error: Exception) -> str:
    """Return what a person is told of an error; all of a defect goes to the worker's log."""
    if not isinstance(error, HyperbuildError | OSError):
        traceback.print_exception(error)
    return explained(error)


def main() -> None:
    """Do the job on stdin."""
    line = sys.stdin.readline()
    relay = Relay(os.dup(sys.stdout.fileno()))
    orders = os.dup(sys.stdin.fileno())
    # Whatever else wants to read or write there gets nothing; stderr is the worker's log.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    signal.signal(signal.SIGTERM, _leave)
    main_thread = threading.main_thread().ident or 0
    threading.Thread(target=_watch, args=(orders, main_thread), daemon=True).start()
    try:
        job = Job.from_json(line)
        context = read_context(os.environ, relay).replace(epoch=job.terms.epoch)
        outcome = do(context, job)
    except Exception as error:
        outcome = Outcome(FAILED, error=_why(error))
    relay.tell("outcome", outcome.document())


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _watch(orders: int, main_thread: int) -> None:
    """Wait for the end of stdin, and end the process then."""
    while os.read(orders, 4096):
        pass
    signal.pthread_kill(main_thread, signal.SIGTERM)


if __name__ == "__main__":
    main()
