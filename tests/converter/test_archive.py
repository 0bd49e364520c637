"""Archives by skopeo and docker, whole, compressed, damaged and hostile; and the Docker engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import socket
import socketserver
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperbuild.converter import oci
from hyperbuild.converter.errors import (
    ContentError,
    HyperbuildError,
    InputError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from tests.support.layers import f, layer

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS = [layer(f("a", b"1" * 3000)), layer(f("b", b"2"))]


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def config(layers: list[bytes], **more: object) -> bytes:
    document = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **more,
    }
    return json.dumps(document).encode()


def tar(path: Path, members: dict[str, bytes | tuple[str, str]]) -> Path:
    """Write members: bytes are files, ("sym"|"hard", target) are links."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type = tarfile.SYMTYPE if content[0] == "sym" else tarfile.LNKTYPE
                info.linkname = content[1]
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def entry(names: list[str], tags: list[str] | None = None, where: str = "config.json") -> dict:
    return {"Config": where, "RepoTags": tags, "Layers": names}


def saved(path: Path, stored: list[bytes] | None = None, **more: object) -> Path:
    """Write a docker save archive; stored are the layers as they lie in it."""
    names = [f"{number}.tar" for number in range(len(LAYERS))]
    members: dict = {"manifest.json": json.dumps([entry(names, ["x:y"])]).encode()}
    members["config.json"] = config(LAYERS)
    members |= dict(zip(names, stored or LAYERS, strict=True))
    return tar(path, {k: v for k, v in (members | more).items() if v is not None})


def skopeo(layout: Path, target: str) -> None:
    command = ["skopeo", "copy", "--quiet", f"oci:{layout}:latest", target]
    subprocess.run(command, check=True, capture_output=True)


def compressions(path: Path) -> Iterator[Path]:
    content = path.read_bytes()
    half = len(content) // 2
    packed = {
        "gz": gzip.compress(content),
        "members.gz": gzip.compress(content[:half]) + gzip.compress(content[half:]),
        "zst": zstandard.compress(content[:half]) + zstandard.compress(content[half:]),
    }
    for suffix, data in packed.items():
        target = path.with_name(f"{path.name}.{suffix}")
        target.write_bytes(data)
        yield target


# What works


def test_oci_archives_by_skopeo(puller, small, tmp_path):
    path = tmp_path / "a.tar"
    skopeo(small, f"oci-archive:{path}:v1")
    layers = puller.layers(f"oci-archive:{path}")
    assert puller.layers(f"oci-archive:{path}:v1") == layers
    assert not puller.store.root.exists(), "it is read in place"
    image = puller.resolve(f"oci-archive:{path}")
    assert [digest(layer) for layer in layers] == [x.digest for x in image.manifest.layers]
    for packed in compressions(path):
        assert puller.layers(f"oci-archive:{packed}") == layers
    assert [p for p in puller.store.root.rglob("*") if p.is_file() and "part" in str(p)] == []


def test_docker_archives_by_skopeo(puller, small, tmp_path):
    path = tmp_path / "d.tar"
    skopeo(small, f"docker-archive:{path}:some/name:v1")
    image = puller.resolve(f"docker-archive:{path}")
    layers = puller.layers(f"docker-archive:{path}:some/name:v1")
    assert [digest(layer) for layer in layers] == list(image.config.diff_ids)
    assert image.config.config == {"Cmd": ["/bin/true"]}
    assert digest(image.config.raw) == image.manifest.config.digest
    for packed in compressions(path):
        assert puller.layers(f"docker-archive:{packed}") == layers


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_layers_of_an_archive_may_be_compressed(puller, tmp_path, pack):
    stored = [pack(layer) for layer in LAYERS]
    path = saved(tmp_path / "d.tar", stored)
    assert puller.layers(f"docker-archive:{path}") == stored
    for stated, content in zip(
        puller.resolve(f"docker-archive:{path}").manifest.layers, stored, strict=True
    ):
        assert (stated.digest, stated.size) == (digest(content), len(content))
        kind = oci.LAYER_COMPRESSION[stated.media_type]
        assert kind == {bytes: "none", gzip.compress: "gzip", zstandard.compress: "zstd"}[pack]


