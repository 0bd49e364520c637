"""Pods: several containers in one VM, started in their order, kept and stopped."""

from __future__ import annotations

import json
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from tests.support.images import image
from tests.support.registry import free_port
from tests.support.vms import HANG, Vms, children, kill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import RunCli

pytestmark = pytest.mark.boot

READY = "trap 'exit 0' TERM"
SLEEP = f"{READY}; while :; do sleep 0.1; done"
LEFT = "sh -c 'while sleep 1; do :; done # left behind' &"
HELLO = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture(scope="module")
def vms(busybox_vms: Vms) -> Vms:
    """Give VMs of busybox."""
    return busybox_vms


def container(vms: Vms, name: str, script: str, *more: str) -> str:
    """Return the table of a container that runs a shell's script."""
    lines = (f'name = "{name}"', f'image = "{vms.bundle}"', f'cmd = ["sh", "-c", """{script}"""]')
    return "\n".join(("[[container]]", *lines, *more, ""))


def write(tmp_path: Path, *parts: str) -> Path:
    """Write a pod's file called pod.toml."""
    path = tmp_path / "pod.toml"
    path.write_text("\n".join(('memory = "96M"', *parts)))
    return path


def containers(vms: Vms, name: str) -> dict[str, dict[str, Any]]:
    """Return the states of a pod's containers by their names."""
    return {one["name"]: one for one in vms.state(name)["containers"]}


