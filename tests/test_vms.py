"""VMs that run by themselves: run, list, logs, stop, kill, rm, wait, inspect, stats."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.vms import HANG, KILLED, Vms, assert_gone, children, kill

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.boot

NAME = (
    "begin with a letter or a digit, and go on with letters, digits, '_', '.' or '-', 2 to 128 in "
    "all"
)
#: What the shared VM runs: output of all kinds, then it waits for signals.
SCRIPT = r"""
echo one; echo two; echo oops >&2; printf 'no\rend\377'
trap 'echo usr1' USR1
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def vms(busybox_vms: Vms) -> Vms:
    """Give VMs of busybox."""
    return busybox_vms


@pytest.fixture(scope="module")
def shared(vms: Vms) -> str:
    """Give the name of a VM that runs, for all tests that leave it running."""
    done = vms.run("-d", "--name", "shared", command=("sh", "-c", SCRIPT))
    assert done.status == 0, done.stderr
    assert len(done.stdout.strip()) == 64
    deadline = time.monotonic() + HANG
    while b"\377" not in vms.do("logs", "shared").stdout:
        assert time.monotonic() < deadline
    return "shared"


def test_run_gives_output_and_status_of_the_application(vms: Vms) -> None:
    script = "cat; echo out; echo err >&2; exit 7"
    done = vms.run("-i", "--rm", command=("sh", "-c", script), stdin=b"in\0\377")
    assert (done.status, done.stdout) == (7, b"in\0\377out\n")
    assert "err\n" in done.stderr
    assert "application started after" in done.stderr
    assert_gone_but(vms)


def assert_gone_but(vms: Vms, *names: str) -> None:
    assert {one["name"] for one in vms.list()} <= {"shared", *names}


@pytest.mark.parametrize(
    ("command", "status"), [(("/no/such/program",), 127), (("/www/index.html",), 126)]
)
@pytest.mark.parametrize("options", [(), ("-d",)], ids=["attached", "detached"])
def test_failures_are_those_of_boot(
    vms: Vms, options: tuple[str, ...], command: tuple[str, ...], status: int
) -> None:
    done = vms.run(*options, command=command)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (status, b"", 1)
    assert done.stderr.startswith("Error: ")
    # Nothing of it ever ran: there is nothing to keep.
    assert_gone_but(vms)


