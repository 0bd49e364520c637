"""An image of hard cases: what layers may do to one another, and what a file may be."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import layers as layers_module
from tests.support.layers import TIME, E, d, f, h, layer, layout, s

if TYPE_CHECKING:
    from tests.support.workshop import Workshop

RECIPE = (Path(__file__), Path(layers_module.__file__))

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
        layer(*_ground()),
        layer(*_changes(), dialect=tarfile.GNU_FORMAT),
        layer(*_more_changes()),
    ]
    layout(target, *layers, config=CONFIG, compress=(True, False, True))


def _ground() -> list[E]:
    """Return the lowest layer: all kinds of files, names, owners, times and attributes."""
    return [
        d("./", mtime=TIME - 1),
        *(d(name) for name in ("dev", "proc", "sys", "run", "etc", "bin")),
        d("tmp", mode=0o1777),
        *(f(f"etc/{name}") for name in ("hosts", "hostname", "resolv.conf")),
        f("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n"),
        f("etc/group", data=b"root:x:0:\n"),
        *_contents(),
        *_names(),
        *_metadata(),
        *_lower_halves(),
    ]


def _contents() -> list[E]:
    noise = random.Random(1)
    sizes = (0, 1, 511, 512, 513, 4095, 4096, 4097, 1 << 20)
    return [
        d("contents"),
        *(f(f"contents/{size}", data=noise.randbytes(size)) for size in sizes),
        f("contents/zeros", data=bytes(5_000_001)),
        f("contents/same", data=b"same" * 2000),
        f("contents/same-again", data=b"same" * 2000, mode=0o600, mtime=TIME + 5),
    ]


def _names() -> list[E]:
    names = [
        "a b", " ", "new\nline", "tab\t", "back\\slash", "-dash", "colon:", "*?[]", "...", "..x",
        ".wh", "a.wh.b", "wh.", "ünïcödé", "日本語", "e\u0301", "\x01\x7f", "x" * 99, "x" * 100,
        "x" * 101, "y" * 255, "é" * 127,
    ]  # fmt: skip
    deep = "names/deep" + "".join(f"/{'d' * 200}{depth}" for depth in range(8))
    parents = deep.split("/")
    return [
        d("names"),
        *(f(f"names/{name}", data=name.encode()) for name in names),
        *(d("/".join(parents[:depth])) for depth in range(2, len(parents) + 1)),
        f(f"{deep}/file", data=b"deep\n"),
        d("names/many"),
        *(f(f"names/many/{number:04}-{'n' * 60}", data=b"%d" % number) for number in range(600)),
    ]


def _metadata() -> list[E]:
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
        d("meta"),
        *(f(f"meta/mode-{mode:04o}", mode=mode) for mode in modes),
        *(d(f"meta/dir-{mode:04o}", mode=mode) for mode in modes),
        *(f(f"meta/owner-{owner[0]}", uid=owner[0], gid=owner[1]) for owner in owners),
        *(f(f"meta/time-{number}", mtime=time) for number, time in enumerate(times)),
        f("meta/xattrs", data=b"x", xattrs=xattrs),
        f("meta/xattrs-same", xattrs=xattrs),
        f("meta/capability", mode=0o755, data=b"#!", xattrs={"security.capability": _CAPABILITY}),
        d("meta/xattr-dir", xattrs={"user.on": b"a directory"}),
        E("meta/null", tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
        E("meta/loop", tarfile.BLKTYPE, mode=0o660, device=(7, 200)),
        E("meta/big-device", tarfile.CHRTYPE, mode=0o600, device=(2047, 524287)),
        E("meta/fifo", tarfile.FIFOTYPE, mode=0o640, uid=3, gid=4),
        s("meta/relative", "../contents/1"),
        s("meta/absolute", "/contents/1"),
        s("meta/dangling", "no/such file"),
        s("meta/itself", "itself"),
        s("meta/long", "t" * 300 + "/" + "u" * 700),
        s("meta/ends-in-slash", "../contents/"),
        f("meta/link-1", data=b"linked\n"),
        h("meta/link-2", "meta/link-1"),
        h("meta/link-3", "meta/link-2"),
        h("meta/symlink-link", "meta/relative"),
    ]


def _lower_halves() -> list[E]:
    """Return what the layers above change."""
    return [
        d("dirs"),
        *(d(f"dirs/{name}", mtime=TIME + 1) for name in _CHANGED_DIRECTORIES),
        *(f(f"dirs/{name}/old", data=b"old\n") for name in _CHANGED_DIRECTORIES),
        *(f(f"dirs/{name}/kept", data=b"kept\n") for name in _CHANGED_DIRECTORIES),
        d("dirs/removed/below"),
        f("dirs/removed/below/file"),
        s("dirs/link", "real"),
        s("dirs/absolute-link", "/dirs/real"),
        s("dirs/up-link", "../../../../dirs/real"),
        s("dirs/link-to-directory", "real"),
        f("dirs/file-to-directory", data=b"file\n"),
        f("dirs/file-to-symlink", data=b"file\n"),
        *(f(f"dirs/hard-{name}", data=name.encode()) for name in ("a", "b", "c")),
        h("dirs/hard-a2", "dirs/hard-a"),
        h("dirs/hard-b2", "dirs/hard-b"),
        f("dirs/gone", data=b"gone\n"),
        f("dirs/gone-and-back", data=b"first\n"),
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


def _changes() -> list[E]:
    """Return the middle layer."""
    later = TIME + 100
    return [
        f("dirs/.wh.gone"),
        f("dirs/child-changed/new", data=b"new\n", mtime=later),
        f("dirs/child-changed/.wh.old"),
        d("dirs/described-again", mode=0o2750, uid=5, gid=6, mtime=later),
        d("dirs/opaque", mode=0o700, mtime=later),
        f("dirs/opaque/.wh..wh..opq"),
        f("dirs/opaque/new", data=b"new\n"),
        d("dirs/opaque-late", mtime=later),
        f("dirs/opaque-late/kept", data=b"from this layer\n"),
        f("dirs/opaque-late/.wh..wh..opq"),
        f("dirs/.wh.removed"),
        f("dirs/.wh.removed-and-back"),
        d("dirs/removed-and-back", mtime=later),
        f("dirs/removed-and-back/new", data=b"new\n"),
        f("dirs/gone-and-back", data=b"second\n", mtime=later),
        f("dirs/.wh.gone-and-back"),
        f("dirs/to-file", data=b"a file now\n", mtime=later),
        s("dirs/to-symlink", "real"),
        d("dirs/file-to-directory", mtime=later),
        f("dirs/file-to-directory/inside", data=b"inside\n"),
        s("dirs/file-to-symlink", "hard-a"),
        f("dirs/link/by-link", data=b"1\n"),
        f("dirs/absolute-link/by-absolute-link", data=b"2\n"),
        f("dirs/up-link/by-up-link", data=b"3\n"),
        f("dirs/link/.wh.old"),
        d("dirs/link-to-directory", mtime=later),
        f("dirs/link-to-directory/inside", data=b"inside\n"),
        h("dirs/hard-a3", "dirs/hard-a"),
        h("dirs/hard-c2", "dirs/hard-c"),
        f("dirs/twice", data=b"first\n"),
        f("dirs/twice", data=b"second\n", mode=0o600),
        f("dirs/not-utf8-\udcff\udcfe", data=b"bytes\n"),
        d("dirs/" + "g" * 180 + "/"),
        f("dirs/" + "g" * 180 + "/" + "h" * 180, data=b"GNU long name\n"),
        s("dirs/gnu-long-link", "k" * 250),
        f("dirs/gnu-owner", uid=4294967294, gid=3000000, mtime=later),
    ]


def _more_changes() -> list[E]:
    """Return the top layer."""
    later = TIME + 200
    return [
        f("./dirs/hard-a", data=b"replaced; the other names keep the old file\n", mtime=later),
        f("dirs/.wh.hard-b"),
        h("dirs/hard-c", "dirs/hard-b2"),
        d("dirs/removed", mode=0o711, mtime=later),
        f("dirs/removed/fresh", data=b"fresh\n"),
        d("dirs/opaque/again", mtime=later),
        f("dirs/opaque/again/file"),
        d("dirs/opaque", mode=0o701, mtime=later),
        E("dirs/to-file", tarfile.FIFOTYPE, mode=0o600),
        f("meta/xattrs", data=b"replaced: its attributes are gone\n"),
        f("meta/.wh.link-1"),
    ]
