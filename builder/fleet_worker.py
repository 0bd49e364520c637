"""A job on a worker of a fleet: a process is started for it, its words are passed on, it is ended.

In a process of its own a job can be ended at any time, takes signals as any command does, and what
it breaks is its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.fleet_job import Outcome
from hyperbuild.converter.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperbuild.builder.fleet_plan import Job

#: The topic of a fleet's events, each {"job": Job.tag, "words": a line as of fleet_job}.
TOPIC = "hyperbuild-fleet"
#: Words about the process itself: ["began", WORKER], ["ended"].
BEGAN, ENDED = "began", "ended"
#: Seconds between two looks whether a job is still wanted; for it to end; and the size of a read.
_LOOK, _GRACE, _READ = 0.5, 30.0, 1 << 16


class JobLostError(ToolError):
    """A job's process has ended without an outcome; another try may have one."""


class _Unwanted(Exception):  # noqa: N818 - it is no error
    """Nobody waits for the job any more."""


def build_image(job: Job) -> Outcome:
    """Do the job in a process of its own and return its outcome.

    JobLostError: it ended without one. Where this runs on a worker of Dask, its events are told,
    and the process ends when the task is cancelled.
    """
    tell, is_wanted, place = _worker(job.tag)
    tell([BEGAN, place])
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperbuild.builder.fleet_job"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        # Ctrl-C of a terminal is for who started the fleet.
        start_new_session=True,
    )  # fmt: skip
    outcome: Outcome | None = None
    try:
        with suppress(_Unwanted):
            for words in _words(process, job, is_wanted):
                if words[0] == "outcome":
                    outcome = Outcome(**{**words[1], "worker": place})
                else:
                    tell(words)
    finally:
        status = _end(process)
        tell([ENDED])
    if outcome is None:
        where = f" of worker {place}" if place else ""
        raise JobLostError(
            f"the process{where} that worked on it ended {_manner(status)}, each time that it was "
            "tried; look whether there is enough memory, and into what the worker wrote"
        )
    return outcome


def _worker(tag: str) -> tuple[Callable[[list[Any]], None], Callable[[], bool], str]:
    """Return how to tell words, how to learn whether the job is wanted, and where the worker is.

    That is "" for one of the fleet's own process. In another executor nobody is told, and all is
    wanted.
    """
    try:
        from distributed import get_worker

        worker = get_worker()
    except (ImportError, ValueError):
        return lambda _: None, lambda: True, ""
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    def tell(words: list[Any]) -> None:
        worker.log_event(TOPIC, {"job": tag, "words": words})

    return tell, is_wanted, "" if worker.address.startswith("inproc:") else str(worker.address)


def _words(
    process: subprocess.Popen[bytes], job: Job, is_wanted: Callable[[], bool]
) -> Iterator[list[Any]]:
    """Yield the lines that the process writes; _Unwanted if nobody waits for them."""
    assert process.stdin  # noqa: S101 - both are pipes
    assert process.stdout  # noqa: S101
    with suppress(BrokenPipeError):
        process.stdin.write(job.to_json().encode() + b"\n")
        process.stdin.flush()
    fd, rest = process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if not is_wanted():
            raise _Unwanted
        if not poll.poll(_LOOK * 1000):
            continue
        piece = os.read(fd, _READ)
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from map(json.loads, lines)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Let the process end, which it does when its stdin does, and return its status."""
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()
    try:
        return process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _manner(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
