"""What programs in ELF files were built from, as Go's linker and cargo-auditable write it there.

Sources: Go's debug/buildinfo; the README of cargo-auditable (".dep-v0"); elf(5).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.installed import Package, clean, read_object
from hyperbuild.converter.errors import ContentError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Mapping

_GO_SECTION, _RUST_SECTION = b".go.buildinfo", b".dep-v0"
_GO_MAGIC = b"\xff Go buildinf:"
_GO_ALIGNMENT, _GO_HEADER = 16, 32
_BIG_ENDIAN, _INLINE = 1, 2
#: Lines of modules stand between two marks of this many bytes.
_MODULES_MARK = 16
_HEADERS_LIMIT = 4096
_NAMES_LIMIT = 1 << 20
#: How much is read of what was built in, and how much it may unpack to.
_SECTION_LIMIT = 4 << 20
_UNPACKED_LIMIT = 16 << 20
_LOADED, _WRITABLE = 1, 2


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where an ELF file of one width has what is read of it; forms are of ``struct``.

    ``tables`` and ``counts`` are places in the file's header; ``program`` are the places in a
    program header's fields of flags, offset, address and size in the file.
    """

    number: str
    tables: int
    counts: int
    program_form: str
    program: tuple[int, int, int, int]
    section_form: str


_LAYOUTS = {
    1: _Layout("I", 28, 42, "8I", (6, 1, 2, 4), "10I"),
    2: _Layout("Q", 32, 54, "II6Q", (1, 2, 3, 5), "II4QIIQQ"),
}
_ORDERS = {1: "<", 2: ">"}


@dataclass(frozen=True, slots=True)
class _Elf:
    """The places in an ELF file: sections (offset, size), loaded segments (address, offset, size).

    ``sections`` is None if it has none; ``data`` is the first segment that may be written to.
    """

    sections: Mapping[bytes, tuple[int, int]] | None
    segments: tuple[tuple[int, int, int], ...]
    data: tuple[int, int]


def read_program(stream: io.RawIOBase) -> Iterator[Package]:
    """Yield what the program in stream was built from, if it says so.

    ContentError: it is damaged. pyelftools would take longer over each of thousands of programs
    than all else that is read of an image.
    """
    try:
        elf = _read_elf(stream)
        if elf is None:
            return
        sections = elf.sections or {}
        if _RUST_SECTION in sections:
            yield from _rust(_at(stream, *sections[_RUST_SECTION]))
        place = elf.data if elf.sections is None else sections.get(_GO_SECTION)
        if place:
            yield from _go(stream, elf, _at(stream, *place))
    except (struct.error, zlib.error, ValueError) as error:
        raise ContentError("what was built into it is damaged") from error


