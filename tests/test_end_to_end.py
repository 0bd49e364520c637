"""The whole pipeline as a user runs it: a real registry, a real conversion, a real boot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HYPERBUILD, RunCli
from tests.support.debian import PAGE_TITLE
from tests.support.images import image
from tests.support.layers import d, f, layer, layout
from tests.support.treelist import host_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.boot


@pytest.fixture
def ready(kernel: Path) -> None:
    """Have the HyperKernel in the cache that run_cli uses."""
    assert kernel.exists()


def check_failure(done: subprocess.CompletedProcess[str], text: str, status: int) -> None:
    assert done.returncode == status, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert text in errors[0]
    assert "Traceback" not in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, patience: float = 60) -> str:
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                return str(response.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@contextmanager
def booted(environment: dict[str, str], *args: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [HYPERBUILD, "boot", "--timeout", "120", *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                finally:
                    process.kill()


@pytest.mark.usefixtures("ready")
def test_nginx_from_a_registry_answers_http_from_its_vm(
    registry: str, run_cli: RunCli, hyperbuild_env: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = run_cli("convert", f"{registry}/nginx:latest", "-o", out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        "rootfs.erofs", "vmlinux", "initramfs.cpio", "bundle.json"
    }  # fmt: skip
    subprocess.run(["fsck.erofs", out / "rootfs.erofs"], check=True)
    report = tmp_path / "boot.json"
    port = free_port()
    arguments = ("-p", f"127.0.0.1:{port}:80", "--require-dax", "--report", report, out)
    with booted(hyperbuild_env, *arguments) as process:
        page = fetch(f"http://127.0.0.1:{port}/")
        assert f"<title>{PAGE_TITLE}</title>" in page
        (qemu,) = children_of(process.pid)
        process.terminate()
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert '"GET / HTTP/1.1" 200' in stdout
    assert "application started after" in stderr
    assert not Path(f"/proc/{qemu}").exists()
    steps = [step["name"] for step in json.loads(report.read_text())["steps"]]
    begin = ["start", "hypervisor", "machine", "kernel", "initcalls", "init"]
    assert steps == [*begin, "rootfs", "network", "app_exec", "listening", "exit"]


@pytest.mark.usefixtures("ready")
def test_boot_of_a_registry_image_converts_it_once(
    registry: str, run_cli: RunCli, hyperbuild_env: dict[str, str]
) -> None:
    name = f"{registry}/nginx:latest"
    first = run_cli("boot", name, "cat", "/etc/hostname", "--timeout", "90")
    assert first.returncode == 1  # cat has no such file: what follows IMAGE is the guest's
    again = run_cli("boot", "--hostname", "web", "--timeout", "90", name, "cat", "/etc/hostname")
    assert (again.returncode, again.stdout) == (0, "web\n")
    (stored,) = json.loads(run_cli("images", "--json").stdout)
    by_digest = run_cli("boot", "--timeout", "90", stored["digest"], "true")
    assert by_digest.returncode == 0, by_digest.stderr


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("name", ["nginx", "torture"])
@pytest.mark.parametrize("rootfs", ["dax", "blk"])
def test_the_tree_in_the_vm_is_what_umoci_unpacks(
    run_cli: RunCli, test_cache: Path, tmp_path: Path, name: str, rootfs: str
) -> None:
    if os.getuid():
        pytest.skip("unpacking with all owners needs root")
    source = image(f"{name}-tree", test_cache)
    unpacked = tmp_path / "unpacked"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{source}:latest", unpacked], check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    done = run_cli("boot", "--rootfs", rootfs, "--timeout", "120", f"oci:{source}", timeout=200)
    assert done.returncode == 0, done.stderr
    seen, expected = done.stdout.splitlines(), host_tree(unpacked / "rootfs", test_cache)
    assert len(seen) > 500
    assert seen == expected


@pytest.mark.usefixtures("ready")
def test_a_command_that_the_entrypoint_does_not_find(run_cli: RunCli, nginx_layout: Path) -> None:
    # nginx's entrypoint is a script that executes what it is given.
    missing = run_cli("boot", "--timeout", "90", f"oci:{nginx_layout}", "no-such-command")
    assert missing.returncode == 127
    assert "no-such-command" in missing.stderr


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        ("nope", 127, "not found in PATH"),
        ("/bin/nope", 127, "no such file"),
        ("/etc/passwd", 126, "ermission denied"),
        ("/bin", 126, "ermission denied"),
        ("/text", 126, "xec format error"),
        ("./script", 127, "interpreter"),
    ],
)
def test_a_missing_command_in_an_image_without_an_entrypoint(
    run_cli: RunCli, tmp_path: Path, command: str, status: int, text: str
) -> None:
    files = layer(
        d("bin/"), d("etc/"), f("etc/passwd", "root:x:0:0::/:\n"),
        f("text", "just words", mode=0o755), f("script", "#!/bin/missing\n", mode=0o755),
    )  # fmt: skip
    source = layout(tmp_path / "image", files, config={"Cmd": ["/script"]})
    # What the image itself names was examined by convert; what is named here, the guest looks for.
    check_failure(run_cli("boot", "--timeout", "90", f"oci:{source}", command), text, status)


@pytest.mark.usefixtures("ready")
def test_port_in_use_is_found_before_boot(run_cli: RunCli, nginx_layout: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_cli("boot", "-p", f"127.0.0.1:{port}:80", f"oci:{nginx_layout}")
    check_failure(done, str(port), 125)


@pytest.mark.usefixtures("ready")
def test_qemu_missing(run_cli: RunCli, nginx_layout: Path, tmp_path: Path) -> None:
    assert run_cli("convert", f"oci:{nginx_layout}", "-o", tmp_path / "out").returncode == 0
    done = run_cli("boot", tmp_path / "out", env={"PATH": str(tmp_path)})
    check_failure(done, "apt install qemu-system-x86", 125)


@pytest.mark.usefixtures("ready")
def test_a_kernel_that_panics_is_told_by_its_own_words(
    run_cli: RunCli, nginx_layout: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_cli("convert", f"oci:{nginx_layout}", "-o", out).returncode == 0
    (out / "initramfs.cpio").write_bytes(b"")
    done = run_cli("boot", "--timeout", "60", out)
    check_failure(done, "panic", 125)


@pytest.mark.usefixtures("ready")
def test_a_kernel_that_cannot_be_booted_directly_is_refused(
    run_cli: RunCli, nginx_layout: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "vmlinuz"
    bad.write_bytes(bytes(510) + b"\x55\xaa" + b"HdrS" * 1000)
    done = run_cli("convert", "--kernel", bad, f"oci:{nginx_layout}", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert str(bad) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ready")
def test_a_timeout_has_status_124(run_cli: RunCli, nginx_layout: Path) -> None:
    done = run_cli("boot", "--timeout", "4", f"oci:{nginx_layout}", "sleep", "1000")
    assert done.returncode == 124, done.stderr


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_qemu_outlives_its_command(
    nginx_layout: Path, hyperbuild_env: dict[str, str], number: signal.Signals
) -> None:
    with booted(
        hyperbuild_env, f"oci:{nginx_layout}", "sh", "-c", "echo up; sleep 1000"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        (qemu,) = children_of(process.pid)
        process.send_signal(number)
        status = process.wait(30)
    assert status == (-number if number is signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{qemu}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{qemu}").exists()


def test_registry_that_is_down(run_cli: RunCli) -> None:
    done = run_cli("convert", "--no-kernel", f"127.0.0.1:{free_port()}/nginx", timeout=60)
    check_failure(done, "127.0.0.1", 1)


def test_unknown_tag_and_unknown_name(run_cli: RunCli, registry: str) -> None:
    tag = run_cli("convert", "--no-kernel", f"{registry}/nginx:nope", timeout=60)
    check_failure(tag, "latest", 1)
    name = run_cli("convert", "--no-kernel", f"{registry}/nothing", timeout=60)
    check_failure(name, "nothing", 1)
