"""A smoke test as JUnit XML, which CI services read: one testcase for each expectation."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

#: What XML 1.0 can't have, however it is written.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(document: dict[str, Any]) -> str:
    """Return the report document as one testsuite; a test that came to none has a case ``boot``."""
    smoke = document["smoke"]
    cases = [
        (entry["name"], (entry["ms"] or 0) / 1000, entry["failure"])
        for entry in smoke["expectations"]
    ]
    cases += [(f"budget {entry['name']}", 0, entry["failure"]) for entry in smoke["budgets"]]
    if smoke["reason"] and not any(failure for *_, failure in cases):
        cases.append(("boot", 0, smoke["reason"]))
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(bool(failure) for *_, failure in cases)),
        "errors": "0",
        "skipped": "0",
        "time": f"{smoke['seconds']:.3f}",
    }
    name = _text(document["image"])
    suites = Element("testsuites", counts | {"name": "hyperbuild"})
    suite = SubElement(suites, "testsuite", counts | {"name": name})
    for title, seconds, failure in cases:
        fields = {"classname": name, "name": _text(title), "time": f"{seconds:.3f}"}
        case = SubElement(suite, "testcase", fields)
        if failure:
            SubElement(case, "failure", {"message": _text(failure)}).text = _text(failure)
    said = f"{smoke['output']}\n== console of the guest\n{smoke['console']}"
    SubElement(suite, "system-out").text = _text(said)
    indent(suites)
    return tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _text(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
