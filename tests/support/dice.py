"""Random images out of any source of choices: hypothesis, a seeded generator, a fuzzer's bytes.

What comes out is always a well-formed archive; whether the entries make sense together is for the
model and the converter to agree on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from tests.support import tarball
from tests.support.model import Model, RefusedError
from tests.support.tarball import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    Item = TypeVar("Item")

_NANO = 1_000_000_000
#: Few names, so that entries meet; one that is not UTF-8, one that no short header holds.
NAMES = (b"a", b"b", b"c", b"a", b"b", b"\xff\xfe", "é\n".encode(), b"..x", b"n" * 120)
TARGETS = (
    b"a", b"b", b"/a/b", b"../c", b"../../..", b"b/c", b"/nowhere/yet", b"./b/.", b"/", b"l" * 130
)  # fmt: skip
_MODES = (0o644, 0o755, 0o700, 0o4755, 0o1777, 0, 0o7777)
_IDS = (0, 1, 1000, (1 << 21) - 1, 1 << 21, (1 << 32) - 2)
_TIMES = (0, 1_700_000_000, 1_700_000_000.25, -1, -1.5, 2**31, 2**33 + 1)
_SIZES = (0, 1, 5, 511, 512, 513, 4096, 4097, 12_288)
_XATTRS = (
    (b"user.a", b"1"),
    (b"user.binary", b"\xff\0=\n"),
    (b"security.capability", bytes.fromhex("0100000200040000000000000000000000000000")),
    (b"security.selinux", b"system_u:object_r:bin_t:s0\0"),
    (b"trusted.overlay.opaque", b"y"),
    (b"user.long", b"v" * 300),
    (
        b"system.posix_acl_access",
        bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff"
                      "10000400ffffffff20000400ffffffff"),
    ),
)  # fmt: skip


class Dice(Protocol):
    """A source of choices."""

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1."""


class Bytes:
    """Choices by bytes, as a fuzzer gives them; zeros when they have run out."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def below(self, limit: int) -> int:
        """Use up one byte."""
        self._at += 1
        return self._content[self._at - 1] % limit if self._at <= len(self._content) else 0


def one_of(dice: Dice, items: Sequence[Item]) -> Item:
    """Choose one of items."""
    return items[dice.below(len(items))]


def image(dice: Dice) -> list[list[Entry]]:
    """Return one to four layers of up to eight entries; most are images that can be unpacked.

    Chance alone makes hard links to nothing and files as parents all the time; seven in eight of
    the entries that no runtime takes are left out, so that what follows them is met at all.
    """
    layers: list[list[Entry]] = []
    model = Model()
    for _ in range(1 + dice.below(4)):
        wanted = [entry(dice) for _ in range(dice.below(9))]
        while (wrong := _refused(model.copy(), wanted)) is not None and dice.below(8):
            wanted.remove(wrong)
        layers.append(wanted)
        model = model.copy()
        with suppress(RefusedError):
            model.apply(wanted)
    return layers


def _refused(model: Model, layer: Sequence[Entry]) -> Entry | None:
    try:
        model.apply(layer)
    except RefusedError as error:
        return error.entry
    return None


def entry(dice: Dice) -> Entry:
    """Return an entry of any kind at a path that others are likely to have too."""
    path = _path(dice)
    match dice.below(16):
        case 0 | 1 | 2 | 3:
            return _file(dice, path)
        case 4 | 5 | 6:
            return _described(dice, Entry(path + _slash(dice), tarball.DIRECTORY))
        case 7 | 8:
            return _described(dice, Entry(path, tarball.SYMLINK, link=one_of(dice, TARGETS)))
        case 9 | 10 | 11:
            return Entry(path, tarball.HARD, link=_path(dice))
        case 12:
            kind = one_of(dice, (tarball.FIFO, tarball.CHARACTER, tarball.BLOCK_DEVICE))
            device = (dice.below(4096), dice.below(256) << dice.below(12))
            return _described(dice, Entry(path, kind, device=device))
        case 13 | 14:
            parent, _, name = path.rpartition(b"/")
            return Entry((parent + b"/" if parent else b"") + b".wh." + name)
        case _:
            return Entry(one_of(dice, (path, path, b".")) + b"/.wh..wh..opq")


def layer_tar(
    dice: Dice, entries: Sequence[Entry], known: Sequence[str] = tarball.DIALECTS
) -> bytes:
    """Write entries, each in one of the known dialects that can say it."""
    members = []
    for item in entries:
        dialects = [name for name in known if tarball.fits(item, name)]
        dialect = one_of(dice, dialects)
        sparse = "gnu" if dialect == "gnu" else one_of(dice, tarball.SPARSE_PAX)
        members.append(tarball.member(item, dialect, sparse))
    return tarball.archive(*members, end=dice.below(8) != 0)


def _path(dice: Dice) -> bytes:
    names = [one_of(dice, NAMES) for _ in range(1 + dice.below(3))]
    path = one_of(dice, (b"/", b"/", b"/", b"//", b"/./")).join(names)
    start = one_of(dice, (b"", b"", b"", b"", b"./", b"/", b"././", b"//"))
    return start + path


def _slash(dice: Dice) -> bytes:
    return one_of(dice, (b"/", b"/", b"", b"//"))


def _file(dice: Dice, path: bytes) -> Entry:
    size = one_of(dice, _SIZES)
    data = bytes([0x61 + dice.below(26)]) * size
    plain = _described(dice, Entry(path, data=data))
    if size < 4096 or dice.below(3):
        return plain
    start, length = 512 * dice.below(4), 512 * (1 + dice.below(4))
    holed = data[:start] + bytes(length) + data[start + length :]
    return replace(plain, data=holed, holes=((start, length),))


def _described(dice: Dice, bare: Entry) -> Entry:
    if dice.below(2):
        return bare
    xattrs = dict(one_of(dice, _XATTRS) for _ in range(dice.below(4)))
    return replace(
        bare,
        mode=one_of(dice, _MODES),
        uid=one_of(dice, _IDS),
        gid=one_of(dice, _IDS),
        mtime=int(one_of(dice, _TIMES) * _NANO),
        xattrs=xattrs if bare.kind in (tarball.FILE, tarball.DIRECTORY) else {},
    )
