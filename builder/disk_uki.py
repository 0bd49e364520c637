"""A unified kernel image: an EFI program that is a kernel, its initramfs and its command line.

systemd's stub (systemd-stub(7)) starts the kernel in its section .linux with what the other
sections hold. They are added to it here: one file, which can be signed as a whole. Source of the
format: Microsoft's "PE Format".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hyperbuild.builder.disk_extents import round_up
from hyperbuild.converter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Names of the stub's sections: a description of the system, the command line, kernel, initramfs.
OS_RELEASE, COMMAND_LINE, KERNEL, INITRD = ".osrel", ".cmdline", ".linux", ".initrd"

_SECTION = struct.Struct("<8sIIIIIIHHI")
_READ_ONLY_DATA = 0x40000040
_PAGE = 4096
#: Places in the header of a 64-bit image, from its beginning (COFF header included).
_SECTIONS, _SYMBOLS, _OPTIONAL_SIZE, _OPTIONAL = 6, 12, 20, 24
_ALIGNMENTS, _SIZES, _CHECKSUM = _OPTIONAL + 32, _OPTIONAL + 56, _OPTIONAL + 64
_X86_64, _PE32_PLUS = 0x8664, 0x20B


def unified_kernel(stub: bytes, sections: Mapping[str, bytes]) -> bytes:
    """Return stub with sections behind its own, in their order.

    ContentError: stub is no 64-bit EFI program for x86, or has no room for more sections.
    """
    try:
        return _joined(stub, sections)
    except (struct.error, IndexError) as error:
        raise ContentError("the EFI stub is cut off; reinstall systemd-boot-efi") from error


def _joined(stub: bytes, sections: Mapping[str, bytes]) -> bytes:
    (start,) = struct.unpack_from("<I", stub, 0x3C)
    magic, machine, count = struct.unpack_from("<4sHH", stub, start)
    (optional_size,) = struct.unpack_from("<H", stub, start + _OPTIONAL_SIZE)
    (kind,) = struct.unpack_from("<H", stub, start + _OPTIONAL)
    if (magic, machine, kind) != (b"PE\0\0", _X86_64, _PE32_PLUS):
        raise ContentError("the EFI stub is no EFI program for x86-64; reinstall systemd-boot-efi")
    alignment, file_alignment = struct.unpack_from("<II", stub, start + _ALIGNMENTS)
    image_size, header_size = struct.unpack_from("<II", stub, start + _SIZES)
    table = start + _OPTIONAL + optional_size
    own = [_SECTION.unpack_from(stub, table + place * _SECTION.size) for place in range(count)]
    needed = round_up(table + (count + len(sections)) * _SECTION.size, file_alignment)
    grown = max(needed, header_size)
    if grown > min(address for _, _, address, *_ in own):
        raise ContentError("the EFI stub has no room for more sections; reinstall systemd-boot-efi")
    lines, pieces = [], []
    for name, in_memory, address, size, place, *rest in own:
        pieces.append((place + grown - header_size, stub[place : place + size]))
        lines.append((name, in_memory, address, size, place + grown - header_size, *rest))
    end = max(place + len(content) for place, content in pieces)
    for name, content in sections.items():
        # Pages of its own, so that whoever measures or maps a section has nothing else in it.
        address, place = round_up(image_size, _PAGE), round_up(end, file_alignment)
        size = round_up(len(content), file_alignment)
        line = (name.encode("ascii"), len(content), address, size, place, 0, 0, 0, 0)
        lines.append((*line, _READ_ONLY_DATA))
        pieces.append((place, content.ljust(size, b"\0")))
        image_size, end = round_up(address + len(content), alignment), place + size
    header = bytearray(stub[:table])
    struct.pack_into("<H", header, start + _SECTIONS, len(lines))
    # Symbols lay behind the sections, where there is something else now.
    struct.pack_into("<II", header, start + _SYMBOLS, 0, 0)
    struct.pack_into("<II", header, start + _SIZES, image_size, grown)
    # No firmware asks for a checksum.
    struct.pack_into("<I", header, start + _CHECKSUM, 0)
    result = bytearray(end)
    result[: len(header)] = header
    for number, line in enumerate(lines):
        _SECTION.pack_into(result, table + number * _SECTION.size, *line)
    for place, content in pieces:
        result[place : place + len(content)] = content
    return bytes(result)
