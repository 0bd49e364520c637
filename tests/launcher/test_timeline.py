"""The timeline: one clock for host and guest."""

from __future__ import annotations

import json
import time

from hyperbuild.launcher.console import ConsoleRing, diagnose
from hyperbuild.launcher.timeline import Timeline, process_start


def test_the_guest_clock_is_placed_by_the_promptest_message() -> None:
    timeline = Timeline()
    timeline.mark("start", 1_000_000)
    timeline.mark_guest("init", 2_000_000, 9_000_000)
    timeline.mark_guest("exec", 5_000_000, 8_000_000)
    timeline.mark("exit", 20_000_000)
    named = [(step.name, step.nanoseconds) for step in timeline.steps()]
    assert named == [
        ("start", 1_000_000),
        ("init", 5_000_000),
        ("exec", 8_000_000),
        ("exit", 20_000_000),
    ]
    steps = json.loads(timeline.to_json())["steps"]
    assert steps[1] == {"name": "init", "ns": 5_000_000, "since_start_ms": 4.0}
    assert timeline.render_text().splitlines()[2].split() == ["init", "4.0", "4.0"]


def test_an_empty_timeline_renders() -> None:
    assert json.loads(Timeline().to_json())["steps"] == []
    assert Timeline().render_text().count("\n") == 1


def test_this_process_started_in_the_past() -> None:
    assert 0 < process_start() < time.monotonic_ns()


def test_the_console_keeps_its_end() -> None:
    ring = ConsoleRing()
    for _ in range(100):
        ring.feed(b"x" * 4096)
    ring.feed(b"Kernel panic - not syncing: System is deadlocked on memory\r\n")
    assert len(ring.text()) <= 64 << 10
    error = diagnose(ring.text())
    assert error is not None
    assert "System is deadlocked on memory; give the VM more memory with -m" in str(error)
    assert error.exit_status == 125


def test_hyperstart_speaks_through_the_console_if_it_must() -> None:
    told = str(diagnose("noise\nhyperstart: no ports\nKernel panic - not syncing: Attempted\n"))
    assert told == "hyperstart failed: no ports"
    assert diagnose("all quiet") is None
