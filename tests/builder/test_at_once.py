"""Several converts at once: of one image the work is done once, of others each for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.builder.test_convert_cli import PLAIN, names
from tests.conftest import HYPERBUILD, RunCli
from tests.support.layers import f, layer, layout
from tests.support.registry import push, serve_proxy, serve_registry

WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that takes a moment: 5,000 files, and noise."""
    path = tmp_path_factory.mktemp("image") / "layout"
    files = [f(f"d{n % 50}/{n}", b"%d" % n) for n in range(5_000)]
    return layout(path, layer(*files), layer(f("noise", os.urandom(8 << 20))))


@pytest.fixture
def hyperbuild_env(hyperbuild_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Have no layer known from another test: what is known is not fetched and takes no time."""
    return hyperbuild_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def start(env: dict[str, str], *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [HYPERBUILD, "-q", *PLAIN, *arguments],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for the process, which must succeed, and return its stdout."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def drafts(store: Path) -> list[Path]:
    """Return the root file systems under way; the store's own documents are small."""
    found = (store / ".partial").glob(".hyperbuild-*")
    return [path for path in found if path.stat().st_size > 1 << 20]


def waits_for_a_lock(pid: int) -> bool:
    """Tell whether a thread of the process sleeps in flock."""
    return any(
        "-> FLOCK" in line and f" {pid} " in line
        for line in Path("/proc/locks").read_text().splitlines()
    )


def until(condition: object, what: str) -> None:
    assert callable(condition)
    for _ in range(WAIT_SECONDS * 50):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(f"waited {WAIT_SECONDS} s for {what}")


def test_the_second_in_the_store_waits_for_what_the_first_makes(
    image: Path, hyperbuild_env: dict[str, str]
) -> None:
    store = Path(hyperbuild_env["XDG_DATA_HOME"]) / "hyperbuild"
    first = start(hyperbuild_env, f"oci:{image}")
    until(lambda: drafts(store), "the first one's draft")
    first.send_signal(signal.SIGSTOP)
    made = {path.name: path.stat().st_ino for path in drafts(store)}
    second = start(hyperbuild_env, f"oci:{image}")
    until(lambda: waits_for_a_lock(second.pid), "the second to wait")
    assert {path.name: path.stat().st_ino for path in drafts(store)} == made
    first.send_signal(signal.SIGCONT)
    assert finished(first) == finished(second)
    blobs = [path.stat() for path in (store / "blobs/sha256").iterdir()]
    assert max(blobs, key=lambda blob: blob.st_size).st_ino in made.values()


def test_the_second_goes_on_when_the_first_is_killed(
    image: Path, hyperbuild_env: dict[str, str], run_cli: RunCli
) -> None:
    store = Path(hyperbuild_env["XDG_DATA_HOME"]) / "hyperbuild"
    first = start(hyperbuild_env, f"oci:{image}")
    until(lambda: drafts(store), "the first one's draft")
    first.send_signal(signal.SIGSTOP)
    second = start(hyperbuild_env, f"oci:{image}")
    until(lambda: waits_for_a_lock(second.pid), "the second to wait")
    first.kill()
    first.communicate()
    digest = finished(second)
    assert run_cli("-q", *PLAIN, f"oci:{image}").stdout == digest
    assert drafts(store) == []


def test_into_directories(image: Path, tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    other = layout(tmp_path / "small", layer(f("other", b"x" * 100_000)))
    outs = [tmp_path / name for name in ("same", "same", "elsewhere", "other")]
    images = [image, image, image, other]
    runs = [
        start(hyperbuild_env, f"oci:{source}", "-o", out)
        for source, out in zip(images, outs, strict=True)
    ]
    for run in runs:
        finished(run)
    for out in outs:
        assert names(out) == {"rootfs.erofs", "bundle.json"}
    same, elsewhere, apart = (tmp_path / name for name in ("same", "elsewhere", "other"))
    assert (same / "rootfs.erofs").read_bytes() == (elsewhere / "rootfs.erofs").read_bytes()
    assert (same / "rootfs.erofs").read_bytes() != (apart / "rootfs.erofs").read_bytes()


def test_a_directory_that_the_first_takes_back_is_made_anew_by_the_second(
    image: Path, tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    out = tmp_path / "out"
    first = start(hyperbuild_env, f"oci:{image}", "-o", out)
    until(lambda: out.exists() and list(out.iterdir()), "the first one's draft")
    first.send_signal(signal.SIGSTOP)
    second = start(hyperbuild_env, f"oci:{image}", "-o", out)
    until(lambda: waits_for_a_lock(second.pid), "the second to wait")
    first.terminate()
    first.send_signal(signal.SIGCONT)
    first.communicate()
    finished(second)
    assert names(out) == {"rootfs.erofs", "bundle.json"}


def test_layers_are_fetched_once_for_two(
    tmp_path: Path, image: Path, hyperbuild_env: dict[str, str]
) -> None:
    with serve_registry(tmp_path / "registry") as host:
        push(image, f"{host}/a/b:latest")
        with serve_proxy(host) as proxy:
            proxy.fault = lambda seen, answer: setattr(answer, "delay", 0.3)
            runs = [
                start(hyperbuild_env, f"{proxy.host}/a/b", *where) for where in _places(tmp_path)
            ]
            for run in runs:
                finished(run)
            layers = [f"/blobs/{layer}" for layer in _layers(image)]
            assert [len(proxy.asked(layer)) for layer in layers] == [1, 1]


def _places(tmp_path: Path) -> list[list[str]]:
    return [["-o", str(tmp_path / "one")], ["-o", str(tmp_path / "two")], []]


def _layers(image: Path) -> list[str]:
    """Return the digests of the image's layers, its largest blobs."""
    blobs = sorted((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    return [f"sha256:{path.name}" for path in blobs[-2:]]
