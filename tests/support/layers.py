"""Images written by hand for tests: layers with exactly the entries one wants, as an OCI layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TIME = 1_700_000_000


@dataclass(frozen=True)
class E:
    """One tar entry; ``kind`` is tarfile's type byte."""

    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime: float = TIME
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.type, info.linkname, info.size = self.kind, self.link, len(self.data)
        default = 0o755 if self.kind == tarfile.DIRTYPE else 0o644
        info.mode = default if self.mode is None else self.mode
        info.uid, info.gid, info.mtime = self.uid, self.gid, self.mtime
        info.devmajor, info.devminor = self.device
        info.pax_headers = {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in self.xattrs.items()
        }
        return info


def d(name: str, **more: Any) -> E:
    return E(name, tarfile.DIRTYPE, **more)


def f(name: str, data: bytes | str = b"", **more: Any) -> E:
    return E(name, data=data.encode() if isinstance(data, str) else data, **more)


def s(name: str, target: str) -> E:
    return E(name, tarfile.SYMTYPE, link=target)


def h(name: str, target: str) -> E:
    return E(name, tarfile.LNKTYPE, link=target)


def layer(*entries: E, dialect: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a plain tar of the entries."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=dialect, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for entry in entries:
            archive.addfile(entry.info(), io.BytesIO(entry.data))
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def layout(
    directory: Path,
    *layers: bytes,
    tag: str = "latest",
    config: dict[str, Any] | None = None,
    compress: bool | Sequence[bool] = True,
    diff_ids: list[str] | None = None,
    platform: tuple[str, str] = ("linux", "amd64"),
) -> Path:
    """Write an OCI layout that holds one image of these layer tars (or already gzipped blobs).

    compress tells whether layers are gzipped, all or each for itself.
    """

    def put(content: bytes, media_type: str) -> dict[str, Any]:
        name = digest(content)
        path = directory / "blobs" / name.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"mediaType": media_type, "digest": name, "size": len(content)}

    descriptors = []
    choices = [compress] * len(layers) if isinstance(compress, bool) else compress
    for tar, compressed in zip(layers, choices, strict=True):
        packed = tar[:2] == b"\x1f\x8b"
        blob = gzip.compress(tar, 1, mtime=0) if compressed and not packed else tar
        descriptors.append(put(blob, f"{LAYER}+gzip" if compressed or packed else LAYER))
    document = {
        "os": platform[0],
        "architecture": platform[1],
        "created": "2024-01-02T03:04:05.123456789Z",
        "config": config or {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(tar) for tar in layers]},
    }
    manifest = put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": put(json.dumps(document).encode(), CONFIG),
                "layers": descriptors,
            }
        ).encode(),
        MANIFEST,
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {"schemaVersion": 2, "manifests": [manifest]}
    (directory / "index.json").write_text(json.dumps(index))
    return directory