def test_links_between_layers_as_old_docker_writes_them(puller, tmp_path):
    members = {
        "id0/layer.tar": LAYERS[0],
        "id1/layer.tar": ("sym", "../id0/layer.tar"),
        "id2/layer.tar": ("hard", "id0/layer.tar"),
        "./config.json": config([LAYERS[0]] * 3),
        "./manifest.json": json.dumps([entry([f"id{n}/layer.tar" for n in range(3)])]).encode(),
    }
    path = tar(tmp_path / "d.tar", members)
    assert puller.layers(f"docker-archive:{path}") == [LAYERS[0]] * 3


def test_the_newer_hybrid_is_read_as_either(puller, tmp_path):
    blobs = {digest(layer): layer for layer in LAYERS}
    where = {name: f"blobs/sha256/{name[7:]}" for name in blobs}
    raw = config(LAYERS)
    layers = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": k, "size": len(v)}
        for k, v in blobs.items()
    ]
    pointer = {"mediaType": oci.OCI_CONFIG, "digest": digest(raw), "size": len(raw)}
    manifest = json.dumps({"schemaVersion": 2, "config": pointer, "layers": layers}).encode()
    name = {"io.containerd.image.name": "docker.io/library/x:y"}
    root = {
        "mediaType": oci.OCI_MANIFEST,
        "digest": digest(manifest),
        "size": len(manifest),
        "annotations": name | {"org.opencontainers.image.ref.name": "y"},
    }
    members = {where[k]: v for k, v in blobs.items()}
    members |= {f"blobs/sha256/{digest(doc)[7:]}": doc for doc in (raw, manifest)}
    members["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [root]}).encode()
    saved_entry = entry(list(where.values()), ["x:y"], f"blobs/sha256/{digest(raw)[7:]}")
    members["manifest.json"] = json.dumps([saved_entry]).encode()
    path = tar(tmp_path / "h.tar", members)
    for name in ("docker-archive", "oci-archive"):
        assert puller.layers(f"{name}:{path}") == LAYERS
        assert puller.layers(f"{name}:{path}:docker.io/library/x:y") == LAYERS


def test_several_images_and_their_names(puller, tmp_path):
    entries = [
        entry(["0.tar"], ["one:1", "uno:1"], "c0.json"),
        entry(["1.tar"], ["docker.io/library/two:latest"], "c1.json"),
        entry(["1.tar"], None, "c2.json"),
    ]
    members = {"manifest.json": json.dumps(entries).encode()}
    members |= {"0.tar": LAYERS[0], "1.tar": LAYERS[1], "c0.json": config(LAYERS[:1])}
    members |= {"c1.json": config(LAYERS[1:]), "c2.json": config(LAYERS[1:])}
    path = tar(tmp_path / "d.tar", members)
    for name, number in (
        ("one:1", 0),
        ("uno:1", 0),
        ("docker.io/library/one:1", 0),
        ("two", 1),
        ("two:latest", 1),
    ):
        assert puller.layers(f"docker-archive:{path}:{name}") == [LAYERS[number]]
    listed = r"holds one:1, uno:1, docker\.io/library/two:latest, c2\.json; say docker-archive:"
    with pytest.raises(InputError, match=listed):
        puller.resolve(f"docker-archive:{path}")
    for name in ("one", "one:2", "c2.json:x", "ONE:1", "one:1 "):
        with pytest.raises(NotFoundError, match=listed):
            puller.resolve(f"docker-archive:{path}:{name}")


def test_another_platform(puller, tmp_path):
    path = saved(tmp_path / "d.tar")
    with pytest.raises(NotFoundError, match=r"linux/arm64; it exists for linux/amd64"):
        puller.resolve(f"docker-archive:{path}", oci.Platform("linux", "arm64"))


# What is refused


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"manifest.json": None}, InputError, "not made by docker save; name another"),
        ({"manifest.json": b"{"}, ContentError, "not valid JSON"),
        ({"manifest.json": b"{}"}, ContentError, "not a list of images"),
        ({"manifest.json": b'[{"Config": 5}]'}, ContentError, "not a list of images"),
        (
            {"manifest.json": b'[{"Config": "config.json", "Layers": [1, 2]}]'},
            ContentError,
            "not a list of images",
        ),
        ({"manifest.json": b"[]"}, InputError, "holds no image"),
        ({"manifest.json": b"[" * 100_000}, ContentError, "not valid JSON"),
        ({"config.json": None}, NotFoundError, "config.json is missing in the archive"),
        ({"config.json": b"x"}, ContentError, "not valid JSON"),
        ({"config.json": b" " * (oci.DOCUMENT_LIMIT + 1)}, ContentError, "larger than"),
        ({"config.json": config(LAYERS[:1])}, ContentError, "2 layers but 1 diff_ids"),
        ({"0.tar": None}, NotFoundError, "0.tar is missing"),
        ({"0.tar": ("sym", "0.tar")}, NotFoundError, "0.tar is missing"),
        ({"0.tar": ("sym", "/etc/passwd")}, NotFoundError, "0.tar is missing"),
        ({"0.tar": ("sym", "../../../../etc/passwd")}, NotFoundError, "0.tar is missing"),
    ],
)
def test_damaged_docker_archives(puller, tmp_path, change, kind, message):
    path = saved(tmp_path / "d.tar", None, **change)
    with pytest.raises(kind, match=message) as caught:
        puller.resolve(f"docker-archive:{path}")
    assert str(path) in str(caught.value)