@pytest.mark.parametrize("how", [(), ("-d",)], ids=["attached", "detached"])
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("volume", "nosuch"),
        ("tap", "nosuch"),
        ("disk", "has no CONFIG_EXT4_FS"),
        ("port", "in use"),
        ("command", "nosuch"),
    ],
)
def test_failures_before_the_hypervisor_are_those_of_boot(
    vms: Vms, tmp_path: Path, what: str, text: str, how: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = {
            "volume": ("-v", "./nosuch:/x"),
            "tap": ("--network", "tap:nosuch", "--ip", "1.2.3.4/24"),
            "disk": ("--disk", "disk"),
            "port": ("-p", f"127.0.0.1:{taken.getsockname()[1]}:80"),
            "command": (),
        }[what]
        command = ("nosuch",) if what == "command" else ("true",)
        boot = vms.do(*vms.words(*options, command=command, verb="boot"), cwd=tmp_path)
        run = vms.run(*how, *options, command=command, cwd=tmp_path)
    assert boot.stderr.startswith("Error: ")
    assert text in boot.stderr
    assert run == boot
    assert run.stderr.count("\n") == 1
    assert_gone_but(vms)


def test_death_by_a_signal_is_a_status(vms: Vms) -> None:
    assert vms.run("--name", "dead", command=("sh", "-c", "kill -9 $$")).status == 137
    assert vms.state("dead")["exit_status"] == 137
    assert vms.do("rm", "dead").status == 0


def test_list_shows_what_runs(vms: Vms, shared: str) -> None:
    text = vms.do("list").stdout.decode()
    assert text.splitlines()[0].split() == ["ID", "NAME", "IMAGE", "COMMAND", "STATUS", "PORTS"]
    (line,) = (line for line in text.splitlines() if f" {shared} " in line)
    assert " Up " in line
    assert vms.do("ps").stdout.split()[:6] == text.encode().split()[:6]
    (one,) = (one for one in vms.list() if one["name"] == shared)
    assert one["state"]["status"] == "running"
    assert vms.do("list", "-q").stdout.decode().split() == [one["id"][:12]]


def test_inspect_tells_a_vm_from_an_image(vms: Vms, shared: str) -> None:
    found = vms.inspect(shared)
    assert found["command"][:2] == ["sh", "-c"]
    assert found["options"]["memory"] == 64
    steps = [step["name"] for step in found["state"]["timeline"]["steps"]]
    assert steps[0] == "start"
    assert steps[-1] == "app_exec"
    text = vms.do("inspect", found["id"][:12]).stdout.decode()
    assert f"{shared} ({found['id']})" in text
    # Too short to be more than an image's name.
    assert vms.do("inspect", found["id"][:5]).status == 1
    assert vms.do("inspect", "--type", "vm", found["id"][:5]).status == 0
    assert vms.do("inspect", "--type", "image", shared).status == 1
    done = vms.do("inspect", "--type", "vm", "nope")
    assert (
        done.stderr
        == "Error: no VM is called 'nope'; see 'hyperbuild list --all' for all of them\n"
    )
    assert json.loads(vms.do("inspect", "--json", vms.bundle).stdout)["name"] == str(vms.bundle)


def test_logs_have_both_streams_byte_for_byte(vms: Vms, shared: str) -> None:
    done = vms.do("logs", shared)
    assert done.stdout.startswith(b"one\ntwo\nno\rend\xff")
    assert done.stderr == "oops\n"
    last = vms.do("logs", "--tail", "1", shared)
    assert (last.stdout, last.stderr) in [(b"no\rend\xff", ""), (b"", "oops\n")]
    assert vms.do("logs", "--tail", "0", shared).stdout == b""
    first = vms.do("logs", "-t", shared).stdout.splitlines()[0]
    assert first.endswith(b"Z one")
    assert vms.do("logs", "--since", "0s", shared).stdout == b""
    assert vms.do("logs", "--since", "1h", shared).stdout == done.stdout
    assert vms.do("logs", "--since", first.split()[0].decode(), shared).stdout == done.stdout
    assert vms.do("logs", "--since", "soon", shared).stderr.startswith("Error: soon is no time")


def test_kill_sends_a_signal_that_logs_show_at_once(vms: Vms, shared: str) -> None:
    with vms.start("logs", "-f", shared) as follower:
        assert follower.stdout
        assert vms.do("kill", "-s", "usr1", shared).stdout == f"{shared}\n".encode()
        assert any(line.endswith(b"usr1\n") for line in iter(follower.stdout.readline, b""))
        follower.terminate()
    done = vms.do("kill", "-s", "nonsense", shared)
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert vms.do("list", "-q").stdout


def test_kill_knows_the_signals_that_images_may_name(vms: Vms) -> None:
    script = "trap 'exit 5' 37; echo ready; while :; do sleep 0.1; done"
    with vms.start(*vms.words("--rm", "--name", "real", command=("sh", "-c", script))) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        for text in ("SIGRTMIN+31", "0", "-1", "65", ""):
            done = vms.do("kill", "-s", text, "real")
            assert (done.status, done.stderr.count("\n")) == (1, 1)
            assert done.stderr.startswith(f"Error: {text} is no signal; ")
        assert vms.do("kill", "-s", "SIGRTMIN+3", "real").status == 0
        assert client.wait(HANG) == 5


def test_stats_tell_cpu_and_memory(vms: Vms, shared: str) -> None:
    (row,) = json.loads(vms.do("stats", "--json", shared).stdout)
    assert row["name"] == shared
    assert row["cpu_percent"] >= 0
    assert 8 << 20 < row["memory_bytes"] < 512 << 20
    # Little beside the VM: what is imported for it is chosen.
    assert row["supervisor_bytes"] < 24 << 20
    assert shared in vms.do("stats", "--no-stream").stdout.decode()


def test_a_name_is_taken_once(vms: Vms, shared: str) -> None:
    done = vms.run("-d", "--name", shared)
    assert done.status == 125
    assert done.stderr.startswith("Error: the name shared is taken by VM ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "--name", "a b", "x"), "name 'a b' is not one"),
        (("run", "--name", "s", "x"), f"name 's' is not one: {NAME}"),
        (("run", "--restart", "never", "x"), "restart policy 'never' is none"),
        (("run", "--rm", "--restart", "always", "x"), "--rm and --restart exclude each other"),
        (("run", "--log-size", "1", "x"), "log size '1' is none"),
        (("run", "-m", "1M", "x"), "memory of 1 MiB"),
    ],
)
def test_bad_options_of_run(vms: Vms, words: tuple[str, ...], text: str) -> None:
    done = vms.do(*words)
    assert done.status == 2
    assert done.stderr.startswith(f"Error: {text}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["logs", "stop", "kill", "rm", "wait", "stats"])
def test_an_unknown_vm_is_one_line(vms: Vms, verb: str) -> None:
    done = vms.do(verb, "nope")
    assert (done.status, done.stdout) == (1, b"")
    assert (
        done.stderr
        == "Error: no VM is called 'nope'; see 'hyperbuild list --all' for all of them\n"
    )


def test_one_that_fails_does_not_keep_others_from_it(vms: Vms, shared: str) -> None:
    done = vms.do("kill", "-s", "USR1", "nope", shared)
    assert (done.status, done.stdout) == (1, f"{shared}\n".encode())
    done = vms.do("rm", shared)
    assert done.stderr == f"Error: VM {shared} is running; stop it first, or remove it with rm -f\n"


def test_stop_asks_first(vms: Vms) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    assert vms.run("-d", "--name", "polite", command=("sh", "-c", script)).status == 0
    with vms.start("logs", "-f", "polite") as follower, vms.start("wait", "polite") as waiter:
        assert follower.stdout
        assert waiter.stdout
        assert follower.stdout.readline() == b"ready\n"
        assert vms.do("stop", "polite").stdout == b"polite\n"
        assert follower.stdout.read() == b"bye\n"
        assert waiter.stdout.read() == b"3\n"
    state = vms.state("polite")
    assert (state["status"], state["exit_status"], state["reason"]) == ("exited", 3, "")
    # What has ended is stopped already, as under docker; what it wrote stays.
    assert vms.do("stop", "polite").status == 0
    assert vms.do("wait", "polite").stdout == b"3\n"
    assert vms.do("logs", "-f", "polite").stdout == b"ready\nbye\n"
    done = vms.do("kill", "polite")
    assert (done.status, done.stderr[:26]) == (1, "Error: VM polite is not ru")
    assert " Exited (3) " in vms.do("list", "-a").stdout.decode()
    assert "polite" not in vms.do("list").stdout.decode()
    assert vms.do("rm", "polite").status == 0
    assert_gone_but(vms)


def test_who_does_not_stop_is_killed_after_the_grace(vms: Vms) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    assert vms.run("-d", "--name", "deaf", command=("sh", "-c", script)).status == 0
    assert vms.do("stop", "-t", "0.5", "deaf").status == 0
    assert vms.state("deaf")["exit_status"] == 137
    assert vms.do("rm", "deaf").status == 0


def test_signals_to_run_are_the_applications(vms: Vms) -> None:
    script = "trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    with vms.start(*vms.words("--rm", command=("sh", "-c", script))) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGINT)
        assert client.stdout.read() == b"int\n"
        assert client.wait(HANG) == 5
    assert_gone_but(vms)


def test_a_run_whose_reader_goes_is_stopped(vms: Vms) -> None:
    with vms.start(*vms.words("--rm", command=("yes",))) as client:
        assert client.stdout
        assert client.stdout.read(4) == b"y\ny\n"
        client.stdout.close()
        assert client.wait(HANG) == 143
    assert_gone_but(vms)


def test_input_of_any_size_arrives(vms: Vms) -> None:
    data = random.Random(2).randbytes(3_000_000)
    done = vms.run("-i", "--rm", command=("md5sum",), stdin=data)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert done.stdout == f"{digest}  -\n".encode()


def test_a_slow_reader_holds_up_the_application_but_not_its_end(vms: Vms) -> None:
    script = "yes | head -c 4000000; echo done >&2; sleep 1000"
    with vms.start(*vms.words("--name", "slow", command=("sh", "-c", script))) as client:
        vms.until_there("slow")
        # Nobody reads, so it can't get to the end of what it writes.
        time.sleep(1)
        assert vms.do("logs", "slow").stderr == ""
        assert vms.do("kill", "slow").status == 0
        state = vms.until("slow", lambda state: state["status"] == "exited")
        assert (state["exit_status"], state["reason"]) == (137, "")
        assert client.poll() is None
        assert client.stdout
        assert set(client.stdout.read().split()) == {b"y"}
        assert client.wait(HANG) == 137
    assert vms.do("rm", "slow").status == 0


def test_a_log_of_any_length_is_bounded(vms: Vms) -> None:
    script = "head -c 3000000 /dev/zero; echo; echo last; echo too >&2"
    options = ("-d", "--name", "chatty", "--log-size", "256K")
    assert vms.run(*options, command=("sh", "-c", script)).status == 0
    assert vms.do("wait", "chatty").stdout == b"0\n"
    directory = vms.directory / vms.inspect("chatty")["id"]
    logs = sorted(directory.glob("log.*"))
    assert len(logs) == 2
    assert sum(path.stat().st_size for path in logs) <= 256 << 10
    done = vms.do("logs", "chatty")
    assert done.stdout.endswith(b"\0\nlast\n")
    assert len(done.stdout) > 100_000
    assert done.stderr == "too\n"
    assert vms.do("rm", "chatty").status == 0


def test_restarts_follow_the_policy_until_it_is_stopped(vms: Vms) -> None:
    options = ("-d", "--name", "again", "--restart", "on-failure:2")
    assert vms.run(*options, command=("sh", "-c", "echo run; exit 4")).status == 0
    state = vms.until("again", lambda state: state["status"] == "exited")
    assert (state["exit_status"], state["restarts"]) == (4, 2)
    assert vms.do("logs", "again").stdout == b"run\n" * 3
    assert vms.do("rm", "again").status == 0
    options = ("-d", "--name", "ever", "--restart", "always")
    assert vms.run(*options, command=("true",)).status == 0
    vms.until("ever", lambda state: state["restarts"] > 0)
    assert vms.do("stop", "ever").status == 0
    assert vms.state("ever")["status"] == "exited"
    assert vms.do("rm", "ever").status == 0
    assert_gone_but(vms)


@pytest.mark.parametrize("moment", ["pause", "boot"])
def test_what_is_stopped_before_it_runs_again_keeps_its_status(vms: Vms, moment: str) -> None:
    options = ("-d", "--name", "between", "--restart", "always")
    done = vms.run(*options, command=("sh", "-c", "exit 4"))
    path = vms.directory / done.stdout.decode().strip() / "state.json"
    deadline = time.monotonic() + HANG
    while (state := json.loads(path.read_bytes()))["status"] != "restarting":
        assert time.monotonic() < deadline
    while moment == "boot" and not children(state["pid"]):
        assert time.monotonic() < deadline
    # As good as `stop`, and so fast that it comes at this moment.
    kill(state["pid"], signal.SIGTERM)
    state = vms.until("between", lambda state: state["status"] == "exited")
    assert (state["exit_status"], state["reason"]) == (4, "stopped before it ran again")
    assert vms.do("rm", "between").status == 0


@pytest.mark.parametrize("victim", ["supervisor", "hypervisor"])
def test_a_part_that_is_killed_leaves_a_true_state(vms: Vms, victim: str) -> None:
    done = vms.run("-d", "--name", "victim", command=("sleep", "1000"))
    assert done.status == 0, done.stderr
    supervisor = vms.state("victim")["pid"]
    (hypervisor,) = children(supervisor)
    kill(supervisor if victim == "supervisor" else hypervisor)
    if victim == "hypervisor":
        assert vms.do("wait", "victim").stdout == b"125\n"
    state = vms.until("victim", lambda state: state["status"] == "exited")
    why = "its supervisor was killed" if victim == "supervisor" else "signal 9 of the hypervisor"
    assert why in state["reason"]
    assert why in vms.do("list", "-a").stdout.decode()
    deadline = time.monotonic() + HANG
    while os.path.exists(f"/proc/{hypervisor}"):  # noqa: PTH110
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert vms.do("rm", "victim").status == 0
    assert_gone_but(vms)


def test_an_attached_run_whose_supervisor_is_killed_is_killed(vms: Vms) -> None:
    command = ("sh", "-c", "echo ready; sleep 1000")
    with vms.start(*vms.words("--rm", "--name", "gone", command=command)) as client:
        assert client.stdout
        assert client.stderr
        assert client.stdout.readline() == b"ready\n"
        kill(vms.state("gone")["pid"])
        assert client.wait(HANG) == 137
        assert client.stderr.read().endswith(KILLED)
    assert_gone_but(vms)


def test_a_client_that_is_killed_leaves_states_that_the_next_call_mends(vms: Vms) -> None:
    moments = random.Random(1)
    for number in range(6):
        removes = number % 2 == 0
        options = (*(("--rm",) if removes else ()), "--name", f"killed{number}")
        command = ("sh", "-c", "echo ready; sleep 1000")
        client = vms.start(*vms.words(*options, command=command))
        assert client.stdout
        if number < 4:
            time.sleep(moments.random() * 0.8)
        else:
            assert client.stdout.readline() == b"ready\n"
        client.kill()
        client.communicate()
    # Whatever had begun goes on by itself; whatever had not is not there.
    ids = {one["name"]: one["state"]["status"] for one in vms.list() if one["name"] != "shared"}
    assert {"killed4", "killed5"} <= ids.keys()
    for name in ids:
        vms.until(name, lambda state: state["status"] == "running")
    assert vms.do("kill", *ids).status == 0
    for name in ids:
        vms.do("wait", name)
    left = {one["name"] for one in vms.list()} - {"shared"}
    assert left == {name for name in ids if int(name[-1]) % 2}
    if left:
        assert vms.do("rm", *left).status == 0
    assert_gone_but(vms)


def test_a_supervisor_serves_whatever_it_is_asked(vms: Vms, shared: str) -> None:
    directory = vms.directory / vms.inspect(shared)["id"]
    assert (directory / "socket").stat().st_mode & 0o777 == 0o600
    place = os.open(directory, os.O_RDONLY)
    junk = [
        b"\n", b"{}\n", b"[]\n", b"", b'{"do": "nothing"}\n', b'{"do":"stop', b"x" * (5 << 20),
        b'{"do":"attach"}\n' + b"\xff" * 8, b'{"do":"kill","signal":1e99}\n',
        b'{"do":"kill","signal":-1}\n', b'{"do":"exec"}\n', b'{"do":"exec","args":[]}\n',
        b'{"do":"exec","args":["x"],"terminal":[-1,1e9]}\n', b'{"do":"exec","args":[1]}\n',
        b'{"do":"attach"}\n\0\0\0\5\0\0\0\1x',
    ]  # fmt: skip
    for raw in junk:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"/proc/self/fd/{place}/socket")
            with suppress(ConnectionError):
                sock.sendall(raw)
    os.close(place)
    assert vms.state(shared)["status"] == "running"
    assert vms.do("kill", "-s", "USR1", shared).status == 0


