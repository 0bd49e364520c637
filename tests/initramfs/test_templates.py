"""A VM that is held until it is told who it is now. Copying it is the launcher's: see test_warm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.initramfs.host import CLOCK, NOW, SEED, SPEC, START, STOP, spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.initramfs.conftest import PowerOn
    from tests.initramfs.host import Machine, Told

pytestmark = pytest.mark.boot

NET = b"address 10.0.2.15/24\ngateway 10.0.2.2\n"
LATER = NOW + 86400 * 10**9


def is_held(told: Told) -> bool:
    return "held" in dict(told.events) and told.marks == 1


def assert_goes_on_as_another(machine: Machine) -> None:
    """Renew the VM of `probe tick`, hear its new name alone, and end it."""
    said = machine.told.stdout
    machine.renew(hostname=b"clone")
    assert machine.until(lambda told: len(told.stdout) > len(said) + 100)
    # One may have been asked for before the freeze.
    assert set(machine.told.stdout[len(said) :].split()[1:]) == {b"clone"}
    machine.send(STOP, (0).to_bytes(4))
    assert machine.finish().status in (143, 137)


def test_before_the_exec_everything_is_renewed(power_on: PowerOn) -> None:
    files = spec("probe", "exit", "1", hold=b"exec\n", net=NET)
    with power_on(files, netdev=True) as machine:
        assert machine.until(is_held)
        assert machine.told.facts is None
        machine.renew(
            LATER,
            argv=b"probe\0files\0/etc/hostname\0/etc/machine-id\0/etc/hosts\0/proc/self/environ\0"
            b"/sys/class/net/eth0/address\0/proc/net/fib_trie\0",
            environ=b"PATH=/usr/bin:/bin\0WHO=clone\0",
            hostname=b"clone",
            machine_id=b"f" * 32 + b"\n",
            hosts=b"127.0.0.1\tclone\n",
            net=b"address 10.0.2.77/24\ngateway 10.0.2.2\nmac 52:54:00:aa:bb:cc\n",
        )
        told = machine.finish()
    assert (told.status, told.stderr) == (0, b"")
    out = told.stdout
    assert out.startswith(b"clone\n" + b"f" * 32 + b"\n127.0.0.1\tclone\n")
    assert b"WHO=clone\0" in out
    assert b"52:54:00:aa:bb:cc\n" in out
    assert b"10.0.2.77" in out
    assert b"10.0.2.15" not in out
    assert [name for name, _ in told.events] == ["held", "resumed", "renewed", "exec"]
    assert told.facts is not None


def test_the_clock_counts_from_the_question(power_on: PowerOn) -> None:
    with power_on(spec("probe", "clock", hold=b"exec\n")) as machine:
        assert machine.until(is_held)
        machine.renew(LATER)
        now, random = machine.finish().stdout.split()
    assert LATER // 10**9 <= int(now) < LATER // 10**9 + 600
    assert random == b"8"


def test_what_is_not_sent_stays(power_on: PowerOn) -> None:
    with power_on(spec("probe", "whoami", hold=b"exec\n")) as machine:
        assert machine.until(is_held)
        machine.renew()
        told = machine.finish()
    assert b"hostname guest\n" in told.stdout


def test_an_application_that_listens_stands_still_until_it_is_renewed(power_on: PowerOn) -> None:
    with power_on(spec("probe", "tick", hold=b"listening\n")) as machine:
        assert machine.until(is_held)
        said = machine.told.stdout
        assert set(said.split()) <= {b"guest"}
        assert not machine.until(lambda told: told.stdout != said, patience=0.5)
        assert_goes_on_as_another(machine)
    names = [name for name, _ in machine.told.events]
    assert names[3:7] == ["exec", "listening", "held", "resumed"]
    assert "renewed" in names


def test_a_healthy_application_stands_still_until_it_is_renewed(power_on: PowerOn) -> None:
    files = spec(
        *("probe", "tick"),
        hold=b"healthy\n",
        health=b"probe\0files\0/proc/net/tcp\0",
        health_times=b"1000 200 0 5000 100\n",
    )
    with power_on(files) as machine:
        assert machine.until(is_held)
        said = machine.told.stdout
        assert not machine.until(lambda told: told.stdout != said, patience=0.5)
        assert_goes_on_as_another(machine)
    names = [name for name, _ in machine.told.events]
    assert names.count("held") == 1


def without_seed(machine: Machine) -> None:
    machine.send(START, b"")


def unknown_file(machine: Machine) -> None:
    machine.put("seed", SEED)
    machine.put("../init", b"x")


def nameless(machine: Machine) -> None:
    machine.send(SPEC, b"argv")


def no_network(machine: Machine) -> None:
    machine.renew(net=b"")


def bad_file(machine: Machine) -> None:
    machine.renew(hostname=b"two\nlines")


def bad_clock(machine: Machine) -> None:
    machine.put("seed", SEED)
    machine.send(START, b"")
    machine.send(CLOCK, b"soon")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (without_seed, "seed"),
        (unknown_file, "../init"),
        (nameless, "name"),
        (no_network, "network"),
        (bad_file, "hostname"),
        (bad_clock, "clock"),
    ],
)
@pytest.mark.parametrize("hold", [b"exec\n", b"listening\n"])
def test_a_renewal_that_fails_is_an_error_and_nothing_of_the_application_runs(
    power_on: PowerOn, spoil: Callable[[Machine], None], word: str, hold: bytes
) -> None:
    with power_on(spec("probe", "tick", hold=hold, net=NET), netdev=True) as machine:
        assert machine.until(is_held)
        said = machine.told.stdout
        spoil(machine)
        assert machine.until(lambda told: told.error)
        told = machine.power_off()
    assert told.error
    assert told.error[0] == 125
    assert word in told.error[1]
    assert told.stdout == said
    assert "renewed" not in dict(told.events)


def test_a_host_that_goes_while_the_vm_is_held_ends_it(power_on: PowerOn) -> None:
    with power_on(spec("probe", "tick", hold=b"listening\n")) as machine:
        assert machine.until(is_held)
        machine.control.close()
        machine.wait()
