"""The digest that is made while a file is still being written at its end."""

from __future__ import annotations

import os
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


def test_a_file_that_became_shorter_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"short")
    with Settling(fd) as settling:
        settling.settled(6)
        with pytest.raises(UnavailableError, match="shorter"):
            settling.digest()
    os.close(fd)
