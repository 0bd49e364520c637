"""`hyperbuild volume` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import RunCli


def test_volumes_are_made_listed_and_removed(run_cli: RunCli, tmp_path: Path) -> None:
    assert run_cli("volume", "ls").stdout.split() == ["VOLUME", "SIZE", "USED", "IN", "USE"]
    for name, size in (("web", "64M"), ("db", "1G")):
        done = run_cli("volume", "create", name, "--size", size)
        assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    assert (tmp_path / "data/hyperbuild/volumes/web").stat().st_size == 64 << 20
    lines = run_cli("volume", "ls").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["db", "1024", "MiB"],
        ["web", "64", "MiB"],
    ]
    (first, _) = json.loads(run_cli("volume", "ls", "--json").stdout)
    assert (first["name"], first["size"], first["in_use"]) == ("db", 1 << 30, False)
    assert run_cli("volume", "rm", "db", "web").stdout == "db\nweb\n"
    assert run_cli("volume", "ls", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("rm", "none"), "there is no volume none; there are: none"),
        (("rm", "../x"), "is no name of a volume"),
        (("create", "a/b"), "is no name of a volume"),
        (("create", "a", "--size", "1M"), "is no size of a disk: give 16M"),
        (("create", "a", "--size", "lots"), "is no size of a disk: give 16M"),
    ],
)
def test_what_cannot_be_is_one_line(run_cli: RunCli, args: tuple[str, ...], said: str) -> None:
    done = run_cli("volume", *args)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
