"""A root file system under dm-verity: what the kernel is told, what is refused, what ends a VM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.launcher.bundle import Bundle, HashTreeInfo
from hyperbuild.launcher.diagnosis import Evidence, diagnose
from hyperbuild.launcher.located import BundleFiles
from hyperbuild.launcher.machine import (
    Accel,
    Machine,
    MachineOptions,
    build_machine,
    root_device,
)
from hyperbuild.launcher.spec import spec_files
from hyperbuild.launcher.verity import OPTIONS, mapping_word, verity_table
from tests.launcher.support import IDENTITY, MIB, make_files

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT, SALT = "ab" * 32, "cd" * 32
VERITY = HashTreeInfo(ROOT, SALT, 4 * MIB)
BUSES = ("CONFIG_EROFS_FS", "CONFIG_FS_DAX", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES")


def verified(known: tuple[str, ...] | None = None) -> BundleFiles:
    files = make_files(size=6 * MIB)
    bundle = files.bundle
    assert bundle.kernel
    bundle = bundle.replace(
        rootfs=bundle.rootfs.replace(verity=VERITY), kernel=bundle.kernel.replace(options=known)
    )
    return files.replace(bundle=bundle, document=bundle.to_json())


def build(
    known: tuple[str, ...] | None = None, others: Sequence[BundleFiles] = (), **options: Any
) -> Machine:
    return build_machine(
        verified(known),
        MachineOptions(**options),
        IDENTITY,
        initrd=Path("/initrd"),
        accel=Accel.TCG,
        tsc_khz=None,
        others=others,
    )


def test_the_kernel_is_told_what_to_verify() -> None:
    table = verity_table(VERITY, "PARTUUID=0123")
    assert table == (
        "0 8192 verity 1 PARTUUID=0123 PARTUUID=0123 4096 4096 1024 1025 "
        f"sha256 {ROOT} {SALT} 1 panic_on_corruption"
    )
    assert mapping_word([table]) == f'dm-mod.create="root0,,0,ro,{table}"'
    machine = build((*BUSES, *OPTIONS))
    assert machine.command_line[-1] == mapping_word([verity_table(VERITY, "/dev/vda")])
    # Nothing is mapped, whatever kernel and image are capable of.
    assert [disk.pmem for disk in machine.disks] == [False]


def test_hyperstart_mounts_what_is_verified() -> None:
    files = verified()
    spec = spec_files(files.bundle, MachineOptions(), build(), IDENTITY, clock=0)
    assert spec["rootfs"] == b"/dev/dm-0 erofs -\n"


def test_a_pod_has_some_that_are_verified_and_some_that_are_mapped() -> None:
    machine = build((*BUSES, *OPTIONS), others=[make_files(), verified()])
    tables = [verity_table(VERITY, device) for device in ("/dev/vda", "/dev/vdb")]
    assert machine.command_line[-1] == mapping_word(tables)
    devices = [root_device(machine.disks, index) for index in range(3)]
    assert devices == ["/dev/dm-0", "/dev/pmem0", "/dev/dm-1"]
    most = build((*BUSES, *OPTIONS), others=[verified()] * 4)
    # QEMU adds less than 400 bytes to what the kernel takes 2048 of.
    assert len(" ".join(most.command_line)) < 1600
    with pytest.raises(InputError, match="6 root file systems under dm-verity do not fit"):
        build((*BUSES, *OPTIONS), others=[verified()] * 5)


def test_dax_is_refused() -> None:
    with pytest.raises(InputError, match=r"--require-dax and dm-verity exclude each other: .*drop"):
        build(require_dax=True)


@pytest.mark.parametrize("missing", OPTIONS)
def test_a_kernel_without_it_is_refused(missing: str) -> None:
    known = (*BUSES, *(name for name in OPTIONS if name != missing))
    with pytest.raises(InputError, match=rf"has no {missing}, .*--profile disk"):
        build(known)


def test_a_bundle_says_what_is_verified() -> None:
    files = verified()
    document = json.loads(files.document)
    assert document["schemaVersion"] == 4
    assert document["rootfs"]["verity"] == {"rootHash": ROOT, "salt": SALT, "hashOffset": 4 * MIB}
    assert Bundle.from_json(files.document, "x") == files.bundle
    # A bundle without it is what it always was.
    plain = json.loads(make_files().document)
    assert plain["schemaVersion"] == 3
    assert "verity" not in plain["rootfs"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rootHash": ROOT[:-1]}, "64 hexadecimal digits"),
        ({"rootHash": ROOT.upper()}, "64 hexadecimal digits"),
        ({"rootHash": ROOT + "\n"}, "64 hexadecimal digits"),
        ({"rootHash": f"{ROOT[:-20]} 0 init=/bin/evil"}, "64 hexadecimal digits"),
        ({"salt": "-"}, "64 hexadecimal digits"),
        ({"salt": 7}, "not a string"),
        ({"hashOffset": 0}, "multiple of 4096"),
        ({"hashOffset": 4 * MIB + 1}, "multiple of 4096"),
        ({"hashOffset": 8 * MIB}, "integer from 0 to"),
        ({"hashOffset": True}, "integer from 0 to"),
        ({"algorithm": "sha256"}, "algorithm is not known"),
    ],
)
def test_what_is_no_hash_tree_is_refused(change: dict[str, object], said: str) -> None:
    document = json.loads(verified().document)
    document["rootfs"]["verity"] |= change
    with pytest.raises(ContentError, match=said):
        Bundle.from_json(json.dumps(document).encode(), "x")


@pytest.mark.parametrize(("version", "said"), [(3, "verity is not known"), (5, "is not 1 to 4")])
def test_no_other_version_has_one(version: int, said: str) -> None:
    document = json.loads(verified().document) | {"schemaVersion": version}
    with pytest.raises(ContentError, match=said):
        Bundle.from_json(json.dumps(document).encode(), "x")


def test_a_corrupted_block_is_explained() -> None:
    told = "device-mapper: verity: 252:0: data block 17 is corrupted\n"
    panic = "Kernel panic - not syncing: dm-verity device corrupted\n"
    found = diagnose(Evidence(console=told + panic))
    assert found is not None
    assert found.name == "verity"
    assert "root file system was changed: " in found.text
    assert "(data block 17)" in found.text
    early = diagnose(Evidence(console=panic))
    assert early is not None
    assert "(" not in early.text
    unmade = diagnose(Evidence(refusal="/dev/dm-0: the VM has no such device"))
    assert unmade is not None
    assert "--profile disk" in unmade.remedy