def test_a_supervisor_that_is_asked_to_end_stops_its_vm(vms: Vms) -> None:
    script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done"
    options = ("-d", "--name", "asked", "--restart", "always")
    assert vms.run(*options, command=("sh", "-c", script)).status == 0
    while b"ready" not in vms.do("logs", "asked").stdout:
        time.sleep(0.05)
    kill(vms.state("asked")["pid"], signal.SIGTERM)
    state = vms.until("asked", lambda state: state["status"] == "exited")
    assert (state["exit_status"], state["restarts"]) == (6, 0)
    assert vms.do("rm", "asked").status == 0


def test_of_twenty_that_want_a_name_one_gets_it(vms: Vms) -> None:
    def start(_: int) -> int:
        return vms.run("-d", "--name", "wanted", command=("sleep", "1000")).status

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(start, range(20))) == [0] + [125] * 19
    assert vms.do("rm", "-f", "wanted").status == 0
    assert_gone_but(vms)


def test_twenty_at_once(vms: Vms) -> None:
    wanted = {f"many{number}" for number in range(20)}

    def start(name: str) -> int:
        return vms.run("-d", "--name", name, command=("sleep", "1000")).status

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(start, wanted)) == [0] * 20
    names = {one["name"] for one in vms.list() if one["state"]["status"] == "running"}
    assert names - {"shared"} == wanted
    assert vms.do("stop", "-t", "0", *sorted(wanted)).status == 0
    ended = {one["name"]: one["state"]["status"] for one in vms.list() if one["name"] != "shared"}
    assert ended == dict.fromkeys(wanted, "exited")
    assert vms.do("rm", *sorted(wanted)).status == 0
    assert_gone_but(vms)


def test_at_the_end_nothing_is_left(vms: Vms, shared: str) -> None:
    assert vms.do("rm", "-f", shared).stdout == f"{shared}\n".encode()
    vms.remove_all()
    assert_gone(vms)
