"""What a person sees of a fleet at work: a bar for the whole, one for each step of an image."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from hyperbuild.builder.fleet_job import CACHED, FAILED
from hyperbuild.builder.fleet_report import Result
from hyperbuild.builder.fleet_worker import BEGAN, ENDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hyperbuild.builder.fleet_job import Outcome
    from hyperbuild.builder.fleet_plan import Job
    from hyperbuild.converter.progress import Progress, Task


class Display:
    """Shows what workers say of jobs, which are given with their images' names; counts images."""

    def __init__(
        self, progress: Progress, jobs: Sequence[tuple[Job, tuple[str, ...]]], total: int
    ) -> None:
        self._progress = progress
        self._names = {job.tag: names[0] for job, names in jobs}
        self._total = total
        self._done = 0
        self._begun: set[str] = set()
        self._bars: dict[str, dict[int, _Bar]] = {}
        self._stack = ExitStack()
        self._whole = self._stack.enter_context(progress.task("images", total, "image"))
        self._stack.callback(self._close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event of a worker; other fleets' are none of ours."""
        tag, words = event["job"], event["words"]
        name = self._names.get(tag)
        if name is None:
            return
        bars = self._bars.setdefault(tag, {})
        match words:
            case ["say", text]:
                self._progress.say(f"{name}: {text}")
            case ["warn", text]:
                self._progress.warn(f"{name}: {text}")
            case ["step", number, title, total, unit]:
                bars[number] = _Bar(self._progress.task(f"{name}: {title}", total, unit))
            case ["at", number, done]:
                if number in bars:
                    bars[number].reach(done)
            case ["over", number]:
                if number in bars:
                    bars.pop(number).close()
            case [word, place] if word == BEGAN:
                # What a worker has begun that is dead now will not go on.
                self._forget(tag)
                again = " again" if tag in self._begun else ""
                self._begun.add(tag)
                self._progress.say(f"{name}: begun{again}" + (f" by {place}" if place else ""))
            case [word] if word == ENDED:
                self._forget(tag)

    def counted(self, names: Iterable[str], outcome: Outcome) -> Iterator[Result]:
        """Yield the result of each of the images called names, and show that they are done with."""
        seconds = sum(outcome.seconds.values())
        said = {FAILED: "failed", CACHED: "in the registry already"}
        how = said.get(outcome.status, f"built in {seconds:.1f} s")
        for name in names:
            self._done += 1
            self._whole.advance(1)
            self._progress.say(f"{name}: {how} ({self._done} of {self._total})")
            yield Result(name, outcome)

    def _forget(self, tag: str) -> None:
        for bar in self._bars.pop(tag, {}).values():
            bar.close()

    def _close(self) -> None:
        for tag in list(self._bars):
            self._forget(tag)


class _Bar:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._done = 0

    def reach(self, done: int) -> None:
        self._task.advance(done - self._done)
        self._done = done

    def close(self) -> None:
        self._task.__exit__(None, None, None)
