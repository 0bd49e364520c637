"""`hyperbuild boot --smoke` on real images: what holds, and failures that are made to happen."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import RunCli
from tests.support.debian import PAGE_TITLE
from tests.support.images import image
from tests.support.layers import f, layer, layout

if TYPE_CHECKING:
    from collections.abc import Callable

    Smoke = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("kernel")]


@pytest.fixture
def nginx(nginx_layout: Path) -> str:
    return f"oci:{nginx_layout}"


@pytest.fixture
def busybox(test_cache: Path) -> str:
    return f"oci:{image('busybox', test_cache)}"


@pytest.fixture
def smoke(run_cli: RunCli, tmp_path: Path) -> Smoke:
    """Give a function that runs a smoke test, for 60 s at most unless told."""

    def run(*args: str | Path, **more: Path) -> subprocess.CompletedProcess[str]:
        log = ("--console-log", tmp_path / "said.log")
        return run_cli("boot", "--smoke", "--timeout", "60", *log, *args, timeout=200, **more)

    return run


def reason(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """Return the error of a test that failed: one line, and its status."""
    assert done.returncode == status, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr
    return line


def xml_of(report: Path) -> ET.Element:
    return ET.parse(report).getroot()  # noqa: S314 - our own


def test_nginx_holds_and_every_report_says_so(smoke: Smoke, nginx: str, tmp_path: Path) -> None:
    reports = [tmp_path / f"smoke.{kind}" for kind in ("xml", "json", "html")]
    done = smoke(
        *("--expect-http", f"/~<title>{PAGE_TITLE}"),
        *("--expect-port", "80", "--expect-log", '"GET / HTTP/1.1" 200'),
        *("--health-cmd", "curl -fs http://localhost/", "--budget", "app_exec=60s"),
        *(word for report in reports for word in ("--report", report)),
        nginx,
    )
    assert done.returncode == 0, done.stderr
    assert "smoke test held: healthy after " in done.stderr
    names = ["healthy", "port 80", f"http :80/~<title>{PAGE_TITLE}", 'log "GET / HTTP/1.1" 200']
    (suite,) = xml_of(reports[0])
    assert suite.attrib | {"tests": "5", "failures": "0", "name": nginx} == suite.attrib
    cases = [case.attrib["name"] for case in suite.iter("testcase")]
    assert cases == [*names, "budget app_exec=60000ms"]
    assert suite.find(".//failure") is None
    document = json.loads(reports[1].read_text())
    smoke_part = document["smoke"]
    assert (smoke_part["held"], smoke_part["reason"], smoke_part["log"]) == (True, "", None)
    assert [entry["name"] for entry in smoke_part["expectations"]] == names
    assert "port 80" in [step["name"] for step in document["steps"]]
    assert "The smoke test held." in reports[2].read_text()


def test_the_image_s_own_contract(smoke: Smoke, nginx: str, busybox: str) -> None:
    exposed = smoke(nginx)
    assert exposed.returncode == 0, exposed.stderr
    assert "smoke test held: port 80 after" in exposed.stderr
    exposes_nothing = smoke(busybox)
    assert exposes_nothing.returncode == 0, exposes_nothing.stderr
    assert "listens or exits with 0" in exposes_nothing.stderr
    ends = smoke(busybox, "echo", "done")
    assert ends.returncode == 0, ends.stderr
    assert ends.stdout == "done\n"
    assert "exit 0: " not in ends.stderr
    stays = smoke(busybox, "--timeout", "5", "sleep", "100")
    assert "neither listened on a port nor ended within 5 s" in reason(stays)


def test_a_failure_has_its_log_and_its_case(smoke: Smoke, nginx: str, tmp_path: Path) -> None:
    log, report, page = tmp_path / "why.log", tmp_path / "why.xml", tmp_path / "why.html"
    done = smoke(
        *("--expect-http", "/", "--expect-http", "/nope", "--budget", "init=1ms"),
        *("--console-log", log, "--report", report, "--report", page, nginx),
    )
    text = "http :80/nope: the answer has status 404, not one below 400; correct the service"
    assert reason(done).startswith(f"Error: {nginx}: {text}")
    assert reason(done).endswith(f"(console and output: {log})")
    lines = log.read_text().splitlines()
    assert lines[0].startswith(text)
    assert '"GET /nope HTTP/1.1" 404' in log.read_text()
    cases = {case.attrib["name"]: case for case in xml_of(report).iter("testcase")}
    assert list(cases) == ["http :80/", "http :80/nope", "budget init=1ms"]
    failed = cases["http :80/nope"].find("failure")
    assert failed is not None
    assert failed.attrib["message"].startswith("the answer has status 404")
    late = cases["budget init=1ms"].find("failure")
    assert late is not None
    assert "over budget: init came after" in late.attrib["message"]
    said = xml_of(report).find(".//system-out")
    assert said is not None
    assert '"GET /nope HTTP/1.1" 404' in (said.text or "")
    assert text in page.read_text()


def test_a_failure_without_a_place_for_its_log_names_one(run_cli: RunCli, busybox: str) -> None:
    options = ("--smoke", "--expect-exit", "0", busybox)
    line = reason(run_cli("boot", *options, "sh", "-c", "echo what; exit 3"))
    assert "exit 0: the application ended with status 3, its last words: what; " in line
    path = Path(line.rpartition("(console and output: ")[2].removesuffix(")"))
    assert path.read_text().startswith("exit 0: the application ended with status 3")
    # What an application says may be nobody's business.
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.unlink()


#: A static ELF program's head, of the machine EM_AARCH64 (183).
FOREIGN = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 183, 1, 0, 64, 0, 0,
                      64, 56, 0, 64, 0, 0) + bytes(64)  # fmt: skip


def test_a_program_of_another_machine_is_seen_before_and_in_the_guest(
    smoke: Smoke, tmp_path: Path
) -> None:
    files = layer(f("app", FOREIGN, mode=0o755), f("bad", FOREIGN, mode=0o755))
    source = f"oci:{layout(tmp_path / 'foreign', files, config={'Cmd': ['/app']})}"
    assert "/app is for EM_AARCH64, not for amd64; correct the image" in reason(smoke(source))
    line = reason(smoke(source, "/bad"))
    assert 'exec "/bad": Exec format error (it is of another architecture' in line
    assert "--platform" in line


#: What a shell of the nginx image is told to do -> what is said of it.
FAILURES = {
    "rm /lib/x86_64-linux-gnu/libselinux.so.1; exec /bin/ls": "the library libselinux.so.1 is miss",
    "rm /lib64/ld-linux-x86-64.so.2; exec /bin/ls": "is there, its interpreter or ELF loader is",
    "exec nosuch": "did not find a command (status 127), its last words: sh: 1: exec: nosuch",
    "exec /etc/passwd": "could not execute a command (status 126)",
    "kill -SEGV $$": "the application died by SIGSEGV (11)",
    "head -c 400000000 /dev/zero > /big": "the guest has no space left: head: error writing",
    "exec perl -e 'push @a, qq(x) x 100000 while 1'": "ran out of memory and killed perl; give it",
    "mount -o bind / /mnt; mount -o remount,bind,ro /mnt; touch /mnt/x": "can't write there: touch",
}


@pytest.mark.parametrize("script", FAILURES)
def test_failures_made_to_happen_are_recognised(script: str, smoke: Smoke, nginx: str) -> None:
    done = smoke("--expect-exit", "0", "-m", "96M", nginx, "sh", "-c", script)
    assert FAILURES[script] in reason(done)


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ("initramfs.cpio", "the guest's kernel panicked: VFS: Unable to mount root fs"),
        ("rootfs.erofs", "the root file system is damaged, or the kernel can't read it"),
    ],
)
def test_a_machine_that_cannot_start(
    piece: str, said: str, smoke: Smoke, run_cli: RunCli, busybox: str, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert run_cli("convert", busybox, "-o", out).returncode == 0
    path = out / piece
    with path.open("r+b") as file:
        file.write(bytes(min(1 << 16, path.stat().st_size)))
    assert said in reason(smoke(out))


def test_what_listens_on_the_loopback_alone_is_told_so(smoke: Smoke, busybox: str) -> None:
    options = ("--timeout", "6", "--expect-port", "80", busybox)
    done = smoke(*options, "httpd", "-f", "-p", "127.0.0.1:80")
    assert "port 80: it is open inside the guest alone (on 127.0.0.1)" in reason(done)


def test_a_copy_is_tested_as_a_cold_vm_is(
    smoke: Smoke, run_cli: RunCli, nginx: str, tmp_path: Path
) -> None:
    check = ("--health-cmd", "curl -fs http://localhost/")
    made = []
    try:
        for when in ("exec", "listening", "healthy"):
            done = run_cli("warm", "--when", when, *check, nginx)
            assert done.returncode == 0, done.stderr
            made.append(Path(done.stdout.strip()))
            held = smoke("--require-warm", *check, "--expect-http", "/", nginx)
            assert held.returncode == 0, held.stderr
            assert "smoke test held: healthy after" in held.stderr
            made.pop().unlink()
    finally:
        for path in made:
            path.unlink()


@pytest.mark.parametrize(
    ("status", "args", "said"),
    [
        (2, ("--expect-log", "("), "regular expression '(' is none"),
        (2, ("--expect-http", "x"), "is not [:PORT]/PATH[=STATUS][~REGEX]"),
        (2, ("--expect-exit", "0", "--expect-http", "/"), "can't be asked for http as well"),
        (2, ("--expect-exit", "0", "--health-cmd", "true"), "can't be asked for a health check"),
        (1, ("--network", "none", "--expect-http", "/"), "an http expectation needs a network"),
        (2, ("--budget", "insns=1M", "--warm"), "a copy has no instructions to count"),
        (2, ("--report", "x.txt"), "name a file that ends in .json, .html or .xml"),
        (1, ("--console-log", "/no/such/place", "false"), "/no/such is not there"),
    ],
)
def test_contracts_that_cannot_be(
    status: int, args: tuple[str, ...], said: str, smoke: Smoke, busybox: str, tmp_path: Path
) -> None:
    line = reason(smoke(busybox, *args, cwd=tmp_path), status)
    assert said in line
    assert "console and output" not in line
    assert not list(tmp_path.glob("*.xml"))


def test_no_log_or_report_replaces_what_is_no_file(
    smoke: Smoke, busybox: str, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for status, option in ((1, "--console-log"), (2, "--report")):
        assert "is no regular file" in reason(smoke(busybox, option, pipe, "false"), status)
        assert pipe.is_fifo()


def test_what_is_not_there_has_a_report_too(smoke: Smoke, tmp_path: Path) -> None:
    report = tmp_path / "none.xml"
    line = reason(smoke("--report", report, tmp_path / "none"))
    assert "no bundle in" in line
    (case,) = xml_of(report).iter("testcase")
    assert case.attrib["name"] == "boot"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--expect-http", "/"), "--expect-http is for smoke tests; add --smoke"),
        (("--expect-exit", "0"), "--expect-exit is for smoke tests"),
        (("--console-log", "x"), "--console-log is for smoke tests"),
        (("--report", "x.xml"), "a report in .xml is for smoke tests"),
    ],
)
def test_expectations_without_a_smoke_test(
    args: tuple[str, ...], said: str, run_cli: RunCli, busybox: str
) -> None:
    done = run_cli("boot", *args, busybox)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {said}")
