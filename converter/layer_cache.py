"""Layers that were read before: what each holds, and a root file system that has its files' data.

    KEY.index    a layer's entries; KEY stands for its DiffID, blob digest and size
    KEY.donor    the root file system made last with that layer, and where its data lies there
    KEY.blob     the file in which its blob was found sound, and nothing touched since

An image of which only the top layer changed is converted by reading that layer alone: the entries
of the others are here, their files' data is copied from the donor. A donor is any file that has
not been touched since it was written (files.Identity).
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from array import array
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.files import Identity
from hyperbuild.converter.layout import Range
from hyperbuild.converter.tree import NO_BLOCK, Entry, Inode, LayerIndex

if TYPE_CHECKING:
    from io import RawIOBase

    from hyperbuild.converter.oci import Descriptor, DiffID
    from hyperbuild.converter.sealed import Sealed

    #: A layer's index as the fields and sections of a file.
    Encoded = tuple[dict[str, Any], bytes, array[int]]

#: The row of an entry that has no inode of its own.
_HARD_LINK = (-1, 0, 0, 0, 0, 0)
_ROW = Struct("=6q")
#: A file changed within this time may be changed again and look the same: clocks of file systems
#: are coarse.
_RECENT_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LayerKey:
    """What makes a layer the one that was read before: its blob, and what that unpacks to."""

    digest: str
    size: int
    diff_id: DiffID

    @classmethod
    def of(cls, layer: Descriptor, diff_id: DiffID) -> LayerKey:
        """Return the key of a layer as its manifest and config declare it."""
        return cls(layer.digest, layer.size, diff_id)

    @property
    def name(self) -> str:
        """The layer's name in the cache."""
        return hashlib.sha256(f"{self.diff_id} {self.digest} {self.size}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Donor:
    """An open file ``fd`` that has a layer's data: ``blocks`` by entry, NO_BLOCK where not.

    ``sums`` are those of the files that have blocks, in order (extents.ExtentWriter).
    """

    fd: int
    identity: Identity
    blocks: array[int]
    sums: array[int]

    def is_untouched(self) -> bool:
        """Tell whether the file is still as it was written."""
        return Identity.of(self.fd, self.identity.path) == self.identity

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Loan:
    """A layer as it is kept, and where its files' data lie in a root file system; as in Donor.

    ``index`` is None if it was taken from the cache.
    """

    key: LayerKey
    index: Encoded | None
    blocks: array[int]
    sums: array[int]


class LayerCache:
    """The cache of layers in files."""

    def __init__(self, files: Sealed) -> None:
        self._files = files

    def index(self, key: LayerKey, where: str, first_entry: int) -> LayerIndex | None:
        """Return a layer's entries, numbered from first_entry on; None if they are not here."""
        found = self._files.read(f"{key.name}.index")
        return found and _decode(*found, where=where, first_entry=first_entry)

    def has(self, key: LayerKey) -> bool:
        """Tell whether a layer's entries are here, sound or not."""
        return self._files.has(f"{key.name}.index")

    def keep(self, key: LayerKey, encoded: Encoded) -> None:
        """Keep the entries of a layer that was read to its verified end."""
        if not self.has(key):
            fields, paths, rows = encoded
            self._files.write(f"{key.name}.index", fields, paths, rows)

    def is_sound(self, key: LayerKey, identity: Identity) -> bool:
        """Tell whether a layer's blob in the file identity was verified, as the file is now."""
        found = self._files.read(f"{key.name}.blob")
        return found is not None and Identity(**found[0]) == identity

    def note_sound(self, key: LayerKey, identity: Identity) -> None:
        """Note that a layer's blob was verified; identity is of before it was read."""
        if time.time_ns() - identity.ctime_ns > _RECENT_NS:
            self._files.write(f"{key.name}.blob", identity.as_dict())

    def donor(self, key: LayerKey) -> Donor | None:
        """Open the file that has a layer's data; None if there is none, or it was touched."""
        found = self._files.read(f"{key.name}.donor")
        if found is None:
            return None
        fields, (blocks, sums) = found
        identity = Identity(**fields)
        fd = identity.open()
        return None if fd is None else Donor(fd, identity, _numbers(blocks), _numbers(sums))

    def lend(self, loan: Loan, identity: Identity) -> None:
        """Keep a layer and where its data lies, unless a file that has more of it is noted."""
        identity.settle()
        if loan.index:
            self.keep(loan.key, loan.index)
        known = self.donor(loan.key)
        if known:
            known.close()
            if len(known.sums) > len(loan.sums):
                return
        name = f"{loan.key.name}.donor"
        self._files.write(name, identity.as_dict(), loan.blocks, loan.sums)


@dataclass(frozen=True, slots=True)
class BlobFile:
    """The file that a layer's blob is read from, as it was before: ``cache`` may know it as sound.

    ``identity`` is None for what is no file of its own.
    """

    cache: LayerCache | None
    key: LayerKey
    identity: Identity | None

    @classmethod
    def of(
        cls, raw: RawIOBase, layer: tuple[Descriptor, DiffID], cache: LayerCache | None
    ) -> BlobFile:
        """Describe the file of an opened layer."""
        identity = raw.identity() if isinstance(raw, Range) else None
        return cls(cache, LayerKey.of(*layer), identity)

    def is_sound(self) -> bool:
        """Tell whether the blob was verified, and the file is still as it was then."""
        if self.cache is None or self.identity is None:
            return False
        return self.cache.is_sound(self.key, self.identity)

    def note_sound(self) -> None:
        """Note that the blob was verified."""
        if self.cache and self.identity:
            self.cache.note_sound(self.key, self.identity)


def _numbers(content: memoryview) -> array[int]:
    numbers = array("q")
    numbers.frombytes(content)
    return numbers


def encode_index(index: LayerIndex) -> Encoded:
    """Return a layer's entries as they are kept.

    What few entries have by their place, the paths, and a row of numbers for each.
    """
    rows, links, targets, devices, xattrs = array("q"), [], [], [], []
    for at, entry in enumerate(index.entries):
        inode = entry.inode
        if inode is None:
            rows.extend(_HARD_LINK)
            links.append((at, _text(entry.link)))
            continue
        rows.extend((inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns, inode.size))
        if inode.target:
            targets.append((at, _text(inode.target)))
        if inode.device != (0, 0):
            devices.append((at, inode.device))
        if inode.xattrs:
            xattrs.append((at, [(_text(k), _text(v)) for k, v in inode.xattrs.items()]))
    fields = {
        "links": links, "targets": targets, "devices": devices, "xattrs": xattrs,
        "whiteouts": [_text(path) for path in index.whiteouts],
        "opaques": [_text(path) for path in index.opaques],
        "notices": index.notices, "unpacked": index.unpacked, "holes": index.holes,
    }  # fmt: skip
    # An empty name behind the last: each path has its NUL, none is copied for it.
    return fields, b"\0".join((*(entry.path for entry in index.entries), b"")), rows


def _decode(
    fields: dict[str, Any], sections: list[memoryview], *, where: str, first_entry: int
) -> LayerIndex:
    paths, rows = bytes(sections[0]).split(b"\0")[:-1], _ROW.iter_unpack(sections[1])
    entries = []
    for number, (path, row) in enumerate(zip(paths, rows, strict=True), first_entry):
        inode = None
        if row != _HARD_LINK:
            mode, uid, gid, mtime, mtime_ns, size = row
            inode = Inode(mode, uid, gid, mtime, mtime_ns, size, NO_BLOCK, number)
            if stat.S_ISDIR(inode.mode):
                inode.children = {}
        entries.append(Entry(path, inode))
    for at, link in fields["links"]:
        entries[at].link = _raw(link)
    for at, target in fields["targets"]:
        _inode_of(entries[at]).target = _raw(target)
    for at, device in fields["devices"]:
        _inode_of(entries[at]).device = (device[0], device[1])
    for at, xattrs in fields["xattrs"]:
        _inode_of(entries[at]).xattrs = {_raw(name): _raw(value) for name, value in xattrs}
    return LayerIndex(
        where, entries,
        [_raw(path) for path in fields["whiteouts"]], [_raw(path) for path in fields["opaques"]],
        fields["notices"], fields["unpacked"], fields["holes"],
    )  # fmt: skip


def _inode_of(entry: Entry) -> Inode:
    assert entry.inode is not None  # noqa: S101 - what has these fields is no hard link
    return entry.inode


def _text(raw: bytes) -> str:
    """Return any bytes as text that JSON takes, a character for each."""
    return raw.decode("latin-1")


def _raw(text: str) -> bytes:
    return text.encode("latin-1")
