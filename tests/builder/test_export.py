"""A directory that holds the result already: left alone if it is, made anew if it is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.support.layers import d, f, layer, layout

BASE = layer(d("bin"), f("bin/sh", b"#!" + os.urandom(9000)))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return layout(tmp_path / "layout", BASE)


def identities(out: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(out.iterdir())
    }


def convert(run_cli: RunCli, image: Path, out: Path, *more: str) -> None:
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", str(out), *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"


def test_what_is_there_already_is_left_as_it_is(
    tmp_path: Path, run_cli: RunCli, image: Path
) -> None:
    out = tmp_path / "out"
    convert(run_cli, image, out)
    before = identities(out)
    convert(run_cli, image, out)
    convert(run_cli, image, out, "--verify")
    assert identities(out) == before


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: (out / "rootfs.erofs").touch(),
        lambda out: (out / "bundle.json").write_text("{}"),
        lambda out: (out / "rootfs.erofs").unlink(),
        lambda out: (out / "rootfs.ext4").touch(),
        lambda out: (out / "rootfs.erofs").write_bytes(b""),
    ],
    ids=["touched", "rewritten", "gone", "another", "emptied"],
)
def test_what_somebody_touched_is_made_anew(
    tmp_path: Path, run_cli: RunCli, image: Path, harm: object
) -> None:
    out = tmp_path / "out"
    convert(run_cli, image, out)
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    before = identities(out)
    harm(out)  # type: ignore[operator]
    convert(run_cli, image, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    assert identities(out) != before


def test_another_order_is_made_anew(tmp_path: Path, run_cli: RunCli, image: Path) -> None:
    out = tmp_path / "out"
    convert(run_cli, image, out)
    convert(run_cli, image, out, "--format", "ext4")
    assert sorted(path.name for path in out.iterdir()) == ["bundle.json", "rootfs.ext4"]
    convert(run_cli, image, out, "--align")
    assert sorted(path.name for path in out.iterdir()) == ["bundle.json", "rootfs.erofs"]


@pytest.mark.parametrize("is_known_sound", [False, True])
def test_an_image_that_was_damaged_since_is_told(
    tmp_path: Path, run_cli: RunCli, image: Path, is_known_sound: bool
) -> None:
    out = tmp_path / "out"
    if is_known_sound:
        time.sleep(1.1)  # no file is known that was changed in the second before
    convert(run_cli, image, out)
    before = identities(out)
    blob = max((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    for where in (out, tmp_path / "other"):
        done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", str(where))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: layer sha256:")
        assert done.stderr.count("\n") == 1
    assert identities(out) == before
    assert not (tmp_path / "other").exists()
