"""Processes beside the application: started, fed, read, signalled and refused over the channel."""

from __future__ import annotations

import signal
import struct
from typing import TYPE_CHECKING

import pytest

from tests.initramfs.host import (
    EXEC,
    INPUT_AT_FIRST,
    OUTPUT_AT_FIRST,
    PING,
    RESEED,
    RESIZE,
    STOP,
    spec,
)
from tests.initramfs.test_boot import MIB, pattern

if TYPE_CHECKING:
    from tests.initramfs.conftest import PowerOn
    from tests.initramfs.host import Machine, Told

pytestmark = pytest.mark.boot

INPUT, TERMINAL, BUILTIN = 1, 2, 4


def run(machine: Machine, process: int, *argv: str | bytes, **more: object) -> Told:
    """Have the guest run argv, to its end."""
    machine.exec(process, *argv, **more)  # type: ignore[arg-type]
    assert machine.until(lambda told: told.is_over(process)), machine.told
    return machine.told


def end(machine: Machine) -> Told:
    """Stop the application and read to the end."""
    machine.send(STOP, struct.pack(">I", 0))
    return machine.finish()


def test_every_exit_status_and_every_signal(power_on: PowerOn) -> None:
    numbers = [number for number in range(1, 65) if number not in (32, 33)]
    stopping = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    ignored = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    deadly = [number for number in numbers if number not in stopping | ignored]
    with power_on(spec("probe", "listen")) as machine:
        for first in range(0, 256, 30):
            batch = range(first, min(first + 30, 256))
            for status in batch:
                machine.exec(1 + status, "probe", "exit", str(status))
            # The last to be started need not be the last to end.
            assert machine.until(lambda told, b=batch: all(told.is_over(1 + n) for n in b))  # type: ignore[misc]
        for number in deadly:
            told = run(machine, 300 + number, "probe", "die", str(number))
        assert not told.refused
        assert [told.statuses[1 + status] for status in range(256)] == list(range(256))
        assert all(told.statuses[300 + number] == 128 + number for number in deadly)
        assert end(machine).status in (7, 137)


def test_a_process_is_as_the_application_or_as_it_is_told(power_on: PowerOn) -> None:
    files = spec("probe", "listen", user=b"1000 1001 5\n", cwd=b"/srv", environ=b"PATH=/bin\0A=1\0")
    with power_on(files) as machine:
        run(machine, 1, "probe", "whoami")
        run(machine, 2, "probe", "whoami", user=b"7 8 9 10", cwd=b"/bin")
        run(machine, 3, "probe", "env", environ=(b"A=2", b"B="))
        told = run(machine, 4, "probe", "fds")
    assert told.output(1).startswith(b"uid 1000 1000 gid 1001 1001 groups 5\ncwd /srv\numask 022\n")
    assert b"leader 1\nfiles 1048576 1048576\n" in told.output(1)
    assert told.output(2).startswith(b"uid 7 7 gid 8 8 groups 9 10\ncwd /bin\n")
    assert told.output(3) == b"[PATH=/bin][A=2][B=]"
    assert told.output(4) == b"0 1 2 "


def test_input_of_some_megabytes_arrives_and_ends(power_on: PowerOn) -> None:
    data = pattern(5 * MIB)
    with power_on(spec("probe", "listen")) as machine:
        machine.exec(1, "probe", "cat", flags=INPUT)
        assert machine.until(lambda told: told.started == [1])
        for at in range(0, len(data), 50_000):
            machine.send_frame(data[at : at + 50_000], 3)
        machine.send_frame(b"", 3)
        assert machine.until(lambda told: told.is_over(1))
        assert machine.told.output(1) == data
        assert machine.told.statuses == {1: 0}