def until(vms: Vms, name: str, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
    """Wait for the states of a pod's containers."""
    deadline = time.monotonic() + HANG
    while not holds(states := containers(vms, name)):
        assert time.monotonic() < deadline, states
        time.sleep(0.05)


def test_a_pod_day_in_day_out(vms: Vms, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/note").write_text("of the host\n")
    pod = write(
        tmp_path,
        container(
            vms, "web", f"echo web starts; cat /run/pod/state; {SLEEP}",
            'after = { setup = "completed", db = "healthy" }', 'shared = { run = "/run/pod" }',
        ),
        container(
            vms, "db", f"echo db starts >&2; sleep 0.5; touch /tmp/up; {SLEEP}",
            'health-cmd = "test -e /tmp/up"', 'env = { ROLE = "db" }', 'user = "7:8"',
            'tmpfs = ["/tmp"]',
        ),
        container(
            vms, "setup", "hostname > /run/pod/state; echo done",
            'shared = { run = "/run/pod" }', "read-only = true", 'tmpfs = ["/tmp"]',
        ),
    )  # fmt: skip
    done = vms.do("pod", "-d", "--name", "day", pod)
    assert done.status == 0, done.stderr
    assert "pod ready after" in done.stderr
    states = containers(vms, "day")
    assert {name: one["status"] for name, one in states.items()} == {
        "web": "running", "db": "running", "setup": "exited",
    }  # fmt: skip
    assert states["db"]["health"] == "healthy"
    assert states["web"]["started"] > states["setup"]["finished"] > states["setup"]["started"]
    assert vms.inspect("day")["containers"][1]["name"] == "db"
    assert b"2 of 3 run" in vms.do("list").stdout
    shown = vms.do("inspect", "day").stdout.decode()
    assert "Exited (0)" in shown
    assert "(healthy)" in shown

    # Each has its own files, user and variables; the host's name and the network are the pod's.
    where = ("exec", "-c", "db", "day")
    assert vms.do(*where, "sh", "-c", "id -u; id -g; echo $ROLE").stdout == b"7\n8\ndb\n"
    assert vms.do("exec", "day", "sh", "-c", "id -u; echo $ROLE").stdout == b"0\n\n"
    assert vms.do("exec", "-c", "db", "-u", "0", "day", "id", "-u").stdout == b"0\n"
    assert vms.do("exec", "day", "test", "-e", "/tmp/up").status == 1
    name = vms.do("exec", "day", "hostname").stdout
    assert vms.do("exec", "day", "cat", "/run/pod/state").stdout == name
    assert vms.do("exec", "-it", "-c", "db", "day", "tty").status == 1  # stdin is no terminal
    done = vms.do("exec", "-c", "cache", "day", "true")
    assert (done.status, done.stderr) == (
        1, "Error: the VM has no container cache; there are web, db, setup\n",
    )  # fmt: skip
    vms.do("cp", "-c", "db", tmp_path / "site/note", "day:/tmp/note")
    assert vms.do("cp", "-c", "db", "day:/tmp/note", "-").stdout.count(b"of the host") == 1
    assert vms.do("exec", "day", "test", "-e", "/tmp/note").status == 1

    done = vms.do("logs", "day")
    assert b"web   | web starts\n" in done.stdout
    assert b"web   | " + name in done.stdout
    assert b"setup | done\n" in done.stdout
    assert done.stderr == "db    | db starts\n"
    assert vms.do("logs", "-c", "web", "-n", "1", "day").stdout == name
    assert vms.do("logs", "-c", "db", "day").stderr == "db starts\n"
    assert "no container x; there are" in vms.do("logs", "-c", "x", "day").stderr

    done = vms.do("stop", "day")
    assert done.status == 0, done.stderr
    state = vms.state("day")
    assert (state["status"], state["exit_status"], state["reason"]) == ("exited", 0, "")
    ended = containers(vms, "day")
    assert ended["web"]["finished"] <= ended["db"]["finished"], "who needs others stops first"
    assert vms.do("rm", "day").status == 0


def test_restarts_and_exit_statuses(vms: Vms, tmp_path: Path) -> None:
    pod = write(
        tmp_path,
        'restart = "on-failure:2"',
        container(vms, "tries", "echo try; exit 3"),
        container(
            vms,
            "serves",
            f"echo $$ > /tmp/pid; {LEFT} {SLEEP}",
            'restart = "always"',
            'tmpfs = ["/tmp"]',
        ),
    )
    assert vms.do("pod", "-d", pod).status == 0
    until(vms, "pod", lambda states: states["tries"]["status"] == "exited")
    tries = containers(vms, "pod")["tries"]
    assert (tries["exit_status"], tries["restarts"]) == (3, 2)
    assert vms.do("logs", "-c", "tries", "pod").stdout == b"try\n" * 3

    # What a container leaves behind is gone before it starts again.
    pid = vms.do("exec", "-c", "serves", "pod", "cat", "/tmp/pid").stdout.decode().strip()
    vms.do("exec", "-c", "serves", "pod", "kill", "-9", pid)
    until(vms, "pod", lambda states: states["serves"]["restarts"] == 1)
    until(vms, "pod", lambda states: states["serves"]["status"] == "running")
    done = vms.do("exec", "pod", "sh", "-c", "ps | grep -c '[l]eft behind'")
    assert done.stdout == b"2\n", "the script of the container, and what it has started"

    # Who is killed by its user stays dead; the pod has the first status that is not 0.
    assert vms.do("kill", "-c", "serves", "pod").status == 0
    state = vms.until("pod", lambda state: state["status"] == "exited")
    assert (state["exit_status"], state["reason"]) == (3, "")
    assert containers(vms, "pod")["serves"]["exit_status"] == 137
    assert vms.do("wait", "pod").stdout == b"3\n"
    assert vms.do("rm", "pod").status == 0


def test_in_the_foreground_lines_are_labelled(vms: Vms, tmp_path: Path) -> None:
    pod = write(
        tmp_path,
        container(vms, "one", "echo from one; printf unfinished"),
        container(vms, "other", "echo to stderr >&2; exit 5", 'after = { one = "completed" }'),
    )
    done = vms.do("pod", "--rm", "--name", "front", pod)
    assert (done.status, done.stdout) == (5, b"one   | from one\none   | unfinished\n")
    assert "other | to stderr\n" in done.stderr
    assert all(one["name"] != "front" for one in vms.list())


def test_ctrl_c_stops_it(vms: Vms, tmp_path: Path) -> None:
    pod = write(tmp_path, container(vms, "one", f"{READY}; echo up; {SLEEP}"))
    with vms.start("pod", "--name", "here", pod) as client:
        assert client.stdout
        assert client.stdout.readline() == b"one | up\n"
        client.send_signal(2)
        assert client.wait(HANG) == 0
    assert vms.state("here")["exit_status"] == 0
    vms.do("rm", "here")


def test_ports_are_the_pods(vms: Vms, tmp_path: Path) -> None:
    port = free_port()
    pod = write(
        tmp_path,
        f'ports = ["127.0.0.1:{port}:80"]',
        container(vms, "web", HELLO),
        container(
            vms, "asks", f"until wget -q -O - http://127.0.0.1/; do sleep 0.1; done; {SLEEP}"
        ),
    )
    assert vms.do("pod", "-d", "--name", "ports", pod).status == 0
    deadline, answer = time.monotonic() + HANG, b""
    while b"hello" not in answer:
        assert time.monotonic() < deadline
        try:
            with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
                answer = response.read()
        except (OSError, HTTPException):
            time.sleep(0.1)
    while b"hello" not in vms.do("logs", "-c", "asks", "ports").stdout:
        assert time.monotonic() < deadline
    assert vms.do("rm", "-f", "ports").status == 0


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ('shared = { s = "/" }', 1, "container one: shared s: the root can't be mounted over"),
        ('health-cmd = ""', 1, "container one: health-cmd is empty"),
        ('user = "nobody-there"', 1, "container one: -u nobody-there: "),
        ('volumes = ["./none:/x"]', 125, "none is not there; make it first"),
        ('volumes = ["/x"]\nshared = { s = "/x" }', 1, "container one: /x is mounted twice"),
    ],
)
def test_what_cannot_be(vms: Vms, tmp_path: Path, line: str, status: int, told: str) -> None:
    before = vms.list()
    pod = write(tmp_path, container(vms, "one", "true", line))
    done = vms.do("pod", "-d", "--name", "never", pod)
    assert done.status == status, done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert vms.list() == before


