"""What is told of an application: its health, when that is asked, and its ports."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.initramfs.host import STOP, spec

if TYPE_CHECKING:
    from tests.initramfs.conftest import PowerOn

pytestmark = pytest.mark.boot

CHECK = b"probe\0stat\0/ok\0"


def names(events: list[tuple[str, int]]) -> list[str]:
    return [name for name, _ in events]


def test_the_first_success_is_told_and_so_is_every_change(power_on: PowerOn) -> None:
    files = spec(
        *("probe", "bloom", "200", "/ok"),
        health=CHECK,
        health_times=b"100 5000 60000 5000 2\n",
        watch=b"boot\n",
    )
    with power_on(files) as machine:
        assert machine.until(lambda told: names(told.events).count("healthy") == 1)
        told = machine.told
        assert dict(told.events)["healthy"] - dict(told.events)["exec"] >= 200_000_000
        machine.signal(signal.SIGUSR1)
        assert machine.until(lambda told: "unhealthy" in names(told.events))
        machine.send(STOP, (10_000).to_bytes(4))
        told = machine.finish()
    assert told.status == 7
    assert told.stdout == b""
    assert names(told.events)[-2:] == ["healthy", "unhealthy"]


@pytest.mark.parametrize(
    ("watch", "told"),
    [
        (b"boot\n", ["listening"]),
        (b"ports\n", ["listening", "loopback 8080", "port 80", "port 443"]),
    ],
)
def test_ports_are_told_as_they_are_opened(
    watch: bytes, told: list[str], power_on: PowerOn
) -> None:
    words = ("probe", "serve", "-8080", "80", "443")
    with power_on(spec(*words, watch=watch)) as machine:
        assert machine.until(lambda so_far: told[-1] in names(so_far.events))
        machine.send(STOP, (10_000).to_bytes(4))
        assert names(machine.finish().events)[4:] == told


@pytest.mark.parametrize("times", [b"100 50 0 5000 3\n", b"100 50 500 100 1\n"])
def test_a_check_that_never_ends_is_a_failed_one(power_on: PowerOn, times: bytes) -> None:
    files = spec("probe", "listen", health=b"probe\0listen\0", health_times=times)
    with power_on(files) as machine:
        assert machine.until(lambda told: "unhealthy" in names(told.events))
        events = dict(machine.told.events)
        assert events["unhealthy"] - events["exec"] >= 300_000_000
        machine.send(STOP, (10_000).to_bytes(4))
        assert machine.finish().status == 7


def test_no_failure_counts_while_the_application_starts(power_on: PowerOn) -> None:
    files = spec(
        *("probe", "bloom", "700", "/ok"),
        health=CHECK,
        # The interval comes after the start alone.
        health_times=b"600000 5000 600000 100 1\n",
    )
    with power_on(files) as machine:
        assert machine.until(lambda told: "healthy" in names(told.events))
        machine.send(STOP, (10_000).to_bytes(4))
        told = machine.finish()
    assert "unhealthy" not in names(told.events)


def test_the_check_is_run_as_the_user_in_the_directory_and_what_it_says_is_dropped(
    power_on: PowerOn,
) -> None:
    script = b"probe\0whoami\0"
    files = spec(
        *("probe", "listen"),
        health=script,
        health_times=b"50 5000 0 5000 1\n",
        user=b"1000 1000\n",
        cwd=b"/srv",
    )
    with power_on(files) as machine:
        assert machine.until(lambda told: "healthy" in names(told.events))
        machine.send(STOP, (10_000).to_bytes(4))
        told = machine.finish()
    assert told.stdout == b"ready\n"
    assert told.status == 7


def test_a_check_that_is_not_there_fails_but_the_application_runs(power_on: PowerOn) -> None:
    files = spec("probe", "listen", health=b"nothing\0", health_times=b"50 5000 0 5000 2\n")
    with power_on(files) as machine:
        assert machine.until(lambda told: "unhealthy" in names(told.events))
        machine.send(STOP, (10_000).to_bytes(4))
        assert machine.finish().status == 7


@pytest.mark.parametrize("times", [b"", b"0 1 0 5000 1\n", b"100 100 0 5000\n"])
def test_times_that_break_their_rules(power_on: PowerOn, times: bytes) -> None:
    with power_on(spec("probe", "exit", "0", health=CHECK, health_times=times)) as machine:
        told = machine.finish()
    assert told.error
    assert told.error[0] == 125
    assert "health-times" in told.error[1]
