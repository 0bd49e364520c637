"""User, working directory and entrypoint as the options of one VM change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.progress import QUIET
from hyperbuild.launcher.bundle import Finding, Process, User
from hyperbuild.launcher.located import BundleFiles
from hyperbuild.launcher.machine import MachineOptions, PortForward, parse_workdir
from hyperbuild.launcher.overrides import overridden
from hyperbuild.launcher.vm import settle
from tests.converter.flat import convert_layout
from tests.launcher.support import make_files
from tests.support.layers import E, d, f, layer, layout, s

USERS = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUPS = "root:x:0:\napp:x:1001:\naudio:x:29:app\nwheel:x:10:\n"
FOUND = tuple(
    Finding(name, "it is so", status)
    for name, status in (
        ("command", 126),
        ("command", 127),
        ("library", 127),
        ("workdir", 125),
        ("user", 125),
    )
)


def image(directory: Path, *entries: E, rootfs_format: str = "erofs") -> BundleFiles:
    """Return a bundle of an image with these entries, and findings of each kind."""
    source = layout(directory / "layout", layer(*entries))
    convert_layout(source, directory / "rootfs", rootfs_format)
    return make_files(user=User(5, 6), home="/five", findings=FOUND).replace(
        rootfs=directory / "rootfs"
    )


def process(files: BundleFiles, **options: Any) -> Process:
    return overridden(files, MachineOptions(**options)).bundle.process


@pytest.mark.parametrize("rootfs_format", ["erofs", "ext4"])
def test_a_user_is_looked_up_in_the_images_own_files(tmp_path: Path, rootfs_format: str) -> None:
    entries = (d("etc"), f("etc/passwd", USERS), f("etc/group", GROUPS))
    files = image(tmp_path, *entries, rootfs_format=rootfs_format)
    found = process(files, user="app")
    assert (found.user, found.home) == (User(1000, 1001, (29,)), "/home/app")
    assert process(files, user="app:wheel").user == User(1000, 10)
    assert process(files, user="1000").user == User(1000, 1001, (29,))
    unknown = process(files, user="7:8")
    assert (unknown.user, unknown.home) == (User(7, 8), "/")
    for name in ("nobody", "app:nogroup"):
        with pytest.raises(InputError, match=f"-u {name}: .* is not in the image's /etc/"):
            process(files, user=name)


def test_symlinks_to_the_database_stay_inside_the_image(tmp_path: Path) -> None:
    files = image(
        tmp_path,
        d("usr"),
        d("usr/lib"),
        f("usr/lib/passwd", USERS),
        s("etc", "usr/etc"),
        d("usr/etc"),
        s("usr/etc/passwd", "../../../../usr/./lib/passwd"),
        s("usr/etc/group", "/absolute"),
        s("absolute", "usr/lib/group"),
        f("usr/lib/group", GROUPS),
    )
    assert process(files, user="app").user == User(1000, 1001, (29,))


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (f("etc", "no directory"),),
        (d("etc"), d("etc/passwd")),
        (d("etc"), s("etc/passwd", "passwd")),
        (d("etc"), s("etc/passwd", "/nowhere")),
        (d("etc"), s("etc/passwd", "../../../../../../../../etc/hostname")),
    ],
    ids=str,
)
def test_an_image_without_a_database_has_numbers_alone(
    tmp_path: Path, entries: tuple[E, ...]
) -> None:
    files = image(tmp_path, f("x"), *entries)
    assert process(files, user="1000:1001").user == User(1000, 1001)
    with pytest.raises(InputError, match="-u root: "):
        process(files, user="root")


def names(found: Process) -> list[tuple[str, int]]:
    return [(finding.name, finding.status) for finding in found.findings]


def test_what_was_found_goes_where_it_is_about_what_is_replaced(tmp_path: Path) -> None:
    files = image(tmp_path, f("x"))
    whole = names(process(files))
    assert whole == names(files.bundle.process)
    assert set(whole) - set(names(process(files, user="0"))) == {("user", 125), ("command", 126)}
    assert set(whole) - set(names(process(files, workdir="/x"))) == {("workdir", 125)}
    assert names(process(files, entrypoint="sh")) == [("workdir", 125), ("user", 125)]


def test_an_entrypoint_drops_what_was_written_for_the_images() -> None:
    files = make_files(args=("/entry", "default"), entrypoint=("/entry",))
    found = process(files, entrypoint="/bin/sh")
    assert (found.entrypoint, found.args) == (("/bin/sh",), ("/bin/sh",))
    none = process(files, entrypoint="")
    assert (none.entrypoint, none.args) == ((), ())


def test_a_working_directory() -> None:
    assert process(make_files(), workdir="/srv").cwd == "/srv"
    assert parse_workdir("/a/../b//c/") == "/b/c"
    assert parse_workdir("//") == "/"
    with pytest.raises(InputError, match="-w 'a' is no absolute path; say /a"):
        parse_workdir("a")


def test_what_is_settled_stays_so() -> None:
    options = MachineOptions(
        workdir="/w", entrypoint="", ports=(PortForward(0, 80, host_ip="127.0.0.1"),)
    )
    once = settle(make_files(), options, QUIET)
    assert once[0].bundle.process.cwd == "/w"
    assert once[1].ports[0].host_port
    assert settle(*once, QUIET) == once
