"""A guest's memory on the host: what is freed comes back, and too little is refused before it."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HYPERBUILD, KernelOf, RunCli
from tests.support.images import image
from tests.support.layers import f, layer, layout

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.boot

SOURCE = Path(__file__).parent / "support" / "hog.c"
#: MiB that the guest takes, and how much of it the host must see come and go: the guest keeps a
#: few, and the host has given some before.
TAKEN, SEEN = 128, 100
#: Seconds for the guest to tell of all its free pages; it does so every two.
PATIENCE = 120.0


@pytest.fixture(scope="module")
def hog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the image of a program that takes memory and gives it back."""
    directory = tmp_path_factory.mktemp("hog")
    flags = ("-static", "-Os", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["musl-gcc", *flags, "-o", directory / "hog", SOURCE], check=True)
    files = layer(f("hog", (directory / "hog").read_bytes(), mode=0o755))
    source = layout(directory / "layout", files, config={"Cmd": ["/hog", str(TAKEN)]})
    return f"oci:{source}"


@contextmanager
def running(environment: dict[str, str], *args: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [HYPERBUILD, "boot", "-i", "--timeout", "300", *args],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def resident(process: subprocess.Popen[str]) -> int:
    """Return the MiB of the host's memory that the VM of process holds."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    status = Path(f"/proc/{child}/status").read_text()
    return next(
        int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmRSS:")
    )


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(
    "options", [("--rootfs", "dax"), ("--rootfs", "blk"), ("--profile", "micro")], ids=" ".join
)
def test_what_the_guest_frees_comes_back_to_the_host(
    options: tuple[str, ...], hog: str, hyperbuild_env: dict[str, str], kernel_of: KernelOf
) -> None:
    kernel_of("micro" if "micro" in options else "dax")
    with running(hyperbuild_env, *options, hog) as process:
        assert heard(process) == "taken\n"
        full = resident(process)
        assert full > TAKEN
        say(process)
        assert heard(process) == "given back\n"
        deadline = time.monotonic() + PATIENCE
        while (now := resident(process)) > full - SEEN:
            assert time.monotonic() < deadline, f"{now} MiB of {full} MiB are still held"
            time.sleep(0.2)
        say(process)
        assert process.wait(60) == 0


@pytest.mark.parametrize("rootfs", ["dax", "blk"])
@pytest.mark.parametrize("profile", ["micro", "dax", "full"])
def test_the_least_memory_that_is_named_is_enough(
    profile: str, rootfs: str, run_cli: RunCli, test_cache: Path, kernel_of: KernelOf
) -> None:
    kernel_of(profile)
    source = f"oci:{image('busybox', test_cache)}"
    refused = run_cli("boot", "--profile", profile, "--rootfs", rootfs, "-m", "32M", source)
    assert refused.returncode == 125
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("Error: ")]
    assert "memory of 32 MiB is too small" in error
    least = error.partition("give at least ")[2].split()[0]
    options = ("--timeout", "120", "--profile", profile, "--rootfs", rootfs, "-m", least)
    done = run_cli("boot", *options, source, "echo", "enough")
    assert (done.returncode, done.stdout) == (0, "enough\n"), done.stderr
