"""Hostile inputs by structure: archives, documents and images that are nearly right.

A fuzzer that flips bytes spends its life in checksums; these decoders turn its bytes into choices
of fields and values, so that what is wrong lies deep.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import oci
from tests.support import dice, tarball

if TYPE_CHECKING:
    from tests.support.dice import Dice

_NUMBERS = (
    0, 1, -1, 7, 511, 512, 513, 4096, 65_535, 65_536, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32,
    (1 << 33) - 1, 1 << 35, (1 << 62) - 1, (1 << 63) - 1, -(1 << 63),
)  # fmt: skip
_KINDS = b"0123456777SxgLK\0DVX"
_NAMES = (
    b"a", b"a/", b"b", b"a/b", b"..", b"../a", b"a/../b", b"", b"/", b".", b"./", b"//", b".wh.a",
    b".wh.", b".wh..", b".wh..wh..opq", b"a/.wh.b", b".wh..wh.plnk", b"n" * 256, b"\xff", b"a\0b",
    b"a/" * 300, b"l", b"l/x",
)  # fmt: skip
_TEXTS = (
    b"0", b"1", b"-1", b"-0", b"+1", b"1_0", b" 1", b"0x1", b"1.5", b"-1.5", b".5", b"1.", b"-",
    b"1e9", b"", b"9" * 30, b"9" * 4000, b"\xb2", b"512", b"1024", b"0,512", b"0,1,5,1", b"5,1,0,1",
    b"1" * 300, b"a", b"a/b", b"l", b"..", b"a\0", b"\n", b"=",
)  # fmt: skip
_KEYS = (
    b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr.user.a",
    b"SCHILY.xattr.", b"SCHILY.xattr.system.posix_acl_access", b"LIBARCHIVE.xattr.user.%61",
    b"LIBARCHIVE.xattr.user.%zz", b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name",
    b"GNU.sparse.realsize", b"GNU.sparse.size", b"GNU.sparse.numblocks", b"GNU.sparse.map",
    b"GNU.sparse.offset", b"GNU.sparse.numbytes", b"comment", b"hdrcharset",
)  # fmt: skip
_ACLS = (
    b"\2\0\0\0", b"\1\0\0\0", b"\2\0\0\0\1\0\7\0\0\0\0\0", b"\2\0\0\0\2\0\7\0\1\0\0\0",
    b"\2\0\0\0\1\0", b"\2\0\0\0\3\0\7\0\0\0\0\0",
)  # fmt: skip


def archive(choose: Dice) -> bytes:
    """Return a tar whose headers have right checksums and little else that is right."""
    return b"".join(_member(choose) for _ in range(1 + choose.below(10))) + bytes(1024)


def _member(choose: Dice) -> bytes:
    kind = bytes([_KINDS[choose.below(len(_KINDS))]])
    data = dice.one_of(choose, (b"", b"data", b"0\n", b"1\n0\n4\n", b"x" * 513))
    if kind in b"xg":
        data = b"".join(_record(choose) for _ in range(choose.below(6)))
        if choose.below(2) and kind == b"x":
            data += _sparse_records(choose)
    elif kind in b"LK":
        data = dice.one_of(choose, _NAMES) + b"\0" * choose.below(2)
    size = len(data) if choose.below(6) else dice.one_of(choose, _NUMBERS)
    magic = dice.one_of(choose, (b"ustar\x0000", b"ustar  \0", b"", b"ustar\x0000"))
    numbers = tuple(
        dice.one_of(choose, _NUMBERS) if not choose.below(8) else 0o644 for _ in range(4)
    )
    tail = _old_map(choose) if kind == b"S" else b""
    raw = tarball.header(
        dice.one_of(choose, _NAMES), kind, size,
        numbers=numbers, link=dice.one_of(choose, _NAMES), magic=magic, tail=tail,
        device=(_small(choose), _small(choose)),
    )  # fmt: skip
    return raw + tarball.padded(data)


def _small(choose: Dice) -> int:
    return dice.one_of(choose, (0, 1, 255, 256, 4095, 4096, (1 << 20) - 1, 1 << 20))


def _record(choose: Dice) -> bytes:
    key = dice.one_of(choose, _KEYS)
    value = dice.one_of(choose, _ACLS) if key.endswith(b"_access") else dice.one_of(choose, _TEXTS)
    whole = tarball.record(key, value)
    return whole if choose.below(12) else whole[choose.below(3) :]


def _sparse_records(choose: Dice) -> bytes:
    """Return a sparse map that may well be right."""
    size = b"%d" % dice.one_of(choose, (0, 1, 4, 512, 4096, 1 << 20, 1 << 60))
    match choose.below(3):
        case 0:
            records = ((b"major", b"1"), (b"minor", b"0"), (b"realsize", size))
        case 1:
            records = (
                (b"size", size),
                (b"map", dice.one_of(choose, (b"", b"0,4", b"0,0", b"9,4"))),
            )
        case _:
            records = (
                (b"size", size),
                (b"numblocks", b"1"),
                (b"offset", b"0"),
                (b"numbytes", b"4"),
            )
    return b"".join(tarball.record(b"GNU.sparse." + key, value) for key, value in records)


def _old_map(choose: Dice) -> bytes:
    pairs = b"".join(b"%011o\0" % (choose.below(4) * 512) for _ in range(2 * choose.below(5)))
    return (
        bytes(41) + pairs.ljust(96, b"\0") + bytes([choose.below(2)])
        + b"%011o\0" % (choose.below(5) * 512)
    )  # fmt: skip


_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1 << 63, 10**30, "", "x", [], {}, [[]], [{}], {"a": "b"}, ["x"],
    "\ud800", "\n\x1b[2J", "sha256:" + "0" * 64, "sha256:" + "A" * 64, "sha512:" + "0" * 128,
    oci.OCI_INDEX, oci.OCI_MANIFEST, oci.OCI_CONFIG, "linux", "amd64", "unknown",
)  # fmt: skip
_LAYER_TYPES = (*oci.LAYER_COMPRESSION, oci.SCHEMA_1, "application/x+encrypted")


def documents(choose: Dice) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the descriptors an image is offered by, and all documents by digest."""
    store: dict[str, bytes] = {}

    def keep(document: object, media_type: str) -> dict[str, Any]:
        raw = json.dumps(_spoilt(choose, document)).encode()
        digest = oci.digest_of(raw)
        store[digest] = raw
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    def manifest() -> dict[str, Any]:
        count = choose.below(3)
        layers = [
            {"mediaType": dice.one_of(choose, _LAYER_TYPES), "digest": _DIGEST, "size": 9}
            for _ in range(count)
        ]
        config = {
            "os": "linux", "architecture": dice.one_of(choose, ("amd64", "arm64", "x86_64")),
            "rootfs": {"type": "layers", "diff_ids": [_DIGEST] * (count - (not choose.below(9)))},
            "config": {"Cmd": ["x"]},
        }  # fmt: skip
        return keep(
            {"schemaVersion": 2, "config": keep(config, oci.OCI_CONFIG), "layers": layers},
            dice.one_of(choose, (oci.OCI_MANIFEST, oci.DOCKER_MANIFEST)),
        ) | _platform(choose)

    def index(depth: int) -> dict[str, Any]:
        entries = [
            index(depth - 1) if depth and not choose.below(3) else manifest()
            for _ in range(choose.below(4))
        ]
        return keep({"schemaVersion": 2, "manifests": entries}, oci.OCI_INDEX)

    return [_spoilt(choose, index(5)), manifest()], store


