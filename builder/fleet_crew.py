"""Jobs handed out to workers, and what comes of them."""

from __future__ import annotations

import queue
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.fleet_job import FAILED, Outcome
from hyperbuild.builder.fleet_worker import ENDED, build_image
from hyperbuild.converter.errors import explained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from hyperbuild.builder.fleet_cluster import Cluster
    from hyperbuild.builder.fleet_display import Display
    from hyperbuild.builder.fleet_plan import Job

#: Seconds between two looks at the cluster, for a worker to come back when none is left, and for
#: jobs to end that are not wanted any more.
_TICK, _LEFT_ALONE, _GRACE = 0.5, 60, 35


class Crew:
    """Jobs that wait and jobs that workers have.

    No more are handed out than can be worked on: Dask suspects all that a worker has when it dies.
    """

    def __init__(self, cluster: Cluster, jobs: Sequence[Job], display: Display) -> None:
        self._cluster = cluster
        self._display = display
        self._tags = {job.tag for job in jobs}
        self._waiting = deque(jobs)
        self._running: dict[Future[Outcome], Job] = {}
        self._begun: set[str] = set()
        self._alone_since: float | None = None

    def outcomes(self) -> Iterator[tuple[Job, Outcome]]:
        """Yield what comes of each job."""
        inbox = self._cluster.words
        while self._waiting or self._running:
            slots = self._cluster.slots()
            while self._waiting and len(self._running) < slots:
                self._hand_out(self._cluster.executor, self._waiting.popleft())
            try:
                word = inbox.get(timeout=_TICK)
            except queue.Empty:
                if self._is_left_alone(slots):
                    yield from self._given_up()
                continue
            if isinstance(word, Future):
                yield self._running.pop(word), _outcome(word)
            else:
                self._note(word)

    def stop(self) -> None:
        """Have workers end what they still do for us, and wait for that."""
        if not self._running:
            return
        self._cancel()
        end = time.monotonic() + _GRACE
        while self._begun and self._cluster.is_reachable() and time.monotonic() < end:
            try:
                word = self._cluster.words.get(timeout=_TICK)
            except queue.Empty:
                continue
            if not isinstance(word, Future):
                self._note(word)

    def _cancel(self) -> None:
        self._waiting.clear()
        for future in self._running:
            future.cancel()

    def _hand_out(self, executor: Executor, job: Job) -> None:
        future = executor.submit(build_image, job)
        self._running[future] = job
        future.add_done_callback(self._cluster.words.put)

    def _note(self, event: dict[str, Any]) -> None:
        if event["job"] not in self._tags:
            return
        self._display.show(event)
        change = self._begun.discard if event["words"][0] == ENDED else self._begun.add
        change(event["job"])

    def _is_left_alone(self, slots: int) -> bool:
        """Tell whether there have been no workers for too long."""
        now = time.monotonic()
        if slots:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        return self._alone_since is not None and now > self._alone_since + _LEFT_ALONE

    def _given_up(self) -> Iterator[tuple[Job, Outcome]]:
        why = f"no worker of {self._cluster.address} is left; start some, and run this again"
        left = [*self._running.values(), *self._waiting]
        self._cancel()
        self._running.clear()
        self._begun.clear()
        yield from ((job, Outcome(FAILED, error=why)) for job in left)


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        return Outcome(FAILED, error="the scheduler is gone or has dropped it; run this again")
    except Exception as error:
        return Outcome(FAILED, error=_why(error))


def _why(error: Exception) -> str:
    """Return what a person is told of a job that has no outcome."""
    if type(error).__name__ == "KilledWorker":
        return (
            "each worker that worked on it has died; look into the logs of the last, "
            f"{error.args[1].address}, and whether its machine has enough memory"
        )
    return explained(error)
