"""Random images, as umoci unpacks them and as they come out of convert: the same trees.

umoci knows nothing of libarchive's keywords and of sparse files, leaves the time of unpacking on
directories in which it made others, has its host hand setgid bits down, and goes by the order of
entries where a layer's whiteouts come behind what it adds: there it is not asked.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.converter.test_model import Seeded, modelled
from tests.support import dice, tarball
from tests.support.layers import layout
from tests.support.memory import check_same, converted, seen
from tests.support.model import Node
from tests.support.tarball import Entry

IMAGES = 25
KNOWN = ("v7", "ustar", "gnu", "pax")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="owners and devices need root")


def unpacked(root: Path) -> dict[bytes, Node]:
    """Return what lies below root, in the model's words."""
    found: dict[bytes, Node] = {}
    nodes: dict[int, Node] = {}
    pending = [b""]
    top = os.fsencode(root)
    while pending:
        path = pending.pop()
        full = top + b"/" + path if path else top
        info = os.lstat(full)
        found[path] = nodes.setdefault(info.st_ino, _node(full, info))
        if stat.S_ISDIR(info.st_mode):
            pending += [path + b"/" + n if path else n for n in map(os.fsencode, os.listdir(full))]  # noqa: PTH208
    return found


def _node(full: bytes, info: os.stat_result) -> Node:
    kind = stat.filemode(info.st_mode)[0]
    content = b""
    if kind == "-":
        with open(full, "rb") as file:  # noqa: PTH123 - a path of bytes
            content = file.read()
    elif kind == "l":
        content = os.readlink(full)  # noqa: PTH115 - a path of bytes
    names = os.listxattr(full, follow_symlinks=False)
    return Node(
        kind,
        content,
        stat.S_IMODE(info.st_mode),
        (info.st_uid, info.st_gid),
        info.st_mtime_ns,
        (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in "cb" else (0, 0),
        {os.fsencode(name): os.getxattr(full, name, follow_symlinks=False) for name in names},
    )


def suits(entry: Entry) -> bool:
    """Tell whether umoci, and the disk it unpacks to, can hold what the entry is."""
    return (
        not entry.holes
        and all(name.startswith((b"user.", b"security.c")) for name in entry.xattrs)
        and 0 <= entry.mtime < 1 << 62
        and not (entry.kind == tarball.DIRECTORY and entry.mode & stat.S_ISGID)
    )


@needs_root
def test_random_images(tmp_path: Path) -> None:
    compared, started = 0, time.time_ns()
    for seed in range(100, 100 + 20 * IMAGES):
        chance = Seeded(seed)
        layers = [
            sorted((e for e in entries if suits(e)), key=lambda e: b".wh." not in e.name)
            for entries in dice.image(chance)
        ]
        model = modelled(layers)
        if model is None:
            continue
        tars = [dice.layer_tar(chance, entries, KNOWN) for entries in layers]
        image = layout(tmp_path / f"image{seed}", *tars)
        bundle = tmp_path / f"bundle{seed}"
        done = subprocess.run(
            ["umoci", "unpack", "--image", f"{image}:latest", bundle],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            continue
        with converted(tars, "erofs") as rootfs:
            found = seen(rootfs.fd)
        theirs = unpacked(bundle / "rootfs")
        for path, node in theirs.items():
            if node.kind == "d" and node.mtime >= started:
                node.mtime = found[path].mtime if path in found else 0
        try:
            check_same(found, theirs)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        compared += 1
        if compared == IMAGES:
            return
    pytest.fail(f"only {compared} images were compared")
