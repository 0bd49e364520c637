"""Mounts as users write them, and what the guest is told of them."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import AccessError, HyperbuildError, InputError
from hyperbuild.launcher.bundle import MACHINE_OPTIONS
from hyperbuild.launcher.devices import Attached, attach
from hyperbuild.launcher.machine import Accel, Ids, Machine, MachineOptions, build_machine
from hyperbuild.launcher.mounts import (
    GuestMount,
    Mount,
    MountKind,
    guest_mounts,
    parse_tmpfs,
    parse_volume,
)
from tests.launcher.support import DIGEST, IDENTITY, make_files

VOLUMES = Path("/volumes")
PATH = os.environ["PATH"]


@pytest.mark.parametrize(
    ("text", "kind", "source", "target", "words"),
    [
        ("/a:/b", MountKind.SHARE, "/a", "/b", ()),
        ("/a:/b:ro", MountKind.SHARE, "/a", "/b", ("ro",)),
        ("/a:/b/../c//d/:rw,plain", MountKind.SHARE, "/a", "/c/d", ("rw", "plain")),
        ("./a:/b", MountKind.SHARE, f"{Path.cwd()}/a", "/b", ()),
        (".:/b", MountKind.SHARE, str(Path.cwd()), "/b", ()),
        ("../a b:/b c", MountKind.SHARE, f"{Path.cwd()}/../a b", "/b c", ()),
        ("data:/b", MountKind.DISK, "/volumes/data", "/b", ()),
        ("d.a-t_a:/b:nocopy,ro", MountKind.DISK, "/volumes/d.a-t_a", "/b", ("nocopy", "ro")),
        ("/b", MountKind.ROOT, None, "/b", ()),
    ],
)
def test_volumes_are_read(
    text: str, kind: MountKind, source: str | None, target: str, words: tuple[str, ...]
) -> None:
    path = None if source is None else Path(source)
    assert parse_volume(text, VOLUMES) == Mount(kind, target, text, path, words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not SRC:DST"),
        (":/b", "is not SRC:DST"),
        ("/a:", "is not SRC:DST"),
        ("/a:/b:", "is not SRC:DST"),
        ("/a:/b:ro:x", "is not SRC:DST"),
        ("a/b:/c", "a/b is no volume's name; if it is a folder say ./a/b"),
        ("-a:/c", "-a is no volume's name"),
        (".hidden:/c", "no volume's name"),
        ("a" * 129 + ":/c", "no volume's name"),
        ("/a:b", "'b' is no absolute path in the VM"),
        ("a", "'a' is no absolute path in the VM"),
        ("/a:/", "the root can't be mounted over"),
        ("/a:/..", "the root can't be mounted over"),
        ("/a:/proc/sys", "/proc/sys is the VM's own"),
        ("/a:/x/../dev", "/dev is the VM's own"),
        ("/a:/b:rx", "the option rx is not one of ro, rw, plain"),
        ("/a:/b:nocopy", "the option nocopy is not one of ro, rw, plain"),
        ("a:/b:plain", "the option plain is not one of ro, rw, nocopy"),
    ],
)
def test_a_bad_volume_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match="-v ") as caught:
        parse_volume(text, VOLUMES)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "target", "options"),
    [
        ("/t", "/t", "nosuid,nodev,noexec,mode=1777"),
        ("/t:size=64m,mode=700", "/t", "nosuid,nodev,noexec,mode=700,size=64m"),
        ("/t:exec,dev,suid,ro,uid=5", "/t", "mode=1777,ro,uid=5"),
        ("/t:exec,noexec,rw", "/t", "nosuid,nodev,mode=1777,noexec"),
        ("/t:size=1k,size=50%", "/t", "nosuid,nodev,noexec,mode=1777,size=50%"),
    ],
)
def test_tmpfs_is_read_with_dockers_defaults(text: str, target: str, options: str) -> None:
    mount = parse_tmpfs(text)
    assert (mount.kind, mount.target, ",".join(mount.words)) == (MountKind.MEMORY, target, options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t", "'t' is no absolute path"),
        ("", "'' is no absolute path"),
        ("/t:", "'' is no option of it"),
        ("/t:size=big", "'size=big' is no option of it"),
        ("/t:size=1,lowerdir=/", "'lowerdir=/' is no option"),
        ("/t:mode=888", "'mode=888' is no option"),
        ("/t:fill", "'fill' is no option"),
        ("/proc", "/proc is the VM's own"),
    ],
)
def test_a_bad_tmpfs_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match="--tmpfs ") as caught:
        parse_tmpfs(text)
    assert said in str(caught.value)


@given(st.text(st.sampled_from("ab/.:,=1roms-\0\n ")), st.booleans())
def test_no_text_of_a_mount_gets_anything_else_through(text: str, memory: bool) -> None:
    try:
        mount = parse_tmpfs(text) if memory else parse_volume(text, VOLUMES)
    except InputError:
        return
    assert mount.target.startswith("/")
    assert not mount.target.endswith("/")
    assert ".." not in mount.target.split("/")
    assert not any(set(word) & set(",\0\n ") for word in mount.words)


def test_what_lies_above_is_mounted_first_and_an_images_volume_gives_way() -> None:
    mounts = [
        parse_volume("/h:/a/b/c", VOLUMES),
        parse_tmpfs("/a"),
        parse_volume("/data", VOLUMES),
    ]
    attached = {"/a/b/c": GuestMount("9p", "share0", "/a/b/c", ("rw",))}
    told = guest_mounts(mounts, ["/a/b", "data/", "/a", "/", "/proc", "x/../../y"], attached)
    assert [(mount.kind, mount.target) for mount in told] == [
        ("tmpfs", "/a"),
        ("volume", "/data"),
        ("volume", "/y"),
        ("volume", "/a/b"),
        ("9p", "/a/b/c"),
    ]


def test_more_mounts_than_a_guest_takes_are_refused() -> None:
    volumes = [f"/v{number}" for number in range(65)]
    assert len(guest_mounts([], volumes[:64], {})) == 64
    with pytest.raises(InputError, match=r"65 mounts, .*: 64 may be; mount what is above them"):
        guest_mounts([], volumes, {})


def machine(known: tuple[str, ...] | None = None) -> Machine:
    built = build_machine(
        make_files(),
        MachineOptions(),
        IDENTITY,
        initrd=Path("/i"),
        accel=Accel.TCG,
        tsc_khz=None,
    )
    return built.replace(kernel_options=known)


def attached(*texts: str, known: tuple[str, ...] | None = None, **more: Any) -> Attached:
    mounts = tuple(parse_volume(text, VOLUMES) for text in texts)
    with ExitStack() as stack:
        options = MachineOptions(mounts=mounts, **more)
        found = attach(machine(known), options, [options.mounts], DIGEST, PATH, stack)
        for share in found.machine.shares:
            assert stat.S_ISDIR(os.fstat(share.fd).st_mode)
        return found


def test_a_folder_is_opened_where_a_symlink_leads_and_a_file_is_copied(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_text("content")
    os.chown(tmp_path / "file", os.getuid(), os.getgid())
    (tmp_path / "file").chmod(0o640)
    os.utime(tmp_path / "file", (5, 7))
    found = attached(f"{tmp_path}/link:/a", f"{tmp_path}/file:/b:ro", f"{tmp_path}:/c:ro")
    (entry,) = found.entries
    assert (entry.name, entry.data, entry.mode) == ("spec/file-0", b"content", 0o100640)
    assert entry.owner == (os.getuid(), os.getgid())
    assert found.mounts[0] == {
        "/a": GuestMount("9p", "share0", "/a", ("rw",)),
        "/b": GuestMount("file", "file-0", "/b", ("ro", "7")),
        "/c": GuestMount("9p", "share1", "/c", ("ro",)),
    }
    assert [share.read_only for share in found.machine.shares] == [False, True]
    assert len(found.descriptors) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("missing", "is not there; make it first, as by mkdir -p"),
        ("dangling", "is not there; make it first"),
        ("loop", "Too many levels of symbolic links"),
        ("under a file", "Not a directory"),
        ("fifo", "is neither a folder nor a file"),
        ("device", "is neither a folder nor a file"),
        ("file", "is a file, of which the VM gets a copy; add :ro, or share the folder it is in"),
        ("large", "is larger than 16 MiB; share the folder it is in"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path: Path, make: str, said: str) -> None:
    path, words = tmp_path / "source", ""
    if make in ("dangling", "loop"):
        path.symlink_to("nowhere" if make == "dangling" else "source")
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path = Path("/dev/null")
    elif make != "missing":
        path.touch()
    if make == "large":
        os.truncate(path, (16 << 20) + 1)
        words = ":ro"
    if make == "under a file":
        path /= "x"
    with pytest.raises(InputError) as caught:
        attached(f"{path}:/x{words}")
    assert str(caught.value).startswith(f"-v {path}:/x{words}: ")
    assert said in str(caught.value)


def test_a_kernel_without_9p_can_have_files_alone(tmp_path: Path) -> None:
    known = tuple(name for name in MACHINE_OPTIONS if name != "CONFIG_9P_FS")
    (tmp_path / "file").touch()
    assert attached(f"{tmp_path}/file:/x:ro", known=known).entries
    with pytest.raises(
        InputError, match=r"has no CONFIG_9P_FS, which -v .*:/x needs; .* dax or full"
    ):
        attached(f"{tmp_path}:/x", known=known)


def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_ids_are_the_hosts_for_root_and_kept_beside_the_files_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{tmp_path}:/a", f"{tmp_path}:/b:plain", f"{tmp_path}:/c:ro"]

    def ids() -> list[Ids]:
        return [share.ids for share in attached(*texts).machine.shares]

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ids() == [Ids.REAL] * 3
    as_user(monkeypatch)
    assert ids() == [Ids.MAPPED, Ids.OWN, Ids.OWN]


def test_a_file_system_that_cannot_keep_ids_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch)
    # A file system of the kernel's own: none of these takes attributes of users.
    with pytest.raises(
        InputError, match=r"no extended attributes .*; add :plain .*, or use a named"
    ):
        attached("/proc/sys:/x")
    assert attached("/proc/sys:/x:plain").machine.shares


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(AccessError, match="may not be read by you"):
        attached(f"{tmp_path}/closed:/x")


def test_what_fails_leaves_no_volume_behind(tmp_path: Path) -> None:
    mounts = (parse_volume("new:/a", tmp_path), parse_volume("/no/such:/b", tmp_path))
    with ExitStack() as stack, pytest.raises(HyperbuildError, match="/no/such is not there"):
        attach(machine(), MachineOptions(), [mounts], DIGEST, PATH, stack)
    assert list(tmp_path.iterdir()) == []


def test_a_volume_that_is_mounted_twice_is_one_disk(tmp_path: Path) -> None:
    texts = ("new:/a", "new:/b:ro", "other:/c:nocopy")
    mounts = tuple(parse_volume(text, tmp_path) for text in texts)
    with ExitStack() as stack:
        found = attach(machine(), MachineOptions(), [mounts], DIGEST, PATH, stack)
        # In use by this very VM.
        with pytest.raises(InputError, match="the volume new is in use by another VM; stop that"):
            attach(machine(), MachineOptions(), [mounts], DIGEST, PATH, stack)
    assert [disk.read_only for disk in found.machine.disks] == [True, False, False]
    assert found.mounts[0] == {
        "/a": GuestMount("disk", "/dev/vda", "/a", ("fill", "rw")),
        "/b": GuestMount("disk", "/dev/vda", "/b", ("fill", "ro")),
        "/c": GuestMount("disk", "/dev/vdb", "/c", ("rw",)),
    }
