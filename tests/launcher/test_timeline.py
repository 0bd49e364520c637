"""The timeline: one clock for host and guest."""

from __future__ import annotations

import time

import pytest

from hyperbuild.launcher.console import ConsoleRing, diagnose
from hyperbuild.launcher.listener import read_counter
from hyperbuild.launcher.timeline import Counter, Timeline, process_start


def boot() -> Timeline:
    timeline = Timeline()
    timeline.mark("start", 1_000_000)
    timeline.mark("hypervisor", 2_000_000)
    timeline.mark_guest("init", 2_000_000, 9_000_000)
    timeline.mark_guest("exec", 5_000_000, 8_000_000)
    timeline.mark("exit", 20_000_000)
    return timeline


def named(timeline: Timeline) -> list[tuple[str, int]]:
    return [(step.name, step.nanoseconds) for step in timeline.steps()]


def test_a_guest_that_never_stops_telling_is_heard_for_a_while() -> None:
    timeline = Timeline()
    assert timeline.mark_guest("exec", 1, 2)
    assert not timeline.mark_guest("exec", 3, 4)
    told = [timeline.mark_guest(f"step {number}", number, number) for number in range(1000)]
    assert 10 < sum(told) < 100
    assert len(timeline.steps()) == sum(told) + 1


def test_the_guest_clock_is_placed_by_the_promptest_message() -> None:
    timeline = boot()
    assert named(timeline) == [
        ("start", 1_000_000),
        ("hypervisor", 2_000_000),
        ("init", 5_000_000),
        ("app_exec", 8_000_000),
        ("exit", 20_000_000),
    ]
    assert timeline.document()["steps"][2] == {
        "name": "init",
        "ns": 5_000_000,
        "since_start_ms": 4.0,
        "took_ms": 3.0,
    }
    assert timeline.reached("app_exec") == 7_000_000
    assert timeline.reached("listening") is None


def test_the_counter_places_what_came_before_hyperstart() -> None:
    timeline = boot()
    timeline.count(Counter(2_000_000, 4_000_000, {"kernel": 1_000_000, "initcalls": 2_000_000}))
    assert named(timeline)[2:5] == [
        ("machine", 3_000_000),
        ("kernel", 3_500_000),
        ("initcalls", 4_000_000),
    ]
    assert timeline.counted("kernel") == 1_000_000
    assert timeline.counted("app_exec") == 4_000_000 + 2 * 3_000_000
    assert timeline.counted("exit") is None


def test_a_counter_that_started_before_the_hypervisor_places_nothing() -> None:
    timeline = boot()
    timeline.count(Counter(1_000_000, 4_000_000, {}))
    assert "machine" not in dict(named(timeline))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"counter": ""},
        {"counter": "-1"},
        {"counter": "x"},
        {"counter": "²"},
        {"counter": "9" * 99},
    ],
)
def test_a_guest_that_tells_no_count_has_no_counter(facts: dict[str, str]) -> None:
    assert read_counter(facts, 1000) is None


def test_stamps_that_make_no_sense_are_left_out() -> None:
    facts = {"counter": "100", "stamps": "50,101,7"}
    assert read_counter(facts, 1000) == Counter(1000, 100, {"kernel": 50})
    assert read_counter(facts, None) is None
    assert read_counter({"counter": "100", "stamps": ","}, 1) == Counter(1, 100, {})


def test_an_empty_timeline_has_a_document() -> None:
    assert Timeline().document()["steps"] == []


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
    assert told == "hyperstart failed: no ports; make the bundle again, or report it"
    assert diagnose("all quiet") is None
