"""The digest that is made while a file is still being written at its end."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from hyperbuild.converter.errors import UnavailableError
from hyperbuild.converter.settling import Settling
from tests.support.layers import digest


def test_it_is_the_digest_of_all_that_was_settled(tmp_path: Path) -> None:
    content = os.urandom((9 << 20) + 5)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with Settling(fd) as settling:
        for end in (1, 5 << 20, len(content)):
            os.write(fd, content[os.lseek(fd, 0, os.SEEK_CUR) : end])
            settling.settled(end)
        assert settling.digest() == digest(content)
    os.close(fd)


def test_a_disk_that_fails_is_told_though_it_tells_one_sync_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(fd: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with Settling(fd) as settling:
        assert failed.wait(20)
        with pytest.raises(UnavailableError, match="cannot write the root file system: Input"):
            settling.digest()
    os.close(fd)


def test_a_file_that_became_shorter_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"short")
    with Settling(fd) as settling:
        settling.settled(6)
        with pytest.raises(UnavailableError, match="shorter"):
            settling.digest()
    os.close(fd)
