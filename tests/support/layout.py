"""Writes OCI image layouts entry by entry, so that a test decides every byte of a layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MTIME = 1_700_000_000
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Item:
    """One tar entry; kind is a letter of treelist (f d l c b p) or h for a hardlink."""

    path: str
    kind: str = "f"
    data: bytes = b""
    target: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: float = MTIME
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


_TYPES = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
    "p": tarfile.FIFOTYPE,
}


def layer_tar(items: Iterable[Item], dialect: int = tarfile.PAX_FORMAT) -> bytes:
    """Return the tar of items, in their order, in a tarfile format."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect) as tar:
        for item in items:
            info = tarfile.TarInfo(item.path)
            info.type = _TYPES[item.kind]
            info.size, info.linkname, info.mode = len(item.data), item.target, item.mode
            (info.uid, info.gid), info.mtime = item.owner, item.mtime
            info.devmajor, info.devminor = item.device
            info.pax_headers = {
                f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
                for name, value in item.xattrs.items()
            }
            tar.addfile(info, io.BytesIO(item.data))
    return out.getvalue()


def write_layout(
    path: Path,
    layers: Iterable[tuple[bytes, bool]],
    config: Mapping[str, Any],
    tag: str = "latest",
) -> None:
    """Write a layout of one linux/amd64 image: layers are tars, True to compress with gzip."""
    (path / "blobs/sha256").mkdir(parents=True)
    descriptors, diff_ids = [], []
    for tar, compressed in layers:
        content = gzip.compress(tar, compresslevel=6, mtime=0) if compressed else tar
        descriptors.append(_blob(path, _LAYER + "+gzip" * compressed, content))
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
    document = {
        "created": "2023-11-14T22:13:20Z",
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "layout.py"} for _ in diff_ids],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _json_blob(path, "application/vnd.oci.image.config.v1+json", document),
        "layers": descriptors,
    }
    pointer = _json_blob(path, manifest["mediaType"], manifest)
    pointer["annotations"] = {"org.opencontainers.image.ref.name": tag}
    pointer["platform"] = {"architecture": "amd64", "os": "linux"}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [pointer]}))


def _json_blob(path: Path, media_type: str, document: Mapping[str, Any]) -> dict[str, Any]:
    return _blob(path, media_type, json.dumps(document).encode())


def _blob(path: Path, media_type: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (path / "blobs/sha256" / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}
