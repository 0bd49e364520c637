"""One layer's stream read once: its index, and the data of the files that the image keeps."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Protocol

from hyperbuild.converter import tar
from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.tree import NO_BLOCK, PATH_LIMIT, Entry, Inode, LayerIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.converter.limits import Budget
    from hyperbuild.converter.member import Member
    from hyperbuild.converter.stream import LayerStream

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
#: Names that AUFS kept for itself; layers made on it hold them, runtimes skip them.
AUFS_META = b".wh..wh."
#: The attributes of the namespace ``system`` that files can have.
ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_ACL_VERSION, _ACL_NO_ID = b"\2\0\0\0", b"\xff" * 4
#: The tags of ACL entries that name a user or group, and all of them (linux/posix_acl.h).
_ACL_NAMED = (0x02, 0x08)
_ACL_TAGS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20)
NAME_LIMIT = 255
TARGET_LIMIT = 4095
_NO_NAMES = frozenset((b"", b".", b".."))
_ID_LIMIT = 1 << 32
_TIME_LIMIT = 1 << 63

#: st_mode's type bits; the field may hold any number, which stat.S_IFMT would not take.
_TYPE_MASK = 0o170000
_TYPE_BITS = {
    tar.REGULAR: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHARACTER: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.FIFO: stat.S_IFIFO,
}


class Choice(Protocol):
    """Decides which files' data is written."""

    def __call__(self, entry: int, path: bytes) -> bool:
        """Tell whether the regular file path, the image's entry number entry, is kept."""


class Sink(Protocol):
    """Where the data of the files that are kept goes (an ExtentWriter, or what examines them)."""

    def append(self, data: memoryview) -> int:
        """Take one whole file, valid until ``flush``; return what stands for its ``block``."""

    def append_pieces(self, size: int, segments: Iterable[tuple[int, Iterable[memoryview]]]) -> int:
        """Take one file of size bytes as (offset, data) segments between holes; as ``append``."""

    def flush(self) -> None:
        """Be done with the memory that was handed over."""


def read_layer(
    stream: LayerStream,
    keep: Choice,
    extents: Sink,
    *,
    first_entry: int,
    budget: Budget | None = None,
) -> LayerIndex:
    """Read a layer to its verified end; write the data of the files that keep chooses.

    Entries are numbered from first_entry on and counted in budget (LimitError once it is used up).
    ContentError for names and types that no runtime unpacks; VerificationError if the bytes are not
    what the image declares.
    """
    index = LayerIndex(stream.where)
    number = first_entry
    names = _Names(stream)
    for member in tar.members(stream):
        parent, name, path = names.split(member.name)
        if budget:
            budget.entry(stream.where, path, member.size, _held(member))
        if member.size != member.stored:
            index.holes += member.size - member.stored
            if budget:
                budget.holes(stream.where, member.size - member.stored)
        if name.startswith(WHITEOUT):
            _hide(index, parent, name, stream)
            continue
        if member.type == tar.HARDLINK:
            entry = Entry(path, None, _clean(member.link, stream))
        elif member.mode & _TYPE_MASK == stat.S_IFSOCK:
            index.notices.append(f"socket {printable(path)} is skipped")
            continue
        else:
            inode = _inode(member, number, stream, index)
            entry = Entry(path, inode)
            if member.size and member.type == tar.REGULAR and keep(number, path):
                inode.block = _write(member, stream, extents)
        index.entries.append(entry)
        number += 1
    stream.finish()
    extents.flush()
    index.unpacked = stream.tell()
    return index


class _Names:
    """Archived names made clean; directories recur, so theirs are remembered as spelled."""

    def __init__(self, stream: LayerStream) -> None:
        self._stream = stream
        self._parents: dict[bytes, bytes] = {b"": b""}

    def split(self, name: bytes) -> tuple[bytes, bytes, bytes]:
        """Return an entry's directory, its name there, and both as one path."""
        spelled, _, last = name.rpartition(b"/")
        parent = self._parents.get(spelled)
        if parent is None or last in _NO_NAMES:
            path = _clean(name, self._stream)
            parent, _, clean_last = path.rpartition(b"/")
            if last not in _NO_NAMES:
                self._parents[spelled] = parent
            return parent, clean_last, path
        path = parent + b"/" + last if parent else last
        if len(last) > NAME_LIMIT or len(path) > PATH_LIMIT:
            path = _clean(name, self._stream)
        return parent, last, path


def _clean(name: bytes, stream: LayerStream) -> bytes:
    """Return an archived name relative to the root: no leading "/" or "./", no trailing "/"."""
    if name and b"//" not in name and b"." not in (name[0:1], name[-1:]) and b"/." not in name:
        path = name.strip(b"/")
    else:
        parts = name.split(b"/")
        if not name or b".." in parts:
            raise ContentError(
                f"{stream.where}: the name {printable(name)!r} is refused: "
                "it is empty or leads out of the image"
            )
        path = b"/".join(part for part in parts if part not in (b"", b"."))
    if len(path) > NAME_LIMIT and max(map(len, path.split(b"/"))) > NAME_LIMIT:
        raise ContentError(
            f"{stream.where}: the name {printable(path[:64])!r}… has a component over "
            f"{NAME_LIMIT} bytes, which no file system holds"
        )
    if len(path) > PATH_LIMIT:
        raise ContentError(
            f"{stream.where}: the name {printable(path[:64])!r}… has {len(path)} bytes; "
            f"Linux knows paths of up to {PATH_LIMIT}"
        )
    return path