def test_one_that_cannot_be_started_fails_the_pod(vms: Vms, tmp_path: Path) -> None:
    good = container(vms, "good", f"echo up; {SLEEP}")
    bad = f'[[container]]\nname = "bad"\nimage = "{vms.bundle}"\ncmd = ["/no/such"]\n'
    done = vms.do("pod", "-d", "--name", "bad", write(tmp_path, good, bad))
    assert done.status == 127
    assert done.stderr.splitlines()[-1] == (
        'Error: pod bad: container bad: exec "/no/such": no such file in the image; '
        "see hyperbuild logs bad"
    )
    assert vms.state("bad")["exit_status"] == 127
    vms.do("rm", "bad")

    waits = container(vms, "waits", "true", 'after = { good = "completed" }')
    fails = container(vms, "good", "echo trouble >&2; exit 9")
    done = vms.do("pod", "-d", "--name", "vain", write(tmp_path, fails, waits))
    assert done.status == 125
    assert "container waits waits in vain: good ended with 9" in done.stderr
    assert vms.do("logs", "vain").stderr == "good  | trouble\n"
    vms.do("rm", "vain")


def test_an_unhealthy_container_is_waited_for_in_vain(vms: Vms, tmp_path: Path) -> None:
    check = 'healthcheck = { test = ["CMD", "false"], interval = "100ms", retries = 2 }'
    pod = write(
        tmp_path,
        container(vms, "sick", SLEEP, check),
        container(vms, "waits", "true", 'after = { sick = "healthy" }'),
    )
    done = vms.do("pod", "-d", "--rm", "--name", "sick", pod)
    assert (done.status, done.stderr.splitlines()[-1]) == (
        125, "Error: pod sick: container waits waits in vain: sick is unhealthy",
    )  # fmt: skip


def test_a_killed_hypervisor_is_told(vms: Vms, tmp_path: Path) -> None:
    pod = write(tmp_path, container(vms, "one", SLEEP))
    assert vms.do("pod", "-d", "--name", "gone", pod).status == 0
    pid = vms.state("gone")["pid"]
    for child in children(pid):
        kill(child)
    state = vms.until("gone", lambda state: state["status"] == "exited")
    assert "the VM ended" in state["reason"]
    assert containers(vms, "gone")["one"]["reason"] == "the VM ended"
    vms.do("rm", "gone")


def test_states_are_true_when_the_supervisor_was_killed(vms: Vms, tmp_path: Path) -> None:
    pod = write(
        tmp_path,
        container(vms, "one", SLEEP),
        container(vms, "done", "exit 4"),
    )
    assert vms.do("pod", "-d", "--name", "lost", pod).status == 0
    until(vms, "lost", lambda states: states["done"]["status"] == "exited")
    kill(vms.state("lost")["pid"])
    vms.until("lost", lambda state: state["status"] == "exited")
    states = containers(vms, "lost")
    assert (states["one"]["status"], states["one"]["exit_status"]) == ("exited", 137)
    assert (states["done"]["exit_status"], states["done"]["reason"]) == (4, "")
    vms.do("rm", "lost")


KUBERNETES = """
apiVersion: v1
kind: Pod
metadata: {{name: kube}}
spec:
  restartPolicy: Never
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: site, hostPath: {{path: {site}}}}}
  - {{name: kept, persistentVolumeClaim: {{claimName: kept}}}}
  initContainers:
  - name: first
    image: {image}
    command: [sh, -c, "cp /site/note /shared/note; echo kept > /kept/file"]
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: site, mountPath: /site, readOnly: true}}
    - {{name: kept, mountPath: /kept}}
  containers:
  - name: reads
    image: {image}
    command: [sh, -c, "cat /shared/note; cat /kept/file; touch /kept/x || exit 6"]
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: kept, mountPath: /kept, readOnly: true}}
"""


def test_a_kubernetes_pod_with_images_mapped(
    run_cli: RunCli, kernel: Path, test_cache: Path, tmp_path: Path
) -> None:
    """Both images are pmem devices; a volume of two containers is one disk."""
    assert kernel
    (tmp_path / "site").mkdir()
    (tmp_path / "site/note").write_text("of the host\n")
    image_name = f"oci:{image('busybox', test_cache)}"
    pod = tmp_path / "kube.yaml"
    pod.write_text(KUBERNETES.format(site=tmp_path / "site", image=image_name))
    done = run_cli("pod", pod)
    assert (done.returncode, done.stdout) == (6, "reads | of the host\nreads | kept\n"), done.stderr
    assert "DAX" not in done.stderr
    assert "Read-only file system" in done.stderr
    state = json.loads(run_cli("inspect", "--type", "vm", "--json", "kube").stdout)["state"]
    assert [one["exit_status"] for one in state["containers"]] == [6, 0]
