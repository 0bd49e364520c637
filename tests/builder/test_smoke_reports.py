"""Reports of smoke tests hold what a guest says, whatever that is."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.builder.boot_report import reported
from hyperbuild.builder.junit import as_junit
from hyperbuild.builder.smoking import SmokeRecord
from hyperbuild.launcher.budget import parse_budget
from hyperbuild.launcher.channel import STDOUT, Event, Exit, Frame
from hyperbuild.launcher.expectations import Log, Port
from hyperbuild.launcher.smoke import SmokeTest
from hyperbuild.launcher.timeline import Timeline


def record(output: bytes, regex: str = "x") -> SmokeRecord:
    """Return what is known of a test of which one expectation holds and one does not."""
    timeline = Timeline()
    timeline.mark("start")
    test = SmokeTest([Port(80), Log(regex)], {}, 5)
    test.see(Event("port 80", 1))
    test.see_output(Frame(STDOUT, output))
    test.see(Exit(3))
    test.close()
    test.conclude("", has_timed_out=False)
    found = SmokeRecord(timeline, [parse_budget("init=1s")], test=test)
    found.judge(None)
    return found


@given(st.binary(max_size=60), st.text(max_size=20))
def test_junit_is_xml_whatever_a_guest_says(output: bytes, name: str) -> None:
    smoke = record(output, "[^\\s\\S]").document()
    root = ET.fromstring(as_junit({"image": name, "smoke": smoke}))  # noqa: S314
    assert root.attrib["tests"] == "3"
    assert root.attrib["failures"] == "2"


def test_the_page_and_the_json_tell_the_same(tmp_path: Path) -> None:
    found = record(b"<script>alert(1)</script>\x1b[31m\n", "<i>never</i>")
    paths = [tmp_path / "a.json", tmp_path / "a.html", tmp_path / "a.xml"]
    with reported(paths, "<b>image</b>", found.timeline, found.budgets, found.document):
        pass
    document = json.loads(paths[0].read_text())["smoke"]
    assert document["held"] is False
    assert document["reason"].startswith("log <i>never</i>: the application ended with status 3")
    assert [entry["held"] for entry in document["expectations"]] == [True, False]
    assert document["budgets"][0]["failure"].startswith("over budget: init was never reached")
    page = paths[1].read_text()
    for text in ("<script", "<i>never", "<b>image", "\x1b"):
        assert text not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count('<td class="problem">failed</td>') == 1