def _hide(index: LayerIndex, parent: bytes, name: bytes, stream: LayerStream) -> None:
    if name == OPAQUE:
        index.opaques.append(parent)
    elif name in (WHITEOUT, WHITEOUT + b".", WHITEOUT + b".."):
        raise ContentError(
            f"{stream.where}: the whiteout {printable(name)!r} names nothing; it is refused"
        )
    elif not name.startswith(AUFS_META):
        hidden = name.removeprefix(WHITEOUT)
        index.whiteouts.append(parent + b"/" + hidden if parent else hidden)


def _inode(member: Member, number: int, stream: LayerStream, index: LayerIndex) -> Inode:
    kind = member.type
    type_bits = _TYPE_BITS.get(kind)
    if type_bits is None:
        raise ContentError(
            f"{stream.where}: {printable(member.name)!r} has the tar type "
            f"{printable(kind)!r}, which no runtime unpacks"
        )
    if not (0 <= member.uid < _ID_LIMIT and 0 <= member.gid < _ID_LIMIT):
        raise ContentError(f"{stream.where}: {printable(member.name)!r} has an id out of range")
    if not -_TIME_LIMIT <= member.mtime < _TIME_LIMIT:
        raise ContentError(f"{stream.where}: {printable(member.name)!r} has a time out of range")
    inode = Inode(
        type_bits | member.mode & 0o7777,
        member.uid, member.gid, member.mtime, member.mtime_ns, member.size, NO_BLOCK, number,
    )  # fmt: skip
    if kind != tar.REGULAR:
        _add_special(inode, member, stream)
    if member.xattrs:
        inode.xattrs = _kept_xattrs(member, stream, index)
    return inode


def _add_special(inode: Inode, member: Member, stream: LayerStream) -> None:
    """Give what is no regular file what it has of its own."""
    if member.type == tar.DIRECTORY:
        inode.children = {}
    elif member.type == tar.SYMLINK:
        if not 0 < len(member.link) <= TARGET_LIMIT:
            raise ContentError(
                f"{stream.where}: the symlink {printable(member.name)!r} has a target of "
                f"{len(member.link)} bytes; 1 to {TARGET_LIMIT} are possible"
            )
        # Linux has no permissions on symlinks: whatever the archive says, 0777 is what is seen.
        inode.mode = stat.S_IFLNK | 0o777
        inode.target = member.link
    else:
        inode.device = member.device


def _kept_xattrs(
    member: Member, stream: LayerStream, index: LayerIndex
) -> dict[bytes, bytes] | None:
    """Drop ``trusted.*``, state of the host that made the layer, and what Linux has no room for."""
    kept = {}
    for name, value in sorted((member.xattrs or {}).items()):
        namespace, _, rest = name.partition(b".")
        if name in ACLS:
            kept[name] = _acl(value, member, stream)
        elif namespace in (b"user", b"security") and rest:
            kept[name] = value
        elif namespace != b"trusted":
            index.notices.append(
                f"{printable(member.name)}: the extended attribute {printable(name)} is no "
                "attribute of Linux and is dropped"
            )
    return kept or None


def _acl(value: bytes, member: Member, stream: LayerStream) -> bytes:
    """Return a POSIX ACL as Linux gives it back: an id where a user or group is named alone."""
    parts = [value[:4]]
    for at in range(4, len(value), 8):
        tag = int.from_bytes(value[at : at + 2], "little")
        if tag not in _ACL_TAGS or len(value) % 8 != 4:
            break
        parts.append(value[at : at + 8] if tag in _ACL_NAMED else value[at : at + 4] + _ACL_NO_ID)
    else:
        if value[:4] == _ACL_VERSION:
            return b"".join(parts)
    raise ContentError(
        f"{stream.where}: {printable(member.name)!r} has a POSIX ACL that is none; "
        "the image cannot be unpacked"
    )


def _held(member: Member) -> int:
    """Return the bytes of a member that its index keeps in memory."""
    held = len(member.name) + len(member.link)
    if member.xattrs:
        held += sum(len(name) + len(value) for name, value in member.xattrs.items())
    return held


def _write(member: Member, stream: LayerStream, extents: Sink) -> int:
    size = member.size
    if member.segments is not None:
        return extents.append_pieces(size, _sparse(member.segments, stream))
    if stream.ensure() and size <= stream.limit - stream.position:
        start = stream.position
        stream.position = start + size
        return extents.append(stream.buffer[start : start + size])
    return extents.append_pieces(size, [(0, stream.pieces(size))])


def _sparse(
    segments: list[tuple[int, int]], stream: LayerStream
) -> Iterator[tuple[int, Iterator[memoryview]]]:
    for offset, length in segments:
        yield offset, stream.pieces(length)
