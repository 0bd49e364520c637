"""What a guest that is not trusted packs, unpacked: nothing leaves the directory."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from hyperbuild.builder.unpacking import unpack
from hyperbuild.converter.errors import ContentError, InputError
from tests.support.tarball import DIRECTORY, FIFO, FILE, HARD, SYMLINK, Entry, archive, member

if TYPE_CHECKING:
    from pathlib import Path


def put(place: Path, *entries: Entry, root: bytes | None = b"root", step: int = 700) -> list[str]:
    raw = archive(*(member(entry, "gnu") for entry in entries))
    told: list[str] = []
    pieces = (raw[at : at + step] for at in range(0, len(raw), step))
    unpack(pieces, "vm:/x", place, root, told.append)
    return told


def test_a_tree_comes_out_under_its_new_name(tmp_path: Path) -> None:
    told = put(
        tmp_path,
        Entry(b"x/", DIRECTORY, mode=0o500),
        Entry(b"x/file", FILE, b"data" * 1000, mode=0o4755),
        Entry(b"x/link", SYMLINK, link=b"/etc/passwd"),
        Entry(b"x/pipe", FIFO),
    )
    root = tmp_path / "root"
    assert (root / "file").read_bytes() == b"data" * 1000
    assert (root / "file").stat().st_mode & 0o7777 == 0o755
    assert root.stat().st_mode & 0o777 == 0o500
    assert os.readlink(root / "link") == "/etc/passwd"  # noqa: PTH115
    assert told == ["root/pipe is a special file, and left out"]


@pytest.mark.parametrize(
    "entries",
    [
        (Entry(b"/etc/evil", FILE, b"x"),),
        (Entry(b"x/../../evil", FILE, b"x"),),
        (Entry(b"..", DIRECTORY),),
        (Entry(b"x/", DIRECTORY), Entry(b"x/l", SYMLINK, link=b"/tmp"), Entry(b"x/l/evil", FILE)),
        (Entry(b"x", SYMLINK, link=b".."), Entry(b"x/evil", FILE, b"x")),
        (Entry(b"x/no/parents", FILE, b"x"),),
    ],
)
def test_nothing_leaves_the_directory(tmp_path: Path, entries: tuple[Entry, ...]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ContentError):
        put(place, *entries)
    assert not list(tmp_path.rglob("evil"))
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_links_and_what_is_there_are_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    place = tmp_path / "place"
    place.mkdir()
    (place / "root").symlink_to("../outside")
    put(place, Entry(b"x", FILE, b"new"))
    assert (tmp_path / "outside").read_text() == "mine"
    assert (place / "root").read_text() == "new"
    assert put(place, Entry(b"x", HARD, link=b"../outside")) == [
        "root is a special file, and left out"
    ]


def test_no_link_lends_its_target_a_mode(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir(0o700)
    place = tmp_path / "place"
    place.mkdir()
    link = Entry(b"x/l", SYMLINK, link=b"../../outside")
    with pytest.raises(InputError, match="root/l is there already and is no directory"):
        put(place, Entry(b"x/", DIRECTORY), link, Entry(b"x/l/", DIRECTORY, mode=0o777))
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o700


def test_what_is_there_of_another_kind_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    for name, kind in ((b"pipe", FILE), (b"directory", FILE), (b"file", DIRECTORY)):
        with pytest.raises(InputError, match="is there already and is no"):
            put(tmp_path, Entry(b"x", kind), root=name)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_is_told_of_the_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            put(tmp_path, Entry(b"x", FILE, b"data" * 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == "root"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", [b"all", None])
def test_the_root_itself(tmp_path: Path, root: bytes | None) -> None:
    put(tmp_path, Entry(b"./", DIRECTORY), Entry(b"./etc/", DIRECTORY), Entry(b"./etc/f", FILE),
        root=root)  # fmt: skip
    assert (tmp_path / (root or b"").decode() / "etc/f").is_file()


@pytest.mark.parametrize("size", [100, 512, 700])
def test_an_archive_that_is_cut_short(tmp_path: Path, size: int) -> None:
    raw = member(Entry(b"x", FILE, b"data" * 1000), "gnu")[:size]
    with pytest.raises(ContentError):
        unpack(iter([raw]), "vm:/x", tmp_path, b"root", lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_content_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="is no directory"):
        put(tmp_path, Entry(b"x", FILE, b"data"), root=None)
