"""A convert that is killed, or asked to stop, at every single change of a file that it makes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.support.crash import crashes

PLAIN = ("convert", "--no-kernel")
STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture
def hyperbuild_env(hyperbuild_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Have no layer known from another test: what is known is not fetched and takes no time."""
    return hyperbuild_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def check_output(out: Path, *whole: dict[str, bytes]) -> None:
    """Fail for a final name whose bytes are not those of a whole result."""
    found = files(out) if out.exists() else {}
    for name, content in found.items():
        if not name.startswith("."):
            assert any(result.get(name) == content for result in whole), name
    if "bundle.json" in found:
        rootfs = json.loads(found["bundle.json"])["rootfs"]
        assert digest(out / f"rootfs.{rootfs['format']}") == rootfs["digest"]


def check_store(data: Path) -> None:
    store = data / "hyperbuild"
    for blob in store.glob("blobs/*/*"):
        assert digest(blob) == f"{blob.parent.name}:{blob.name}"
    if (store / "index.json").exists():
        for entry in json.loads((store / "index.json").read_text())["manifests"]:
            assert (store / "blobs" / entry["digest"].replace(":", "/")).exists()


def drafts(*places: Path) -> list[Path]:
    return [path for place in places for path in place.rglob(".hyperbuild-*") if path.is_file()]


@pytest.mark.parametrize("over", [False, True])
def test_killed_while_it_writes_a_directory(
    small: Path, tmp_path: Path, hyperbuild_env: dict[str, str], run_cli: RunCli, over: bool
) -> None:
    earlier, later, out = tmp_path / "earlier", tmp_path / "later", tmp_path / "out"
    apart = {"XDG_CACHE_HOME": str(tmp_path / "apart")}
    run_cli(*PLAIN, f"oci:{small}", "-o", earlier, "--format", "ext4", env=apart)
    run_cli(*PLAIN, f"oci:{small}", "-o", later, env=apart)
    command = [*PLAIN, f"oci:{small}", "-o", str(out)]
    status = None
    for status in crashes(signal.SIGKILL, command, hyperbuild_env, tmp_path / "log"):
        check_output(out, files(later), *([files(earlier)] if over else []))
        if status and over:
            shutil.copytree(earlier, out, dirs_exist_ok=True)
            (out / "rootfs.erofs").unlink(missing_ok=True)
    assert status == 0
    assert files(out) == files(later)


@pytest.mark.parametrize("place", ["store", "registry"])
def test_killed_while_it_fills_the_store(
    small: Path,
    tmp_path: Path,
    hyperbuild_env: dict[str, str],
    run_cli: RunCli,
    registry: str,
    place: str,
) -> None:
    image = f"oci:{small}" if place == "store" else f"{registry}/test/small"
    data = tmp_path / "data"
    apart = {"XDG_DATA_HOME": str(tmp_path / "whole"), "XDG_CACHE_HOME": str(tmp_path / "apart")}
    wanted = run_cli(*PLAIN, image, env=apart)
    status, killed = None, 0
    for status in crashes(signal.SIGKILL, [*PLAIN, image], hyperbuild_env, tmp_path / "log"):
        killed += status != 0
        check_store(data)
    assert status == 0
    assert killed > 20
    assert run_cli(*PLAIN, image).stdout == wanted.stdout
    assert drafts(tmp_path) == []
    blobs = {path.name for path in (data / "hyperbuild/blobs/sha256").iterdir()}
    assert blobs == {path.name for path in (tmp_path / "whole/hyperbuild/blobs/sha256").iterdir()}


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("directory", signal.SIGTERM),
        ("store", signal.SIGINT),
        ("registry", signal.SIGTERM),
    ],
)
def test_asked_to_stop_at_any_moment(
    small: Path,
    tmp_path: Path,
    hyperbuild_env: dict[str, str],
    run_cli: RunCli,
    registry: str,
    number: signal.Signals,
    place: str,
) -> None:
    apart = {"XDG_CACHE_HOME": str(tmp_path / "apart")}
    run_cli(*PLAIN, f"oci:{small}", "-o", tmp_path / "whole", env=apart)
    image = f"{registry}/test/small" if place == "registry" else f"oci:{small}"
    out = tmp_path / "out"
    command = [*PLAIN, image, *(["-o", str(out)] if place == "directory" else [])]
    log = tmp_path / "log"
    statuses = []
    for status in crashes(number, command, hyperbuild_env, log):
        statuses.append(status)
        check_store(tmp_path / "data")
        assert drafts(tmp_path) == []
        assert "Traceback" not in log.read_text()
        # Asked when all is done, it leaves all that was done.
        assert not out.exists() or files(out) in ({}, files(tmp_path / "whole"))
    assert set(statuses) <= {STOPPED[number], 0}
    assert statuses.count(STOPPED[number]) > 10
