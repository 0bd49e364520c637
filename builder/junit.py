"""Smoke tests as JUnit XML, which CI services read: one testcase for each expectation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What XML 1.0 can't have, however it is written.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Suite:
    """One testsuite: its cases (name, seconds, why it failed or ""), and what was said."""

    name: str
    cases: tuple[tuple[str, float, str], ...]
    seconds: float
    said: str = ""

    def counts(self) -> tuple[int, int, float]:
        """Return how many cases there are, how many of them failed, and the seconds."""
        return len(self.cases), sum(bool(failure) for *_, failure in self.cases), self.seconds


def as_junit(document: dict[str, Any]) -> str:
    """Return the report document as one testsuite; a test that came to none has a case ``boot``."""
    return write_suites([smoke_suite(document["image"], document["smoke"])])


def smoke_suite(name: str, smoke: dict[str, Any]) -> Suite:
    """Return what a report says of the smoke test of the image called name."""
    cases = [
        (entry["name"], (entry["ms"] or 0) / 1000, entry["failure"])
        for entry in smoke["expectations"]
    ]
    cases += [(f"budget {entry['name']}", 0, entry["failure"]) for entry in smoke["budgets"]]
    if smoke["reason"] and not any(failure for *_, failure in cases):
        cases.append(("boot", 0, smoke["reason"]))
    said = f"{smoke['output']}\n== console of the guest\n{smoke['console']}"
    return Suite(name, tuple(cases), smoke["seconds"], said)


def write_suites(suites: Sequence[Suite]) -> str:
    """Return the suites as one document."""
    total = [sum(column) for column in zip(*(suite.counts() for suite in suites), strict=True)]
    root = Element("testsuites", _counts(*total) | {"name": "hyperbuild"})
    for each in suites:
        name = _text(each.name)
        suite = SubElement(root, "testsuite", _counts(*each.counts()) | {"name": name})
        for title, seconds, failure in each.cases:
            fields = {"classname": name, "name": _text(title), "time": f"{seconds:.3f}"}
            case = SubElement(suite, "testcase", fields)
            if failure:
                SubElement(case, "failure", {"message": _text(failure)}).text = _text(failure)
        SubElement(suite, "system-out").text = _text(each.said)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _counts(tests: float, failures: float, seconds: float) -> dict[str, str]:
    return {
        "tests": str(tests),
        "failures": str(failures),
        "errors": "0",
        "skipped": "0",
        "time": f"{seconds:.3f}",
    }


def _text(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