def _at(stream: io.RawIOBase, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(min(size, _SECTION_LIMIT)) or b""


def _read_elf(stream: io.RawIOBase) -> _Elf | None:
    head = _at(stream, 0, 64)
    is_elf = len(head) == 64 and head[:4] == b"\x7fELF"
    if not is_elf or head[4] not in _LAYOUTS or head[5] not in _ORDERS:
        return None
    layout, order = _LAYOUTS[head[4]], _ORDERS[head[5]]
    programs, sections = struct.unpack_from(f"{order}2{layout.number}", head, layout.tables)
    counts = struct.unpack_from(f"{order}5H", head, layout.counts)
    loaded, data = [], (0, 0)
    for fields in _table(stream, programs, counts[:2], order + layout.program_form):
        flags, offset, address, size = (fields[place] for place in layout.program)
        if fields[0] == _LOADED:
            loaded.append((address, offset, size))
            data = (offset, size) if flags & _WRITABLE and not data[1] else data
    found = _table(stream, sections, counts[2:4], order + layout.section_form)
    return _Elf(_named(stream, found, counts[4]) if found else None, tuple(loaded), data)


def _table(
    stream: io.RawIOBase, offset: int, counts: tuple[int, ...], form: str
) -> list[tuple[int, ...]]:
    """Return the rows of a table of headers; counts are a row's size in bytes and their number."""
    size, number = counts
    if size != struct.calcsize(form) or number > _HEADERS_LIMIT:
        return []
    table = _at(stream, offset, size * number)
    return list(struct.iter_unpack(form, table[: len(table) // size * size]))


def _named(
    stream: io.RawIOBase, sections: list[tuple[int, ...]], names: int
) -> dict[bytes, tuple[int, int]]:
    """Return offset and size of those sections that are looked for; names is the names' own."""
    if names >= len(sections):
        return {}
    texts = _at(stream, sections[names][4], min(sections[names][5], _NAMES_LIMIT))
    return {
        name: (fields[4], fields[5])
        for fields in sections
        for name in (_GO_SECTION, _RUST_SECTION)
        if texts.startswith(name + b"\0", fields[0])
    }


def _rust(section: bytes) -> Iterator[Package]:
    """Yield the crates of a zlib-compressed JSON document."""
    raw = zlib.decompressobj().decompress(section, _UNPACKED_LIMIT)
    packages = read_object(raw, "the list of crates").get("packages")
    for fields in packages if isinstance(packages, list) else ():
        if isinstance(fields, dict) and fields.get("kind", "runtime") == "runtime":
            name, version = clean(fields.get("name")), clean(fields.get("version"))
            if name and version:
                yield Package("cargo", name, version)


def _go(stream: io.RawIOBase, elf: _Elf, content: bytes) -> Iterator[Package]:
    at = content.find(_GO_MAGIC)
    while at % _GO_ALIGNMENT and at >= 0:
        at = content.find(_GO_MAGIC, at + 1)
    if at < 0 or len(content) < at + _GO_HEADER:
        return
    size, flags = content[at + 14], content[at + 15]
    if flags & _INLINE:
        version, rest = _prefixed(content[at + _GO_HEADER :])
        modules, _ = _prefixed(rest)
    else:
        order = "<>"[flags & _BIG_ENDIAN]
        form = f"{order}{'Q' if size == 8 else 'I'}"
        version, modules = (
            _pointed(stream, elf, form, struct.unpack_from(form, content, at + 16 + i * size)[0])
            for i in (0, 1)
        )
    yield from _go_modules(version, modules)


def _prefixed(content: bytes) -> tuple[bytes, bytes]:
    """Return the string that content begins with, and the rest; its length is a varint."""
    length = 0
    for place, byte in enumerate(content[:5]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            rest = content[place + 1 :]
            return rest[:length], rest[length:]
    return b"", b""


def _pointed(stream: io.RawIOBase, elf: _Elf, form: str, address: int) -> bytes:
    """Return the string whose header (address, length) is at address, as Go before 1.18 has it."""
    size = 8 if form[1] == "Q" else 4
    header = _loaded(stream, elf, address, 2 * size)
    start, length = struct.unpack_from(f"{form}{form[1]}", header)
    return _loaded(stream, elf, start, length)


def _loaded(stream: io.RawIOBase, elf: _Elf, address: int, size: int) -> bytes:
    for start, offset, length in elf.segments:
        if start <= address < start + length:
            return _at(stream, offset + address - start, min(size, start + length - address))
    return b""


def _go_modules(version: bytes, modules: bytes) -> Iterator[Package]:
    """Yield the standard library, the main module and those it needs; replaced ones as they are."""
    number = clean(version).partition(" ")[0].removeprefix("go")
    if number:
        yield Package("golang", "stdlib", number)
    if modules[-_MODULES_MARK - 1 : -_MODULES_MARK] != b"\n":
        return
    found: list[tuple[str, str]] = []
    for line in modules[_MODULES_MARK:-_MODULES_MARK].splitlines():
        word, *fields = (clean(field) for field in line.split(b"\t"))
        if word in ("mod", "dep", "=>") and fields and fields[0]:
            if word == "=>" and fields[0].startswith((".", "/")):
                # A directory of whoever built it is no name for others.
                continue
            if word == "=>" and found:
                found.pop()
            found.append((fields[0], fields[1] if len(fields) > 1 else ""))
    for path, number in found:
        namespace, _, name = path.rpartition("/")
        if name:
            number = "" if number == "(devel)" else number
            yield Package("golang", name, number, namespace=namespace)