_DIGEST = "sha256:" + "1" * 64


def _platform(choose: Dice) -> dict[str, Any]:
    if choose.below(2):
        return {}
    return {
        "platform": {
            "os": dice.one_of(choose, ("linux", "unknown", "windows")),
            "architecture": dice.one_of(choose, ("amd64", "unknown", "arm", "386")),
            "variant": dice.one_of(choose, ("", "v7", "v2", "9.9", "x")),
        }
    }


def _spoilt(choose: Dice, document: Any) -> Any:
    """Put a wrong value in one field, now and then."""
    if choose.below(6) or not isinstance(document, dict):
        return document
    return document | {dice.one_of(choose, list(document)): dice.one_of(choose, _VALUES)}


def patched(choose: Dice, image: bytes, places: list[int]) -> bytes:
    """Return image with up to eight numbers overwritten, mostly at places that mean something."""
    spoilt = bytearray(image)
    for _ in range(1 + choose.below(8)):
        at = places[(choose.below(256) * 256 + choose.below(256)) % len(places)]
        at = (at + choose.below(64)) % len(spoilt)
        width = dice.one_of(choose, (1, 2, 4, 8))
        value = dice.one_of(choose, (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 64) - 1, 64, 4096))
        if choose.below(3) == 0:
            value = spoilt[at] ^ 1 << choose.below(8)
        piece = (value % (1 << 8 * width)).to_bytes(width, "little")
        spoilt[at : at + width] = piece[: len(spoilt) - at]
    return bytes(spoilt)
