"""bundle.json: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError, InputError, VerificationError
from hyperbuild.converter.oci import digest_of
from hyperbuild.launcher.bundle import (
    Bundle,
    Finding,
    ImageInfo,
    KernelInfo,
    Process,
    RootfsInfo,
    Signal,
    User,
)
from hyperbuild.launcher.located import open_directory

if TYPE_CHECKING:
    from pathlib import Path

ROOTFS = b"root" * 1024
KERNEL = b"kernel"
INITRAMFS = b"initramfs"

BUNDLE = Bundle(
    image=ImageInfo("nginx:latest", digest_of(b"m"), digest_of(b"c"), "linux/amd64"),
    config={"Env": ["PATH=/bin"], "Weird": [1.5, None, {"é": "\udc80"}]},
    process=Process(
        args=("/entry", "nginx"),
        entrypoint=("/entry",),
        env=("PATH=/bin", "EMPTY="),
        cwd="/",
        home="/root",
        user=User(101, 102, (5, 6)),
        stop_signal=Signal("SIGQUIT", 3),
        healthcheck={"Test": ["CMD", "true"]},
        exposed_ports=("80/tcp",),
        volumes=("/data",),
        labels={"a": "b"},
        findings=(Finding("command", "the command /entry is not in the image", 127),),
    ),
    rootfs=RootfsInfo("erofs", len(ROOTFS), digest_of(ROOTFS), (digest_of(b"l"),)),
    kernel=KernelInfo("6.1.192", digest_of(KERNEL), digest_of(b"config")),
    initramfs=digest_of(INITRAMFS),
    command_line=("quiet",),
    build={"maker": "3", "kernel": {"key": digest_of(b"k")}},
)
DOCUMENT: dict[str, Any] = json.loads(BUNDLE.to_json())


def test_a_bundle_is_read_back_as_written() -> None:
    raw = BUNDLE.to_json()
    assert Bundle.from_json(raw, "x") == BUNDLE
    assert Bundle.from_json(raw, "x").to_json() == raw
    assert raw.isascii()
    assert raw.endswith(b"}\n")


def test_a_bundle_without_kernel_is_read_back() -> None:
    bare = Bundle(BUNDLE.image, {}, BUNDLE.process, BUNDLE.rootfs)
    assert Bundle.from_json(bare.to_json(), "x") == bare


def test_a_document_of_version_1_is_read() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["schemaVersion"] = 1
    del document["build"], document["initramfs"]["protocol"]
    del document["process"]["findings"]
    del document["kernel"]["options"]
    document["process"]["problem"] = "USER 'x' is unknown"
    old = Bundle.from_json(json.dumps(document).encode(), "x")
    assert old.process.findings == (Finding("user", "USER 'x' is unknown", 125),)
    document["process"]["problem"] = ""
    assert Bundle.from_json(json.dumps(document).encode(), "x").process.findings == ()


def paths(data: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the path of every member that the schema names."""
    verbatim = {("config",), ("process", "healthcheck"), ("build",)}
    if not isinstance(data, dict) or prefix in verbatim:
        return []
    return [
        path
        for key, value in data.items()
        if prefix != ("process", "labels")
        for path in [(*prefix, key), *paths(value, (*prefix, key))]
    ]


def changed(path: tuple[str, ...], change: str) -> bytes:
    document = copy.deepcopy(DOCUMENT)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if change == "missing":
        del inner[path[-1]]
    elif change == "unknown":
        inner["surprise"] = 1
    else:
        inner[path[-1]] = 1.5
    return json.dumps(document).encode()


@pytest.mark.parametrize("change", ["missing", "unknown", "ill-typed"])
@pytest.mark.parametrize("path", paths(DOCUMENT), ids="/".join)
def test_every_member_is_needed_known_and_typed(path: tuple[str, ...], change: str) -> None:
    with pytest.raises(ContentError, match=r"where.json: "):
        Bundle.from_json(changed(path, change), "where.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schemaVersion",), 0),
        (("schemaVersion",), 1),
        (("schemaVersion",), 2),
        (("schemaVersion",), 4),
        (("schemaVersion",), True),
        (("rootfs", "format"), "squashfs"),
        (("rootfs", "size"), -1),
        (("rootfs", "digest"), "sha256:beef"),
        (("process", "user", "uid"), 2**32),
        (("process", "user", "groups"), [True]),
        (("process", "stopSignal", "number"), 65),
        (("process", "args"), [1]),
        (("process", "findings"), ["command"]),
        (("process", "findings"), [{"name": "command", "text": "no"}]),
        (("process", "findings"), [{"name": "command", "text": "no", "status": 0}]),
        (("process", "findings"), [{"name": "command", "text": "no", "status": 127, "x": 1}]),
        (("process", "labels"), {"a": 1}),
        (("kernel",), []),
    ],
)
def test_values_out_of_range_are_refused(path: tuple[str, ...], value: object) -> None:
    document = copy.deepcopy(DOCUMENT)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ContentError):
        Bundle.from_json(json.dumps(document).encode(), "x")


@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 100_000))
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(ContentError):
        Bundle.from_json(raw, "x")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    (tmp_path / "bundle.json").write_bytes(BUNDLE.to_json())
    (tmp_path / "rootfs.erofs").write_bytes(ROOTFS)
    (tmp_path / "vmlinux").write_bytes(KERNEL)
    (tmp_path / "initramfs.cpio").write_bytes(INITRAMFS)
    return tmp_path


def test_an_export_is_found_and_verified(exported: Path) -> None:
    files = open_directory(exported, verify=True)
    assert files.bundle == BUNDLE
    assert files.rootfs == exported / "rootfs.erofs"
    assert files.kernel == exported / "vmlinux"
    assert files.initramfs == exported / "initramfs.cpio"


@pytest.mark.parametrize("name", ["bundle.json", "rootfs.erofs", "vmlinux", "initramfs.cpio"])
def test_a_missing_piece_is_named_with_the_remedy(exported: Path, name: str) -> None:
    (exported / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing.*hyperbuild convert"):
        open_directory(exported)


def test_a_directory_that_is_missing_has_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundle in"):
        open_directory(tmp_path / "nowhere")


def test_a_truncated_rootfs_is_seen_without_reading_it(exported: Path) -> None:
    (exported / "rootfs.erofs").write_bytes(ROOTFS[:-1])
    with pytest.raises(VerificationError, match=r"4095 bytes where bundle.json says 4096"):
        open_directory(exported)


@pytest.mark.parametrize("name", ["rootfs.erofs", "vmlinux", "initramfs.cpio"])
def test_changed_bytes_are_seen_on_request(exported: Path, name: str) -> None:
    content = bytearray((exported / name).read_bytes())
    content[0] ^= 1
    (exported / name).write_bytes(content)
    open_directory(exported)
    with pytest.raises(VerificationError, match=name):
        open_directory(exported, verify=True)
