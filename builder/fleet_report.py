"""The report of a fleet: what came of each image, as JSON or as JUnit XML."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.fleet_job import BUILT, CACHED, FAILED
from hyperbuild.builder.junit import Suite, smoke_suite, write_suites
from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.files import draft, named_output, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hyperbuild.builder.fleet_job import Outcome


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one image, by the name that it was asked for."""

    image: str
    outcome: Outcome

    def described(self) -> str:
        """Return why it failed, on one line that begins with the image."""
        error, worker = printable(self.outcome.error), self.outcome.worker
        if not error.startswith(self.image):
            error = f"{self.image}: {error}"
        return f"{error} (worker {worker})" if worker else error


@contextmanager
def reported(paths: Sequence[Path], results: Sequence[Result]) -> Iterator[None]:
    """Write what results have at the end of the block, however that ends, as each of paths.

    Before it: InputError if a path is neither *.json nor *.xml, and as of ``named_output``.
    """
    for path in paths:
        if path.suffix not in _RENDERERS:
            raise InputError(f"report {path}: of a fleet, name a file that ends in .json or .xml")
    with ExitStack() as stack:
        places = [named_output(path) for path in paths]
        drafts = [stack.enter_context(draft(place.parent)) for place in places]
        try:
            yield
        finally:
            for place, file in zip(places, drafts, strict=True):
                write_all(file.fd, _RENDERERS[place.suffix](results).encode())
                file.publish(place)


def _as_json(results: Sequence[Result]) -> str:
    counts = Counter(result.outcome.status for result in results)
    document: dict[str, Any] = {status: counts[status] for status in (BUILT, CACHED, FAILED)}
    document["images"] = [{"image": it.image, **it.outcome.document()} for it in results]
    return json.dumps(document, indent=2) + "\n"


def _as_junit(results: Sequence[Result]) -> str:
    return write_suites([_suite(result) for result in results])


def _suite(result: Result) -> Suite:
    """Return the smoke test of an image, or one case where none came to be."""
    outcome = result.outcome
    seconds = sum(outcome.seconds.values())
    tested = smoke_suite(result.image, outcome.smoke) if outcome.smoke else None
    if tested and (outcome.status != FAILED or tested.counts()[1]):
        return tested
    case = (outcome.status if outcome.status == CACHED else "build", seconds, outcome.error)
    return Suite(result.image, (case,), seconds)


_RENDERERS = {".json": _as_json, ".xml": _as_junit}
