from __future__ import annotations

import os
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError, InputError, UnavailableError
from hyperbuild.kernel.elf import read_kernel
from tests.kernel.tiny import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.kernel.build import Kernel

E_MACHINE, E_PHOFF, E_SHOFF, E_PHNUM, E_SHNUM = 18, 32, 40, 56, 60
P_OFFSET, P_FILESZ, PH_SIZE = 8, 32, 56
PT_LOAD, PT_NOTE = 1, 4


def variant(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "variant"
    path.write_bytes(content)
    return path


def patch(content: bytes, offset: int, form: str, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def pvh_note(content: bytes) -> int:
    return content.index(struct.pack("<III", 4, 8, 18) + b"Xen\0")


def program_header(content: bytes, kind: int) -> int:
    """Return where the header is of the segment of that kind which holds the PVH note."""
    (start,) = struct.unpack_from("<Q", content, E_PHOFF)
    (count,) = struct.unpack_from("<H", content, E_PHNUM)
    for at in (start + PH_SIZE * index for index in range(count)):
        (found,) = struct.unpack_from("<I", content, at)
        (offset,) = struct.unpack_from("<Q", content, at + P_OFFSET)
        (size,) = struct.unpack_from("<Q", content, at + P_FILESZ)
        if found == kind and offset <= pvh_note(content) < offset + size:
            return at
    raise AssertionError(f"no program header of kind {kind} holds the note")


def test_a_bootable_kernel_tells_what_it_is(tiny_vmlinux: Path) -> None:
    image = read_kernel(tiny_vmlinux)
    assert (image.version, image.machine) == (VERSION, "x86-64")
    assert image.size == tiny_vmlinux.stat().st_size
    assert any(
        part.address <= image.pvh_entry < part.address + part.file_size for part in image.segments
    )
    assert image.build_id is None or len(image.build_id) == 40
    assert dict(image.sections)[".text"] == 1


def test_the_hyperkernel_is_bootable(kernel: Kernel) -> None:
    image = read_kernel(kernel.path)
    assert image.version == kernel.version
    assert image.version.endswith("-hyper")
    assert image.pvh_entry >= 0x1000000
    assert image.build_id is not None
    assert not any(name.startswith((".debug", ".symtab")) for name, _ in image.sections)


def test_a_bzimage_is_named_and_the_way_out_told(tmp_path: Path) -> None:
    content = bytearray(4096)
    content[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    with pytest.raises(ContentError, match=r"is a bzImage.*give the vmlinux"):
        read_kernel(variant(tmp_path, bytes(content)))


@pytest.mark.parametrize("content", [b"", b"\x7f", b"MZ" + bytes(600), b"#!/bin/sh\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ContentError, match=r"is (empty|not an ELF file); give a vmlinux"):
        read_kernel(variant(tmp_path, content))


def test_a_missing_file_a_directory_and_a_fifo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        read_kernel(tmp_path / "gone")
    with pytest.raises(InputError, match="not a regular file"):
        read_kernel(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="not a regular file"):
        read_kernel(tmp_path / "fifo")


def test_another_machine_is_refused(tmp_path: Path, tiny_vmlinux: Path) -> None:
    content = patch(tiny_vmlinux.read_bytes(), E_MACHINE, "<H", 183)
    with pytest.raises(ContentError, match="is for EM_AARCH64, not for x86-64"):
        read_kernel(variant(tmp_path, content))


def test_a_kernel_without_pvh_entry_is_refused(tmp_path: Path, tiny_vmlinux: Path) -> None:
    content = tiny_vmlinux.read_bytes()
    without = patch(content, pvh_note(content) + 8, "<I", 17)
    with pytest.raises(ContentError, match=r"no PVH entry note.*CONFIG_PVH=y"):
        read_kernel(variant(tmp_path, without))


def test_a_pvh_entry_outside_the_kernel_is_refused(tmp_path: Path, tiny_vmlinux: Path) -> None:
    content = tiny_vmlinux.read_bytes()
    note = pvh_note(content)
    with pytest.raises(ContentError, match="entry 0x1 is not in it"):
        read_kernel(variant(tmp_path, patch(content, note + 16, "<Q", 1)))


def test_a_program_that_is_not_linux_is_refused(tmp_path: Path, tiny_vmlinux: Path) -> None:
    content = tiny_vmlinux.read_bytes().replace(b"Linux version 6", b"Linux version X")
    with pytest.raises(ContentError, match="no Linux version banner"):
        read_kernel(variant(tmp_path, content))


@pytest.mark.parametrize("kept", [4, 20, 63, 64, 100, 0.5, 0.9])
def test_a_cut_off_kernel_is_refused(tmp_path: Path, tiny_vmlinux: Path, kept: float) -> None:
    content = tiny_vmlinux.read_bytes()
    end = kept if isinstance(kept, int) else int(len(content) * kept)
    with pytest.raises(ContentError):
        read_kernel(variant(tmp_path, content[:end]))


def test_declared_sizes_cost_no_memory(tmp_path: Path, tiny_vmlinux: Path) -> None:
    content = tiny_vmlinux.read_bytes()
    note = pvh_note(content)
    header = program_header(content, PT_NOTE)
    hostile = [
        patch(content, program_header(content, PT_LOAD) + P_FILESZ, "<Q", 1 << 62),
        patch(patch(content, header + P_FILESZ, "<Q", 1 << 40), note + 4, "<I", 0xFFFFFFF0),
        patch(patch(content, header + P_FILESZ, "<Q", 1 << 40), note, "<I", 0xFFFFFFF0),
        patch(content, E_PHNUM, "<H", 0xFFFF),
        patch(content, E_SHNUM, "<H", 0xFEFF),
        patch(content, E_SHOFF, "<Q", (1 << 64) - 1),
        patch(content, header + P_OFFSET, "<Q", (1 << 64) - 1),
    ]
    tracemalloc.start()
    try:
        for bad in hostile:
            with pytest.raises(ContentError):
                read_kernel(variant(tmp_path, bad))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_survived(
    tmp_path: Path, tiny_vmlinux: Path, damage: list[tuple[int, int]]
) -> None:
    content = bytearray(tiny_vmlinux.read_bytes())
    for offset, value in damage:
        # Half of the blows go to the headers, where they hurt.
        content[offset % (len(content) if offset % 2 else 400)] = value
    try:
        read_kernel(variant(tmp_path, bytes(content)))
    except ContentError as error:
        assert "\n" not in str(error)
