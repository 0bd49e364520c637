"""archive, extract and stat: what hyperstart does itself for images without tar."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.initramfs.host import spec
from tests.initramfs.test_boot import pattern
from tests.initramfs.test_exec import BUILTIN, INPUT, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.initramfs.conftest import PowerOn
    from tests.initramfs.host import Machine, Told

pytestmark = pytest.mark.boot

LONG = "n" * 90 + "/" + "m" * 200
BIG = pattern(300_000)


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mtime, info.mode = kind, 1_000_000_000, 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info


def archive_of(*members: tuple[tarfile.TarInfo, bytes], dialect: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def extract(machine: Machine, process: int, data: bytes, directory: str = "/srv") -> Told:
    """Have the guest extract data, to the end of that."""
    machine.exec(process, "extract", directory, flags=BUILTIN | INPUT)
    assert machine.until(lambda told: process in told.started)
    for at in range(0, len(data), 50_000):
        machine.send_frame(data[at : at + 50_000], 2 * process + 1)
    machine.send_frame(b"", 2 * process + 1)
    assert machine.until(lambda told: told.is_over(process))
    return machine.told


@pytest.fixture
def machine(power_on: PowerOn) -> Iterator[Machine]:
    """Give a VM whose application, of a user without privileges, waits in /srv."""
    with power_on(spec("probe", "listen", cwd=b"/srv", user=b"1000 1000\n")) as machine:
        yield machine


def test_what_is_extracted_is_archived_again(machine: Machine) -> None:
    sent = {
        "t": (member("t", tarfile.DIRTYPE, mode=0o750, uid=7, gid=8), b""),
        "t/empty": (member("t/empty", mode=0o600), b""),
        "t/big": (member("t/big", mode=0o4755, uid=5, gid=3_000_000, mtime=-5), BIG),
        f"t/{LONG}": (member(f"t/{LONG}"), b"x" * 513),
        "t/link": (member("t/link", tarfile.SYMTYPE, linkname="../" * 60 + "away"), b""),
        "t/same": (member("t/same", tarfile.LNKTYPE, linkname="t/empty"), b""),
        "t/null": (member("t/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        "t/pipe": (member("t/pipe", tarfile.FIFOTYPE), b""),
    }
    told = extract(machine, 1, archive_of(*sent.values()))
    assert (told.statuses[1], told.errors(1)) == (0, b"")
    told = run(machine, 2, "archive", "/srv/t/", flags=BUILTIN)
    assert (told.statuses[2], told.errors(2)) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(told.output(2))) as archive:
        seen = {info.name: info for info in archive}
        assert set(seen) == {*sent, f"t/{'n' * 90}"}
        for name, (info, data) in sent.items():
            got = seen[name]
            if name != "t/same":
                assert (got.type, got.linkname) == (info.type, info.linkname)
                assert (got.uid, got.gid) == (info.uid, info.gid)
            if not got.issym() and name != "t/same":
                assert got.mode == info.mode
            if not got.isdir():
                assert got.mtime == info.mtime
            if got.isreg():
                file = archive.extractfile(got)
                assert file is not None
                assert file.read() == data
        assert (seen["t/null"].devmajor, seen["t/null"].devminor) == (1, 3)


def test_what_is_there_is_replaced(machine: Machine) -> None:
    extract(machine, 1, archive_of((member("a", tarfile.SYMTYPE, linkname="/etc/passwd"), b"")))
    told = extract(machine, 2, archive_of((member("./a"), b"new"), (member("./a"), b"newer")))
    assert told.statuses[2] == 0
    assert run(machine, 3, "probe", "files", "/srv/a").output(3) == b"newer"
    assert b"root:" in run(machine, 4, "probe", "files", "/etc/passwd").output(4)


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_both_dialects_are_read(machine: Machine, dialect: int) -> None:
    name = "/".join(("d" * 50, "e" * 50, "f" * 50))
    told = extract(machine, 1, archive_of((member(name), b"data"), dialect=dialect))
    assert told.statuses[1] == 0
    assert run(machine, 2, "probe", "files", f"/srv/{name}").output(2) == b"data"


def test_archives_that_are_refused_change_nothing_outside(machine: Machine) -> None:
    away = member("s", tarfile.SYMTYPE, linkname="/etc")
    hostile = {
        "absolute": archive_of((member("/etc/evil"), b"x")),
        "leaves": archive_of((member("a/../../etc/evil"), b"x")),
        "s: Not a directory": archive_of((away, b""), (member("s/evil"), b"x")),
        "something else": archive_of((away, b""), (member("s", tarfile.DIRTYPE), b"")),
        "link: a name that leaves": archive_of(
            (member("link", tarfile.LNKTYPE, linkname="../etc/passwd"), b"")
        ),
        "link: a name that is absolute": archive_of(
            (member("link", tarfile.LNKTYPE, linkname="/etc/passwd"), b"")
        ),
        "directory": archive_of((member("d/f"), b""), (member("d"), b"x")),
        "not of the GNU format": archive_of(
            (member("p", pax_headers={"a": "b"}), b""), dialect=tarfile.PAX_FORMAT
        ),
        "no tar archive": b"x" * 512,
        "cut short": archive_of((member("f"), b"x" * 2000))[:1024],
        "too long": archive_of((member("n/" * 9000), b"")),
    }
    for number, (words, data) in enumerate(hostile.items(), 1):
        told = extract(machine, number, data)
        assert told.statuses[number] == 1, words
        assert words in told.errors(number).decode()
    run(machine, 50, "stat", "/etc/evil", flags=BUILTIN)
    assert b"No such file" in machine.told.errors(50)
    assert b"root:" in run(machine, 51, "probe", "files", "/etc/passwd").output(51)


def test_stat_and_what_is_not_there(machine: Machine) -> None:
    link = member("l", tarfile.SYMTYPE, linkname="a b", uid=3, gid=4)
    extract(machine, 1, archive_of((member("f", uid=1, gid=2), b"12345"), (link, b"")))
    told = run(machine, 2, "stat", "/srv/f", flags=BUILTIN)
    assert told.output(2) == b"100644 5 1000000000 1 2\n"
    assert run(machine, 3, "stat", "l", flags=BUILTIN).output(3) == b"120777 3 1000000000 3 4 a b\n"
    for number, argv in enumerate((("stat", "/no"), ("archive", "/no"), ("extract", "/no")), 10):
        told = run(machine, number, *argv, flags=BUILTIN)
        assert told.statuses[number] == 1
        assert told.errors(number) == f"{argv[0]}: /no: No such file or directory\n".encode()
    for number, words in enumerate((("stat",), ("stat", "a", "b"), ("format", "a")), 20):
        assert run(machine, number, *words, flags=BUILTIN).statuses[number] == 2
    told = run(machine, 30, "archive", "/bin/both", flags=BUILTIN, user=b"1000 1000")
    with tarfile.open(fileobj=io.BytesIO(told.output(30))) as archive:
        assert archive.getnames() == ["both"]
    assert run(machine, 31, "archive", "/private", flags=BUILTIN, user=b"1 1").statuses[31] == 1
