"""exec and cp: commands and files of a VM that runs, and terminals."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pty
import random
import signal
import struct
import subprocess
import tarfile
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.vms import HANG, KILLED, Vms, kill

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.boot

SCRIPT = "mkdir -p /tmp; echo 'app:x:7:8::/:/bin/sh' > /etc/passwd; echo ready; exec sleep 100000"


@pytest.fixture(scope="module")
def vms(busybox_vms: Vms) -> Vms:
    """Give VMs of busybox, one of which, called vm, runs."""
    command = ("sh", "-c", SCRIPT)
    done = busybox_vms.run("-d", "--name", "vm", "-e", "FROM=app", command=command)
    assert done.status == 0, done.stderr
    deadline = time.monotonic() + HANG
    while b"ready" not in busybox_vms.do("logs", "vm").stdout:
        assert time.monotonic() < deadline
    return busybox_vms


def test_streams_and_status_are_the_commands(vms: Vms) -> None:
    done = vms.do("exec", "vm", "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.status, done.stdout, done.stderr) == (9, b"out\n", "err\n")
    # Without -i there is nothing to read.
    assert vms.do("exec", "vm", "cat", stdin=b"not for it").stdout == b""


def test_dashes_may_stand_before_the_command(vms: Vms) -> None:
    assert vms.do("exec", "vm", "--", "echo", "--", "-n").stdout == b"-- -n\n"
    assert vms.do("exec", "--", "vm", "--", "echo", "on").stdout == b"on\n"
    for words in (("exec", "vm", "--"), ("exec", "vm")):
        done = vms.do(*words)
        assert done.status == 2
        assert "Missing argument 'CMD...'" in done.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 124, 125, 126, 127, 128, 254, 255])
def test_every_status_arrives(vms: Vms, status: int) -> None:
    assert vms.do("exec", "vm", "sh", "-c", f"exit {status}").status == status


@pytest.mark.parametrize(
    ("command", "status"),
    [(("nope",), 127), (("/no/such",), 127), (("/www/index.html",), 126), (("/bin",), 126)],
)
def test_what_cannot_be_executed(vms: Vms, command: tuple[str, ...], status: int) -> None:
    done = vms.do("exec", "vm", *command)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (status, b"", 1)
    assert done.stderr.startswith("Error: ")


def test_user_directory_and_variables(vms: Vms) -> None:
    script = "id -u; id -g; pwd; echo $FROM $A"
    words = ("-u", "app", "-w", "/www", "-e", "A=b", "vm", "sh", "-c", script)
    assert vms.do("exec", *words).stdout == b"7\n8\n/www\napp b\n"
    assert vms.do("exec", "-u", "5:6", "vm", "id").stdout == b"uid=5 gid=6\n"
    done = vms.do("exec", "-u", "nobody-of-them", "vm", "id")
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert "nobody-of-them" in done.stderr
    assert vms.do("exec", "-w", "relative", "vm", "id").stderr.startswith("Error: -w relative")


def test_input_of_many_megabytes_arrives_byte_for_byte(vms: Vms) -> None:
    data = random.Random(3).randbytes(8_000_000)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert vms.do("exec", "-i", "vm", "md5sum", stdin=data).stdout == f"{digest}  -\n".encode()
    assert vms.do("exec", "-i", "vm", "cat", stdin=data[:2_000_000]).stdout == data[:2_000_000]


def test_input_that_is_closed_halfway(vms: Vms) -> None:
    # By the command: what it does not read is dropped, and it ends as it likes.
    data = bytes(3_000_000)
    done = vms.do("exec", "-i", "vm", "sh", "-c", "head -c 10 | wc -c; exit 4", stdin=data)
    assert (done.status, done.stdout) == (4, b"10\n")
    done = vms.do("exec", "-i", "vm", "sh", "-c", "exec 0<&-; sleep 0.2; echo on", stdin=data)
    assert (done.status, done.stdout) == (0, b"on\n")
    # By us: it reads what there was, and the end.
    with vms.start("exec", "-i", "vm", "wc", "-c", stdin=subprocess.PIPE) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"half")
        client.stdin.close()
        assert client.stdout.read() == b"4\n"


def test_signals_are_passed_on(vms: Vms) -> None:
    script = "trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    with vms.start("exec", "vm", "sh", "-c", script) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGINT)
        assert client.stdout.read() == b"int\n"
        assert client.wait(HANG) == 5
    assert vms.do("exec", "vm", "sh", "-c", "kill -9 $$").status == 137


def test_a_client_that_is_killed_takes_its_command_along(vms: Vms) -> None:
    with vms.start("exec", "vm", "sh", "-c", "echo ready; exec sleep 4321") as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        client.kill()
    deadline = time.monotonic() + HANG
    while b"4321" in vms.do("exec", "vm", "ps").stdout:
        assert time.monotonic() < deadline
    # One that was detached stays.
    assert vms.do("exec", "-d", "vm", "sleep", "1234").status == 0
    assert b"sleep 1234" in vms.do("exec", "vm", "ps").stdout


def test_a_slow_reader_holds_up_nobody_else(vms: Vms) -> None:
    with vms.start("exec", "vm", "sh", "-c", "yes | head -c 3000000") as slow:
        time.sleep(0.5)
        assert vms.do("exec", "vm", "echo", "there").stdout == b"there\n"
        assert slow.stdout
        assert len(slow.stdout.read()) == 3_000_000
        assert slow.wait(HANG) == 0


def test_a_terminal_has_a_size_that_follows(vms: Vms) -> None:
    script = (
        "stty size; tty; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.1; done"
    )
    master, slave = pty.openpty()
    resize(slave, 33, 77)
    with vms.start("exec", "-it", "vm", "sh", "-c", script, **on_terminal(slave)) as client:
        text = read_until(master, b"ready\r\n")
        assert b"33 77\r\n/dev/pts/" in text
        assert not termios.tcgetattr(slave)[3] & termios.ECHO
        resize(slave, 44, 88)
        client.send_signal(signal.SIGWINCH)
        assert b"44 88\r\n" in read_until(master, b"44 88\r\n")
        assert client.wait(HANG) == 3
    # As it was.
    assert termios.tcgetattr(slave)[3] & termios.ECHO
    os.close(master)
    os.close(slave)


def test_keys_go_through_a_terminal(vms: Vms) -> None:
    master, slave = pty.openpty()
    with vms.start(*vms.words("-it", "--rm", command=("sh",)), **on_terminal(slave)) as client:
        read_until(master, b"# ")
        os.write(master, b"sleep 1000\n")
        read_until(master, b"\r\n")
        time.sleep(0.5)
        # Ctrl-C is a key, and a signal there alone.
        os.write(master, b"\x03")
        read_until(master, b"# ")
        os.write(master, b"echo $?$((1+1)); exit 6\n")
        assert b"1302" in read_until(master, b"1302\r\n")
        assert client.wait(HANG) == 6
    os.close(master)
    os.close(slave)


def on_terminal(slave: int) -> dict[str, Any]:
    return {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}


def test_a_terminal_is_asked_of_who_has_one(vms: Vms) -> None:
    for words in (["exec", "-it", "vm", "true"], vms.words("-it")):
        done = vms.do(*words)
        assert done.status in (1, 2)
        assert done.stderr.startswith("Error: -t with -i needs a terminal as stdin")
    # Without -i it has one of its own.
    assert vms.do("exec", "-t", "vm", "tty").stdout.startswith(b"/dev/pts/")


def resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(fd: int, wanted: bytes) -> bytes:
    text = b""
    while wanted not in text:
        text += os.read(fd, 4096)
    return text


def test_no_exec_without_a_vm_that_runs(vms: Vms) -> None:
    done = vms.do("exec", "nope", "true")
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert vms.run("-d", "--name", "ended", command=("true",)).status == 0
    vms.until("ended", lambda state: state["status"] == "exited")
    for words in (
        ("exec", "ended", "true"),
        ("cp", "ended:/etc", "-"),
        ("cp", "/etc/hostname", "ended:/etc"),
    ):
        done = vms.do(*words)
        assert done.status == 1
        assert done.stderr.startswith("Error: VM ended is not running; ")
    assert vms.do("rm", "ended").status == 0


def test_a_command_ends_with_its_vm(vms: Vms) -> None:
    command = ("sh", "-c", "echo ready; sleep 1000")
    assert vms.run("-d", "--name", "short", command=("sleep", "1000")).status == 0
    with vms.start("exec", "short", *command) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        assert vms.do("stop", "-t", "0", "short").status == 0
        assert client.wait(HANG) == 137
    assert vms.do("rm", "short").status == 0


def test_a_command_whose_supervisor_is_killed_is_killed(vms: Vms) -> None:
    assert vms.run("-d", "--name", "gone", command=("sleep", "1000")).status == 0
    with vms.start("exec", "gone", "sh", "-c", "echo ready; sleep 1000") as client:
        assert client.stdout
        assert client.stderr
        assert client.stdout.readline() == b"ready\n"
        kill(vms.state("gone")["pid"])
        assert client.wait(HANG) == 137
        assert client.stderr.read() == KILLED
    assert vms.do("rm", "gone").status == 0


def test_files_go_both_ways_without_a_tar_in_the_image(vms: Vms, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    content = random.Random(4).randbytes(2_000_000)
    (tree / "deep/file").write_bytes(content)
    (tree / "deep/file").chmod(0o640)
    os.utime(tree / "deep/file", (1_600_000_000, 1_600_000_000))
    (tree / "link").symlink_to("deep/file")
    (tree / ("n" * 150)).write_text("long name")
    assert vms.do("cp", tree, "vm:/tmp").status == 0
    stat = vms.do("exec", "vm", "stat", "-c", "%a %u %Y %s", "/tmp/tree/deep/file").stdout
    assert stat == b"640 0 1600000000 2000000\n"
    back = tmp_path / "back"
    back.mkdir()
    assert vms.do("cp", "vm:/tmp/tree", back).status == 0
    assert same(tree, back / "tree")
    # A name that is not there is the copy's own; DIR/. is what is in it.
    assert vms.do("cp", "vm:tmp/tree", tmp_path / "other").status == 0
    assert same(tree, tmp_path / "other")
    assert vms.do("cp", "vm:/tmp/tree/.", tmp_path / "other").status == 0
    assert vms.do("cp", f"{tree}/.", "vm:/tmp").status == 0
    assert vms.do("exec", "vm", "cat", f"/tmp/{'n' * 150}").stdout == b"long name"
    assert vms.do("cp", tree / "deep/file", "vm:/tmp/renamed").status == 0
    assert vms.do("cp", "vm:/tmp/renamed", back).status == 0
    assert (back / "renamed").read_bytes() == content
    archive = vms.do("cp", "vm:/tmp/renamed", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["renamed"]
    assert vms.do("exec", "vm", "mkdir", "/tmp/into").status == 0
    assert vms.do("cp", "-", "vm:/tmp/into", stdin=archive).status == 0
    assert vms.do("exec", "vm", "wc", "-c", "/tmp/into/renamed").stdout.split()[0] == b"2000000"


def same(one: Path, other: Path) -> bool:
    return listing(one) == listing(other)


def listing(root: Path) -> list[tuple[object, ...]]:
    return sorted(
        (
            str(path.relative_to(root)),
            oct(path.lstat().st_mode),
            path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes(),
        )
        for path in root.rglob("*")
    )


def test_the_whole_root_file_system_comes_out(vms: Vms, tmp_path: Path) -> None:
    assert vms.do("cp", "vm:/", tmp_path / "all").status == 0
    assert (tmp_path / "all/etc/passwd").read_text().startswith("app:")
    # What the kernel makes up is no content.
    assert not list((tmp_path / "all/proc").iterdir())
    assert not list((tmp_path / "all/sys").iterdir())


def test_a_copy_replaces_only_what_is_like_it(vms: Vms, tmp_path: Path) -> None:
    pipe, file, link = tmp_path / "pipe", tmp_path / "file", tmp_path / "link"
    os.mkfifo(pipe)
    file.write_text("mine")
    link.symlink_to("file")
    for words, text in (
        (("vm:/etc/passwd", pipe), "is no regular file"),
        (("vm:/etc", file), "file is there already and is no directory"),
    ):
        done = vms.do("cp", *words)
        assert (done.status, done.stderr.count("\n")) == (1, 1)
        assert text in done.stderr
    assert pipe.is_fifo()
    assert file.read_text() == "mine"
    assert vms.do("cp", "vm:/etc/passwd", link).status == 0
    assert link.is_symlink()
    assert file.read_text().startswith("app:")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("a", "b"), "neither of the two is a path in a VM"),
        (("vm:/a", "vm:/b"), "give one path of each"),
        (("vm:/no/such", "."), "archive: /no/such: No such file or directory"),
        (("vm:/etc", "no/such/place"), "is no directory to copy into"),
        (("no-such-file", "vm:/tmp"), "no-such-file is not there to be copied"),
        (("/etc/hostname", "vm:/no/such/place"), "vm:/no/such is no directory in the VM; make it"),
        (("/etc/hostname", "vm:/no/such/"), "vm:/no/such/ is no directory in the VM; make it"),
        (("-", "vm:/no/such"), "vm:/no/such is no directory in the VM; make it there first"),
        (("/etc/apt", "vm:/etc/passwd"), "is a directory, and vm:/etc/passwd is none"),
        (("vm:", "."), "vm: names no path of that VM; say vm:/ for its root"),
    ],
)
def test_what_cannot_be_copied(vms: Vms, tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    done = vms.do("cp", *words, cwd=tmp_path)
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert text in done.stderr
    assert not list(tmp_path.iterdir())