def test_each_kind_of_archive_points_to_the_other(puller, small, tmp_path):
    skopeo(small, f"oci-archive:{tmp_path / 'o.tar'}")
    with pytest.raises(InputError, match="say oci-archive:"):
        puller.resolve(f"docker-archive:{tmp_path / 'o.tar'}")
    with pytest.raises(InputError, match="say docker-archive:"):
        puller.resolve(f"oci-archive:{saved(tmp_path / 'd.tar')}")


def test_a_document_with_other_bytes(puller, small, tmp_path):
    path = tmp_path / "o.tar"
    skopeo(small, f"oci-archive:{path}")
    path.write_bytes(path.read_bytes().replace(b'"Cmd"', b'"Cmt"'))
    with pytest.raises(VerificationError, match="another digest"):
        puller.resolve(f"oci-archive:{path}")


def test_a_file_that_is_no_archive(puller, tmp_path):
    path = tmp_path / "x"
    for content in (b"", b"hello", bytes(range(256)) * 40):
        path.write_bytes(content)
        for kind in ("oci-archive", "docker-archive"):
            with pytest.raises((ContentError, InputError), match=str(path)):
                puller.resolve(f"{kind}:{path}")
    with pytest.raises(UnavailableError, match="cannot open"):
        puller.resolve(f"oci-archive:{tmp_path / 'none'}")


