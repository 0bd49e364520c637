"""What reading and fuzzing for hostile input has found, each as a test of its own."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import pytest

from hyperbuild.builder.process import parse_signal
from hyperbuild.converter import oci
from hyperbuild.converter.convert import FORMATS
from hyperbuild.converter.errors import (
    ContentError,
    NotFoundError,
    VerificationError,
    printable,
)
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.verify import open_image
from hyperbuild.launcher.users import resolve_user
from tests.fuzz.targets import TARGETS, check, mend
from tests.support import tarball
from tests.support.memory import converted, seen


def test_a_lone_surrogate_can_be_shown() -> None:
    assert printable("a\ud800b") == r"a\ud800b"


@pytest.mark.parametrize("text", ["²", "9" * 5000, "SIGRTMIN+²", "RTMIN+" + "9" * 5000])
def test_signals_that_python_cannot_read_are_refused(text: str) -> None:
    with pytest.raises(ContentError, match="is no signal"):
        parse_signal(text, "image")


def test_ids_of_thousands_of_digits_are_no_ids() -> None:
    with pytest.raises(NotFoundError):
        resolve_user("9" * 5000, b"", b"")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_a_member_that_ends_where_offsets_do_is_refused(tmp_path: Path, kind: str) -> None:
    header = bytearray(tarfile.TarInfo("index.json").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (2**63 - 600).to_bytes(11, "big")
    (tmp_path / "a.tar").write_bytes(mend(bytes(header)) + bytes(2048))
    reference = parse_reference(f"{kind}:{tmp_path}/a.tar")
    with (
        pytest.raises(ContentError, match="damaged"),
        open_source(reference, store=Store(tmp_path / "store"), settings=RegistrySettings()),
    ):
        pass


def _file(*records: tuple[bytes, bytes], mode: int = 0o644) -> bytes:
    body = b"".join(tarball.record(key, value) for key, value in records)
    head = tarball.extension(b"x", body) if body else b""
    return tarball.archive(head, tarball.header(b"f", b"0", 0, numbers=(mode, 0, 0, 0)))


@pytest.mark.parametrize("rootfs_format", FORMATS)
@pytest.mark.parametrize(
    "tar",
    [
        _file((b"size", b"1" + b"0" * 4000)),
        _file((b"GNU.sparse.size", b"1" + b"0" * 4000), (b"GNU.sparse.map", b"")),
        _file((b"GNU.sparse.map", b"0,0")),
        _file((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")),
        _file((b"SCHILY.xattr.user.x", b"v" * 65536)),
        _file((b"SCHILY.xattr.system.posix_acl_access", b"\2\0\0\0\1\0")),
        _file((b"SCHILY.xattr.system.posix_acl_default", b"\1\0\0\0")),
    ],
    ids=["size", "sparse", "no size", "no realsize", "64 KiB", "half an ACL", "old ACL"],
)
def test_headers_that_no_file_system_can_hold_are_refused(tar: bytes, rootfs_format: str) -> None:
    with pytest.raises(ContentError), converted([tar], rootfs_format):
        pass


@pytest.mark.parametrize("mode", [-1, 1 << 20, 1 << 40])
def test_a_mode_of_too_many_bits_is_cut(mode: int) -> None:
    with converted([_file(mode=mode | 0o640)], "erofs") as rootfs:
        assert seen(rootfs.fd)[b"f"].mode == (mode | 0o640) & 0o7777


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_an_acl_reads_as_linux_gives_it_back(rootfs_format: str) -> None:
    written = b"\2\0\0\0" + b"\1\0\6\0\0\0\0\0" + b"\2\0\4\0\7\0\0\0"
    tar = _file((b"SCHILY.xattr.system.posix_acl_access", written))
    with converted([tar], rootfs_format) as rootfs:
        found = seen(rootfs.fd)[b"f"].xattrs[b"system.posix_acl_access"]
    assert found == written[:8] + b"\xff" * 4 + written[12:]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_cannot_write_again_are_refused(number: str) -> None:
    text = (
        '{"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}, '
        f'"config": {{"Cmd": ["x"], "X": {number}}}}}'
    )
    with pytest.raises(ContentError, match="not valid JSON"):
        oci.ImageConfig.read(text.encode(), "fuzz")


def test_a_size_beyond_all_offsets_is_refused() -> None:
    fields = {"mediaType": oci.OCI_CONFIG, "digest": "sha256:" + "0" * 64, "size": 10**400}
    with pytest.raises(ContentError, match="valid size"):
        oci.Descriptor.read(fields, "fuzz")


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_an_empty_file_is_no_image(tmp_path: Path, rootfs_format: str) -> None:
    with (tmp_path / "empty").open("w+b") as file, pytest.raises(VerificationError):
        open_image(file.fileno())


@pytest.mark.parametrize("name", ["read-erofs", "read-ext4", "hostile"])
def test_what_the_fuzzers_met_first(name: str) -> None:
    """Directories cut short, groups without inodes, trees without end: all told in plain words."""
    chance = random.Random(3)
    for _ in range(150):
        check(TARGETS[name], chance.randbytes(300))