def test_without_input_there_is_its_end(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.exec(1, "probe", "cat")
        machine.send_frame(b"not for it", 3)
        assert machine.until(lambda told: told.is_over(1))
        assert (machine.told.output(1), machine.told.statuses) == (b"", {1: 0})


def test_a_slow_reader_holds_up_nobody_else(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.held_windows.add(3)
        machine.exec(1, "probe", "pour", str(MIB))
        assert machine.until(lambda told: len(told.output(1)) == OUTPUT_AT_FIRST)
        assert not machine.until(lambda told: len(told.output(1)) > OUTPUT_AT_FIRST, patience=0.5)
        told = run(machine, 2, "probe", "pour", str(MIB))
        assert told.output(2) == pattern(MIB)
        machine.signal(signal.SIGHUP)
        assert machine.until(lambda told: b"signal 1\n" in told.stdout)
        machine.held_windows.clear()
        machine.widen(3, OUTPUT_AT_FIRST)
        assert machine.until(lambda told: told.is_over(1))
        assert machine.told.output(1) == pattern(MIB)


def test_a_process_that_reads_nothing_holds_up_nobody_else(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.exec(1, "probe", "listen", flags=INPUT)
        machine.exec(2, "probe", "cat", flags=INPUT)
        assert machine.until(lambda told: sorted(told.started) == [1, 2])
        machine.send_frame(bytes(10 * INPUT_AT_FIRST), 3)
        machine.send_frame(b"through", 5)
        machine.send_frame(b"", 5)
        assert machine.until(lambda told: told.is_over(2))
        assert machine.told.output(2) == b"through"
        machine.signal(signal.SIGTERM, 1)
        assert machine.until(lambda told: told.is_over(1))
        assert machine.told.statuses == {1: 7, 2: 0}


def test_input_beyond_its_window_ends_the_guest(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.exec(1, "probe", "listen", flags=INPUT)
        assert machine.until(lambda told: told.started == [1])
        for _ in range(4):
            machine.send_frame_at_once(bytes(INPUT_AT_FIRST), 3)
        told = machine.finish()
    assert told.error == (125, "stream port: input of process 1 beyond its window")


def test_what_a_process_leaves_behind_runs_on_unheard(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        told = run(machine, 1, "probe", "leave", "6")
        assert (told.output(1), told.statuses) == (b"child\n", {1: 6})


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("nothing", 127, "not found in PATH"),
        ("/bin/nothing", 127, "no such file"),
        ("plain", 126, "plain"),
        ("/bin/directory", 126, "/bin/directory"),
        ("/bin/garbage", 126, "/bin/garbage"),
        ("/bin/orphan-script", 127, "/bin/orphan-script"),
    ],
)
def test_what_cannot_be_executed(power_on: PowerOn, command: str, status: int, words: str) -> None:
    with power_on(spec("probe", "listen")) as machine:
        told = run(machine, 1, command)
    assert told.refused[1][0] == status
    assert words in told.refused[1][1]
    assert not told.started
    assert {3, 4}.isdisjoint(told.streams)


def test_what_is_refused_and_that_all_else_goes_on(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        assert "used before" in run(machine, 0, "probe", "exit", "0").refused[0][1]
        run(machine, 5, "probe", "exit", "0")
        assert machine.told.statuses == {5: 0}
        assert "used before" in run(machine, 4, "probe", "exit", "0").refused[4][1]
        assert "malformed" in run(machine, 6, "probe", user=b"root").refused[6][1]
        assert "absolute" in run(machine, 7, "probe", cwd=b"srv").refused[7][1]
        assert run(machine, 8, "probe", cwd=b"/no/such").refused[8][0] == 126
        assert "no command" in run(machine, 9).refused[9][1]
        assert "no command" in run(machine, 10, "").refused[10][1]
        assert "malformed" in run(machine, 11, "stat", flags=BUILTIN | TERMINAL).refused[11][1]
        assert "malformed" in run(machine, 12, "probe", flags=8).refused[12][1]
        for number, tail in enumerate((b"", b"\0", b"\0\0", b"\0\0a=b\0", b"\0\0\0probe"), 20):
            machine.send(EXEC, struct.pack(">IIIHH", number, 0, 0, 0, 0) + tail)
            assert machine.until(lambda told, number=number: number in told.refused)  # type: ignore[misc]
        machine.send(EXEC, b"abc")
        told = run(machine, 30, *["probe", "argv"], *["a"] * 15_000)
        assert told.output(30) == b"[a]" * 15_000
        assert "too long" in run(machine, 31, *["probe"], *["a"] * 20_000).refused[31][1]
        assert end(machine).status in (7, 137)


def test_only_so_many_run_at_a_time(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        for number in range(1, 33):
            machine.exec(number, "probe", "listen")
        assert machine.until(lambda told: len(told.started) == 32)
        assert "32 processes" in run(machine, 33, "probe", "exit", "0").refused[33][1]
        machine.signal(signal.SIGTERM, 9)
        assert machine.until(lambda told: told.is_over(9))
        assert run(machine, 34, "probe", "exit", "3").statuses[34] == 3


def test_all_ends_with_the_application(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.exec(1, "probe", "listen")
        assert machine.until(lambda told: b"ready" in told.output(1))
        machine.signal(signal.SIGTERM)
        machine.exec(2, "probe", "exit", "0")
        assert machine.finish().status == 7


def test_ping_and_a_new_seed(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.send(RESEED, b"")
        machine.send(RESEED, bytes(600))
        machine.send(RESEED, b"a seed")
        machine.send(PING, struct.pack(">Q", 2**63 + 5))
        assert machine.until(lambda told: told.pongs == [2**63 + 5])


def test_a_terminal_has_a_size_that_changes(power_on: PowerOn) -> None:
    with power_on(spec("probe", "listen")) as machine:
        machine.exec(1, "probe", "terminal", flags=INPUT | TERMINAL, size=(25, 90))
        assert machine.until(lambda told: b"25 90\r\n" in told.output(1))
        machine.send(RESIZE, struct.pack(">IHH", 1, 40, 132))
        assert machine.until(lambda told: b"40 132\r\n" in told.output(1))
        machine.send_frame(b"\x03", 3)
        assert machine.until(lambda told: told.is_over(1))
        told = machine.told
    assert told.statuses == {1: 130}
    assert told.errors(1) == b""
    assert b"controlling 1" in told.output(1)


def test_the_applications_terminal(power_on: PowerOn) -> None:
    with power_on(spec("probe", "terminal", tty=b"25 90\n", user=b"1000 1000\n")) as machine:
        assert machine.until(lambda told: b"25 90\r\n" in told.stdout)
        machine.send(RESIZE, struct.pack(">IHH", 0, 40, 132))
        assert machine.until(lambda told: b"40 132\r\n" in told.stdout)
        machine.send_frame(b"")
        machine.send_frame(b"\x03")
        told = machine.finish()
    assert (told.status, told.stderr) == (130, b"")
    assert b"owner 1000 controlling 1" in told.stdout


def test_the_last_words_on_a_terminal_are_heard(power_on: PowerOn) -> None:
    size = 100_000
    with power_on(spec("probe", "pour", str(size), tty=b"0 0\n")) as machine:
        told = machine.finish()
    assert told.stdout.replace(b"\r\n", b"\n") == pattern(size)