def test_no_hang_on_a_fifo_or_device(puller, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises((InputError, UnavailableError)):
            puller.resolve(f"docker-archive:{path}")


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_archive_that_is_cut_or_damaged(puller, tmp_path, suffix):
    packed = next(p for p in compressions(saved(tmp_path / "d.tar")) if p.suffix == f".{suffix}")
    whole = packed.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:50] + b"\xff" * 50 + whole[100:], whole[:4]):
        packed.write_bytes(content)
        with pytest.raises(HyperbuildError):
            puller.layers(f"docker-archive:{packed}")
    assert list(puller.store.root.rglob(".partial/*")) == []


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[156:157] = size, b"00000000000\0", kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        header(b"manifest.json", b"77777777777\0") + bytes(1024),
        header(b"manifest.json", b"\x80" + b"\xff" * 11) + bytes(1024),
        header(b"manifest.json", b"\xff" + b"\xff" * 10 + b"\0") + bytes(1024),
        header(b"x", b"77777777777\0", b"L") + bytes(1024),
        header(b"x", b"77777777777\0", b"x") + bytes(1024),
        header(b"x", b"00000000020\0", b"x") + b"99999999 a=b\n".ljust(512, b"\0") + bytes(1024),
        header(b"x", b"00000000000\0", b"S") + bytes(1024),
    ],
    ids=["huge", "huge-256", "negative", "long-name", "pax", "pax-length", "sparse"],
)
def test_headers_that_claim_much_are_refused_quickly(puller, tmp_path, content):
    (tmp_path / "d.tar").write_bytes(content)
    with pytest.raises((ContentError, InputError)):
        puller.resolve(f"docker-archive:{tmp_path / 'd.tar'}")


def test_an_archive_of_endless_members(puller, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperbuild.converter.archive._MEMBERS_LIMIT", 100)
    path = tar(tmp_path / "d.tar", {f"{number}": b"" for number in range(101)})
    with pytest.raises(ContentError, match="more members than any image"):
        puller.resolve(f"docker-archive:{path}")


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_is_of_the_family(puller, tmp_path, data):
    content = bytearray(saved(tmp_path / "d.tar").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "d.tar").write_bytes(content)
    try:
        puller.layers(f"docker-archive:{tmp_path / 'd.tar'}")
    except HyperbuildError as error:
        assert "\n" not in str(error)


# The Docker engine


class _Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, content = self.server.answer
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(content), 1 << 16):
            piece = content[start : start + (1 << 16)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if not self.server.cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def address_string(self) -> str:
        return "engine"

    def log_message(self, *args: object) -> None:
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    answer: tuple[int, bytes]
    cut = False


@contextmanager
def engine(path: Path, status: int, content: bytes, *, cut: bool = False) -> Iterator[list[str]]:
    """Serve content as every image of a Docker engine on the socket path; gives what was asked."""
    server = _Server(str(path), _Engine)
    server.answer, server.cut, server.asked = (status, content), cut, []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def by_socket(puller, tmp_path):
    path = tmp_path / "docker.sock"
    return path, replace(puller, settings=replace(puller.settings, docker_socket=path))


def test_an_image_of_the_engine(by_socket, small, tmp_path):
    path, puller = by_socket
    skopeo(small, f"docker-archive:{tmp_path / 'd.tar'}:x:y")
    with engine(path, 200, (tmp_path / "d.tar").read_bytes()) as asked:
        assert puller.layers("docker-daemon:x:y") == puller.layers(
            f"docker-archive:{tmp_path / 'd.tar'}"
        )
    assert asked == ["/images/docker.io/library/x:y/get"]
    assert list(puller.store.root.rglob(".partial/*")) == []


@pytest.mark.parametrize(
    ("status", "content", "cut", "kind", "message"),
    [
        (404, b"{}", False, NotFoundError, r"has no image docker\.io/library/x:y; docker pull"),
        (500, b"{}", False, UnavailableError, "status 500"),
        (200, b"hello", False, ContentError, "no tar archive"),
        (200, b"hello", True, UnavailableError, "broke off"),
    ],
)
def test_an_engine_that_fails(by_socket, status, content, cut, kind, message):
    path, puller = by_socket
    with engine(path, status, content, cut=cut), pytest.raises(kind, match=message):
        puller.resolve("docker-daemon:x:y")


def test_no_engine(by_socket):
    path, puller = by_socket
    with pytest.raises(UnavailableError, match=r"no Docker engine answers at .*start it"):
        puller.resolve("docker-daemon:x")
    path.write_text("")
    with pytest.raises(UnavailableError, match="is no socket"):
        puller.resolve("docker-daemon:x")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(UnavailableError, match="no Docker engine answers"):
        puller.resolve("docker-daemon:x")
