"""What a vmlinux says about itself: can it be booted directly, which Linux is it, how large.

Direct boot is PVH: the hypervisor loads the ELF segments and jumps, in 32-bit mode, to the address
in the note XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h).
"""

from __future__ import annotations

import mmap
import os
import re
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PHYS32_ENTRY = 18
_GNU_BUILD_ID = 3
_BANNER = re.compile(rb"Linux version ([0-9]+\.[0-9]+[0-9A-Za-z.+_~-]{0,120}) \(")

#: More headers than any kernel has; a count beyond is damage, not worth a loop.
_MAX_HEADERS = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """One loaded range: physical address, bytes in the file, bytes in memory."""

    address: int
    file_size: int
    memory_size: int


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A bootable vmlinux: ``pvh_entry`` is a physical address, sizes are bytes."""

    version: str
    machine: str
    pvh_entry: int
    build_id: str | None
    size: int
    segments: tuple[Segment, ...]
    sections: tuple[tuple[str, int], ...]


def read_kernel(path: Path) -> KernelImage:
    """Return what the vmlinux at path is.

    ContentError when it cannot be booted directly on x86-64: another kind of file, a cut-off one,
    another machine, no PVH entry. Memory used does not depend on what headers declare.
    """
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            raise ContentError(f"{path} is empty; give a vmlinux")
        # A map reads no further than its end, however much a header asks for.
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data:
            _check_kind(path, data)
            try:
                return _read(path, data)
            except (ELFError, ConstructError, ValueError, OverflowError, UnicodeError) as error:
                raise ContentError(
                    f"{path} is a damaged ELF file ({error or type(error).__name__}); "
                    "give a whole vmlinux"
                ) from error
    finally:
        os.close(fd)


def _check_kind(path: Path, data: mmap.mmap) -> None:
    if data[:4] == b"\x7fELF":
        return
    if data[0x202:0x206] == b"HdrS":
        raise ContentError(
            f"{path} is a bzImage, which is not booted directly; give the vmlinux it was made from "
            "(the kernel tree's scripts/extract-vmlinux unpacks it)"
        )
    raise ContentError(f"{path} is not an ELF file; give a vmlinux")


def _read(path: Path, data: mmap.mmap) -> KernelImage:
    elf = ELFFile(cast("IO[bytes]", data))
    machine = elf.header["e_machine"]
    if machine != "EM_X86_64" or elf.elfclass != 64 or not elf.little_endian:
        raise ContentError(f"{path} is for {machine}, not for x86-64; give an x86-64 vmlinux")
    if max(elf.num_segments(), elf.num_sections()) > _MAX_HEADERS:
        raise ContentError(f"{path} declares too many headers; give a whole vmlinux")
    segments = tuple(_loaded(path, elf, len(data)))
    notes = dict(_notes(elf))
    banner = _BANNER.search(data)
    if banner is None:
        raise ContentError(f"{path} has no Linux version banner; give a Linux kernel")
    build_id = notes.get(("GNU", _GNU_BUILD_ID))
    return KernelImage(
        version=banner[1].decode("ascii"),
        machine="x86-64",
        pvh_entry=_entry(path, notes.get(("Xen", _PHYS32_ENTRY)), segments),
        build_id=build_id.hex() if build_id else None,
        size=len(data),
        segments=segments,
        sections=tuple((part.name, part["sh_size"]) for part in elf.iter_sections() if part.name),
    )


def _loaded(path: Path, elf: ELFFile, size: int) -> Iterator[Segment]:
    for segment in elf.iter_segments("PT_LOAD"):
        if segment["p_offset"] + segment["p_filesz"] > size:
            raise ContentError(f"{path} is cut off; give a whole vmlinux")
        yield Segment(segment["p_paddr"], segment["p_filesz"], segment["p_memsz"])


def _notes(elf: ELFFile) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Yield ((owner, type), descriptor) of every note in the program headers."""
    kinds = {"NT_GNU_BUILD_ID": _GNU_BUILD_ID}
    for segment in elf.iter_segments("PT_NOTE"):
        if isinstance(segment, NoteSegment):
            for note in segment.iter_notes():
                kind = note["n_type"]
                number = kind if isinstance(kind, int) else kinds.get(kind, -1)
                yield (note["n_name"], number), note["n_descdata"]


def _entry(path: Path, note: bytes | None, segments: tuple[Segment, ...]) -> int:
    if note is None or len(note) not in {4, 8}:
        raise ContentError(
            f"{path} has no PVH entry note and can't be booted directly; "
            "build it with CONFIG_PVH=y, or use: hyperbuild kernel build"
        )
    entry = int.from_bytes(note, "little")
    if not any(part.address <= entry < part.address + part.file_size for part in segments):
        raise ContentError(f"{path}: the PVH entry {entry:#x} is not in it; give a whole vmlinux")
    return entry
