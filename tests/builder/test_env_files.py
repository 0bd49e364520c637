"""Files of variables are read as docker reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperbuild.builder.env_files import read_env_file
from hyperbuild.converter.errors import HyperbuildError, InputError


def test_variables_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(
        b'\xef\xbb\xbfA=b\n\n  # a comment\n\tB= "quoted" \nC=\nHERE\nGONE\nD=x=y#z\r\nE=\xc3\xa9'
    )
    assert read_env_file(path, {"HERE": "yes"}) == [
        "A=b",
        'B= "quoted" ',
        "C=",
        "HERE=yes",
        "D=x=y#z",
        "E=é",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=b\nmy name=x\n", "line 2: 'my name=x' is not NAME=value or NAME"),
        (b"=x\n", "line 1: '=x' is not NAME=value"),
        (b"A=\0\n", "line 1: "),
        (b"A=\xff\n", "is not UTF-8; correct it"),
        (b"A=b\n" * (1 << 18) + b"x", "is larger than 1024 KiB"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "env").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_env_file(tmp_path / "env", {})
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "directory":
        (tmp_path / "env").mkdir()
    elif kind == "fifo":
        os.mkfifo(tmp_path / "env")
    with pytest.raises(HyperbuildError):
        read_env_file(tmp_path / "env", {})
