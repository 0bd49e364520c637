"""An image of hard cases: what layers may do to one another, and what a file may be."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import layout as layouts
from tests.support.layout import MTIME, Item, layer_tar, write_layout

if TYPE_CHECKING:
    from tests.support.workshop import Workshop

RECIPE = (Path(__file__), Path(layouts.__file__))

CONFIG = {
    "Env": ["PATH=/usr/bin:/bin", "EMPTY=", "SPACED=one two", "UNICODE=ünïcödé"],
    "Cmd": ["/bin/sh"],
    "WorkingDir": "/dirs",
    "User": "0:0",
    "Labels": {"purpose": "torture"},
}
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def make_torture(_shop: Workshop, target: Path) -> None:
    """Make the image; its layers change dialect and compression from one to the next."""
    layers = [
        (layer_tar(_ground()), True),
        (layer_tar(_changes(), tarfile.GNU_FORMAT), False),
        (layer_tar(_more_changes()), True),
    ]
    write_layout(target, layers, CONFIG)


def _directory(path: str, **fields: object) -> Item:
    return Item(path, "d", **({"mode": 0o755} | fields))  # type: ignore[arg-type]


def _link(path: str, target: str) -> Item:
    return Item(path, "l", target=target, mode=0o777)


def _ground() -> list[Item]:
    """Return the lowest layer: all kinds of files, names, owners, times and attributes."""
    return [
        _directory("./", mtime=MTIME - 1),
        *(_directory(name) for name in ("dev", "proc", "sys", "run", "etc", "bin")),
        _directory("tmp", mode=0o1777),
        *(Item(f"etc/{name}") for name in ("hosts", "hostname", "resolv.conf")),
        Item("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n"),
        Item("etc/group", data=b"root:x:0:\n"),
        *_contents(),
        *_names(),
        *_metadata(),
        *_lower_halves(),
    ]


def _contents() -> list[Item]:
    noise = random.Random(1)
    sizes = (0, 1, 511, 512, 513, 4095, 4096, 4097, 1 << 20)
    return [
        _directory("contents"),
        *(Item(f"contents/{size}", data=noise.randbytes(size)) for size in sizes),
        Item("contents/zeros", data=bytes(5_000_001)),
        Item("contents/same", data=b"same" * 2000),
        Item("contents/same-again", data=b"same" * 2000, mode=0o600, mtime=MTIME + 5),
    ]


def _names() -> list[Item]:
    names = [
        "a b", " ", "new\nline", "tab\t", "back\\slash", "-dash", "colon:", "*?[]", "...", "..x",
        ".wh", "a.wh.b", "wh.", "ünïcödé", "日本語", "e\u0301", "\x01\x7f", "x" * 99, "x" * 100,
        "x" * 101, "y" * 255, "é" * 127,
    ]  # fmt: skip
    deep = "names/deep" + "".join(f"/{'d' * 200}{depth}" for depth in range(8))
    parents = deep.split("/")
    return [
        _directory("names"),
        *(Item(f"names/{name}", data=name.encode()) for name in names),
        *(_directory("/".join(parents[:depth])) for depth in range(2, len(parents) + 1)),
        Item(f"{deep}/file", data=b"deep\n"),
        _directory("names/many"),
        *(Item(f"names/many/{number:04}-{'n' * 60}", data=b"%d" % number) for number in range(600)),
    ]


def _metadata() -> list[Item]:
    modes = (0o000, 0o444, 0o777, 0o1644, 0o2755, 0o4755, 0o7777)
    owners = ((1, 2), (65534, 65534), (65536, 65537), (2097152, 2097153), (4294967294, 4294967293))
    times = (0, 1, -1000, 2**31 - 1, 2**31, 2**32 + 5, 1_700_000_000.75)
    xattrs = {
        "user.one": b"1",
        "user.text": "ünïcödé".encode(),
        "user.binary": b"\xff\x00\xfe\n=",
        "user.long": b"long" * 250,
        "user." + "n" * 200: b"name",
    }
    return [
        _directory("meta"),
        *(Item(f"meta/mode-{mode:04o}", mode=mode) for mode in modes),
        *(_directory(f"meta/dir-{mode:04o}", mode=mode) for mode in modes),
        *(Item(f"meta/owner-{owner[0]}", owner=owner) for owner in owners),
        *(Item(f"meta/time-{number}", mtime=time) for number, time in enumerate(times)),
        Item("meta/xattrs", data=b"x", xattrs=xattrs),
        Item("meta/xattrs-same", xattrs=xattrs),
        Item(
            "meta/capability", mode=0o755, data=b"#!", xattrs={"security.capability": _CAPABILITY}
        ),
        _directory("meta/xattr-dir", xattrs={"user.on": b"a directory"}),
        Item("meta/null", "c", mode=0o666, device=(1, 3)),
        Item("meta/loop", "b", mode=0o660, device=(7, 200)),
        Item("meta/big-device", "c", mode=0o600, device=(2047, 524287)),
        Item("meta/fifo", "p", mode=0o640, owner=(3, 4)),
        _link("meta/relative", "../contents/1"),
        _link("meta/absolute", "/contents/1"),
        _link("meta/dangling", "no/such file"),
        _link("meta/itself", "itself"),
        _link("meta/long", "t" * 300 + "/" + "u" * 700),
        _link("meta/ends-in-slash", "../contents/"),
        Item("meta/link-1", data=b"linked\n"),
        Item("meta/link-2", "h", target="meta/link-1"),
        Item("meta/link-3", "h", target="meta/link-2"),
        Item("meta/symlink-link", "h", target="meta/relative"),
    ]


def _lower_halves() -> list[Item]:
    """Return what the layers above change."""
    return [
        _directory("dirs"),
        *(_directory(f"dirs/{name}", mtime=MTIME + 1) for name in _CHANGED_DIRECTORIES),
        *(Item(f"dirs/{name}/old", data=b"old\n") for name in _CHANGED_DIRECTORIES),
        *(Item(f"dirs/{name}/kept", data=b"kept\n") for name in _CHANGED_DIRECTORIES),
        _directory("dirs/removed/below"),
        Item("dirs/removed/below/file"),
        _link("dirs/link", "real"),
        _link("dirs/absolute-link", "/dirs/real"),
        _link("dirs/up-link", "../../../../dirs/real"),
        _link("dirs/link-to-directory", "real"),
        Item("dirs/file-to-directory", data=b"file\n"),
        Item("dirs/file-to-symlink", data=b"file\n"),
        *(Item(f"dirs/hard-{name}", data=name.encode()) for name in ("a", "b", "c")),
        Item("dirs/hard-a2", "h", target="dirs/hard-a"),
        Item("dirs/hard-b2", "h", target="dirs/hard-b"),
        Item("dirs/gone", data=b"gone\n"),
        Item("dirs/gone-and-back", data=b"first\n"),
    ]


_CHANGED_DIRECTORIES = (
    "child-changed",
    "described-again",
    "opaque",
    "opaque-late",
    "removed",
    "removed-and-back",
    "to-file",
    "to-symlink",
    "real",
)


def _changes() -> list[Item]:
    """Return the middle layer."""
    later = MTIME + 100
    return [
        Item("dirs/.wh.gone"),
        Item("dirs/child-changed/new", data=b"new\n", mtime=later),
        Item("dirs/child-changed/.wh.old"),
        _directory("dirs/described-again", mode=0o2750, owner=(5, 6), mtime=later),
        _directory("dirs/opaque", mode=0o700, mtime=later),
        Item("dirs/opaque/.wh..wh..opq"),
        Item("dirs/opaque/new", data=b"new\n"),
        _directory("dirs/opaque-late", mtime=later),
        Item("dirs/opaque-late/kept", data=b"from this layer\n"),
        Item("dirs/opaque-late/.wh..wh..opq"),
        Item("dirs/.wh.removed"),
        Item("dirs/.wh.removed-and-back"),
        _directory("dirs/removed-and-back", mtime=later),
        Item("dirs/removed-and-back/new", data=b"new\n"),
        Item("dirs/gone-and-back", data=b"second\n", mtime=later),
        Item("dirs/.wh.gone-and-back"),
        Item("dirs/to-file", data=b"a file now\n", mtime=later),
        _link("dirs/to-symlink", "real"),
        _directory("dirs/file-to-directory", mtime=later),
        Item("dirs/file-to-directory/inside", data=b"inside\n"),
        _link("dirs/file-to-symlink", "hard-a"),
        Item("dirs/link/by-link", data=b"1\n"),
        Item("dirs/absolute-link/by-absolute-link", data=b"2\n"),
        Item("dirs/up-link/by-up-link", data=b"3\n"),
        Item("dirs/link/.wh.old"),
        _directory("dirs/link-to-directory", mtime=later),
        Item("dirs/link-to-directory/inside", data=b"inside\n"),
        Item("dirs/hard-a3", "h", target="dirs/hard-a"),
        Item("dirs/hard-c2", "h", target="dirs/hard-c"),
        Item("dirs/twice", data=b"first\n"),
        Item("dirs/twice", data=b"second\n", mode=0o600),
        Item("dirs/not-utf8-\udcff\udcfe", data=b"bytes\n"),
        Item("dirs/" + "g" * 180 + "/", "d", mode=0o755),
        Item("dirs/" + "g" * 180 + "/" + "h" * 180, data=b"GNU long name\n"),
        _link("dirs/gnu-long-link", "k" * 250),
        Item("dirs/gnu-owner", owner=(4294967294, 3000000), mtime=later),
    ]


def _more_changes() -> list[Item]:
    """Return the top layer."""
    later = MTIME + 200
    return [
        Item("./dirs/hard-a", data=b"replaced; the other names keep the old file\n", mtime=later),
        Item("dirs/.wh.hard-b"),
        Item("dirs/hard-c", "h", target="dirs/hard-b2"),
        _directory("dirs/removed", mode=0o711, mtime=later),
        Item("dirs/removed/fresh", data=b"fresh\n"),
        _directory("dirs/opaque/again", mtime=later),
        Item("dirs/opaque/again/file"),
        _directory("dirs/opaque", mode=0o701, mtime=later),
        Item("dirs/to-file", "p", mode=0o600),
        Item("meta/xattrs", data=b"replaced: its attributes are gone\n"),
        Item("meta/.wh.link-1"),
    ]
