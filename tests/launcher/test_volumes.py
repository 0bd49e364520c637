"""Named volumes: made, listed, removed, and one VM's at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperbuild.converter.errors import HyperbuildError, InputError, NotFoundError
from hyperbuild.launcher.volumes import (
    create_volume,
    list_volumes,
    open_volume,
    remove_volume,
)

PATH = os.environ["PATH"]
MIB = 1 << 20


def test_a_volume_from_its_making_to_its_end(tmp_path: Path) -> None:
    volumes = tmp_path / "deep/volumes"
    assert list_volumes(volumes) == []
    create_volume(volumes, "small", 16, PATH)
    with pytest.raises(InputError, match="there is a volume small already"):
        create_volume(volumes, "small", 16, PATH)
    held = open_volume(volumes / "large", PATH)
    large, small = list_volumes(volumes)
    assert (large.name, large.size, large.in_use) == ("large", 10 << 30, True)
    assert (small.name, small.size, small.in_use) == ("small", 16 * MIB, False)
    assert large.used < 8 * MIB
    assert [path.stat().st_mode & 0o777 for path in (volumes, large.path)] == [0o700, 0o600]
    for refused in (
        lambda: remove_volume(volumes, "large"),
        lambda: open_volume(volumes / "large", PATH),
    ):
        with pytest.raises(InputError, match="the volume large is in use by another VM"):
            refused()
    os.close(held)
    remove_volume(volumes, "large")
    with pytest.raises(NotFoundError, match="there is no volume large; there are: small"):
        remove_volume(volumes, "large")
    remove_volume(volumes, "small")
    assert list(volumes.iterdir()) == []


def test_one_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    create_volume(tmp_path, "data", 16, PATH)
    removed = []

    def lose(opened: Path, flags: int) -> int:
        fd = os.open(opened, flags)
        if not removed:
            removed.append(opened)
            remove_volume(tmp_path, "data")
        return fd

    monkeypatch.setattr(
        "hyperbuild.launcher.volumes.open_regular",
        lambda p, f=os.O_RDONLY: lose(p, f) if f == os.O_RDWR else os.open(p, f),
    )
    fd = open_volume(path, PATH)
    assert os.path.samestat(os.fstat(fd), path.stat())
    os.close(fd)


@pytest.mark.parametrize("content", [b"", b"notes of mine\n" * 1000])
def test_what_is_no_volume_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes").write_bytes(content)
    with pytest.raises(InputError, match="has no ext4 file system"):
        open_volume(tmp_path / "notes", PATH)
    assert (tmp_path / "notes").read_bytes() == content


@pytest.mark.parametrize("kind", ["fifo", "directory", "dangling"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(HyperbuildError, match=r"is not a regular file|cannot open"):
        open_volume(path, PATH)
    with pytest.raises(NotFoundError):
        remove_volume(tmp_path, "data")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", ".a", "a" * 129, "a\n"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    for refused in (
        lambda: create_volume(tmp_path, name, 16, PATH),
        lambda: remove_volume(tmp_path, name),
    ):
        with pytest.raises(InputError, match="is no name of a volume"):
            refused()
    assert list(tmp_path.iterdir()) == []
