"""Every kind of thing where a file is expected: refused in one line, and never waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder.test_convert_cli import PLAIN, check_failure
from tests.conftest import RunCli
from tests.support.layers import f, layer, layout

KINDS = ("fifo", "zero", "tty", "directory", "socket", "empty", "text", "loop")


@pytest.fixture(params=KINDS)
def thing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Something that is no file of any use, called "thing"."""
    path = tmp_path / "thing"
    kind = request.param
    devices = {"zero": "/dev/zero", "tty": "/dev/ptmx"}
    if kind == "fifo":
        os.mkfifo(path)
    elif kind in devices:
        path.symlink_to(devices[kind])
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind != "socket":
        path.write_text("" if kind == "empty" else "hello, world\n" * 1000)
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "socket":
            listener.bind(str(path))
            listener.listen()
        yield path


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_as_an_image(thing: Path, tmp_path: Path, run_cli: RunCli, transport: str) -> None:
    done = run_cli(*PLAIN, f"{transport}:{thing}", "-o", tmp_path / "out", timeout=60)
    check_failure(done, str(thing))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("thing", ["fifo", "zero", "text"], indirect=True)
def test_as_a_file_of_an_image(thing: Path, tmp_path: Path, run_cli: RunCli) -> None:
    image = layout(tmp_path / "image", layer(f("a")))
    blobs = sorted((image / "blobs/sha256").iterdir())
    for file in (image / "index.json", image / "oci-layout", *blobs):
        kept = file.rename(tmp_path / "kept")
        file.symlink_to(thing)
        check_failure(run_cli(*PLAIN, f"oci:{image}", "-o", tmp_path / "out", timeout=60), "")
        assert not (tmp_path / "out").exists()
        kept.replace(file)


def test_as_credentials_and_registries(
    thing: Path, tmp_path: Path, run_cli: RunCli, guarded: str
) -> None:
    done = run_cli(*PLAIN, f"{guarded}/a/b", "--authfile", thing, timeout=60)
    is_empty = thing.is_file() and not thing.stat().st_size
    check_failure(done, guarded if is_empty else str(thing))
    (tmp_path / "config/hyperbuild").mkdir(parents=True)
    (tmp_path / "config/hyperbuild/registries.toml").symlink_to(thing)
    check_failure(run_cli(*PLAIN, f"{guarded}/a/b", timeout=60), "")


def test_as_a_kernel(thing: Path, tmp_path: Path, run_cli: RunCli) -> None:
    image = layout(tmp_path / "image", layer(f("a")))
    done = run_cli("convert", f"oci:{image}", "--kernel", thing, "-o", tmp_path / "out", timeout=60)
    check_failure(done, str(thing))


def test_as_the_output(thing: Path, tmp_path: Path, run_cli: RunCli) -> None:
    image = layout(tmp_path / "image", layer(f("a")))
    done = run_cli("-q", *PLAIN, f"oci:{image}", "-o", thing, timeout=60)
    if thing.is_dir():
        assert done.returncode == 0
    else:
        check_failure(done, str(thing))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks for a password, so that credentials are looked for."""
    from tests.support.registry import serve_registry

    with serve_registry(tmp_path_factory.mktemp("guarded"), auth=True) as host:
        yield host
