"""Where output goes that a user named: no device, FIFO or link is ever replaced by a file."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import HyperbuildError, InputError, NotFoundError
from hyperbuild.converter.files import draft, named_output, write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    old = tmp_path / "far/old"
    old.write_text("old")
    for name, there in (("a", old), ("b", tmp_path / "far/new")):
        link = tmp_path / name
        link.symlink_to(there)
        write_atomically(named_output(link), b"new")
        assert link.is_symlink()
        assert there.read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["new", "old"]


def test_devices_fifos_and_directories_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("pipe")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for path in (pipe, link, loop, tmp_path):
        with pytest.raises(InputError, match=r"name another"):
            named_output(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused(tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(InputError, match="is no regular file"):
        named_output(device)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"the directory {tmp_path}/no is not there"):
        named_output(tmp_path / "no/file")
    (tmp_path / "file").touch()
    with pytest.raises(HyperbuildError, match="name another"):
        named_output(tmp_path / "file/below")
    with pytest.raises(FileNotFoundError) as caught, draft(tmp_path / "no"):
        pass
    assert caught.value.filename == f"{tmp_path}/no"
