"""Small things that unpack to large ones: met in bounded memory and CPU time, whatever they say."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from hyperbuild.converter.limits import DEFAULT_LIMITS, LimitError
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source
from tests.converter.conftest import AMD64
from tests.converter.test_archive import engine
from tests.converter.test_limits import measured, packed_layout, refused
from tests.support import tarball
from tests.support.layers import digest, layout

MEGABYTE = b"c" * 1_000_000


@pytest.fixture
def hyperbuild_env(hyperbuild_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Give an environment that knows no layer yet: each has to be read."""
    return hyperbuild_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def write(path: Path, pieces: Iterable[bytes]) -> Path:
    with path.open("wb") as file:
        file.writelines(pieces)
    return path


def windowed(log: int) -> tuple[bytes, bytes]:
    """Return a tar that needs a zstd window of 2^log bytes, and its frame."""
    noise = os.urandom(1 << 20)
    tar = tarball.archive(
        *(tarball.member(tarball.Entry(b"%d" % n, data=noise)) for n in range(70))
    )
    wide = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    return tar, stream.compress(tar) + stream.flush()


@pytest.mark.parametrize(("log", "status"), [(26, 0), (31, 1)])
def test_zstd_windows(
    tmp_path: Path, hyperbuild_env: dict[str, str], log: int, status: int
) -> None:
    tar, blob = windowed(log)
    image = packed_layout(tmp_path / "image", blob, digest(tar))
    found, messages = measured(f"oci:{image}", tmp_path / "out", hyperbuild_env)
    assert found == status
    assert not status or "needs a zstd window of more than 64 MiB" in messages[0]


def test_a_pax_header_of_a_gigabyte(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    tar = tarball.header(b"pax", b"x", 1 << 30) + bytes(1 << 20)
    message = refused(layout(tmp_path / "image", tar), hyperbuild_env)
    assert "an extended header of 1073741824 bytes is refused" in message


def test_extended_headers_are_forgotten(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    comment = tarball.extension(b"x", tarball.record(b"comment", MEGABYTE))
    members = [comment + tarball.header(b"%d" % n, b"0", 0) for n in range(100)]
    image = layout(tmp_path / "image", tarball.archive(*members))
    assert measured(f"oci:{image}", tmp_path / "out", hyperbuild_env)[0] == 0


def test_a_gzip_header_without_end(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    blob = b"\x1f\x8b\x08\x08" + bytes(6) + MEGABYTE * 100
    image = packed_layout(tmp_path / "image", blob, digest(b""))
    assert "does not decompress" in refused(image, hyperbuild_env)


@pytest.mark.parametrize("empty", [gzip.compress(b""), zstandard.compress(b"")])
def test_a_million_times_nothing(
    tmp_path: Path, hyperbuild_env: dict[str, str], empty: bytes
) -> None:
    image = packed_layout(tmp_path / "image", empty * 1_000_000, digest(b""))
    assert measured(f"oci:{image}", tmp_path / "out", hyperbuild_env)[0] == 0


def test_paths_that_imply_directories(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    """Each path is half a kilobyte and a hundred inodes."""
    names = (b"%d/" % n + b"d/" * 200 + b"f" for n in range(2000))
    tar = tarball.archive(*(tarball.member(tarball.Entry(name), "gnu") for name in names))
    image = layout(tmp_path / "image", tar)
    message = refused(image, hyperbuild_env, "--max-entries=50000")
    assert "imply more directories" in message
    assert "--max-entries" in message


def _members(kind: str) -> Iterator[bytes]:
    for number in range(120):
        if kind == "headers":
            yield tarball.extension(b"x", tarball.record(b"comment", MEGABYTE))
            yield tarball.header(b"%d" % number, b"0", 0)
        else:
            yield tarball.member(tarball.Entry(b"%d" % number + MEGABYTE), "gnu")


@pytest.mark.parametrize("kind", ["headers", "names"])
def test_archives_of_megabyte_headers(
    tmp_path: Path, hyperbuild_env: dict[str, str], kind: str
) -> None:
    path = write(tmp_path / "a.tar", _members(kind))
    refused(f"oci-archive:{path}", hyperbuild_env)
    path.unlink()


def test_archives_that_are_bombs_as_a_whole(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    head = tarball.header(b"x", b"0", 20 << 30)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(head) + gzip.compress(bytes(32 << 20), 9) * 640)
    image = f"docker-archive:{path}"
    assert "--max-ratio" in refused(image, hyperbuild_env)
    path.write_bytes(windowed(31)[1])
    assert "damaged" in refused(image, hyperbuild_env)
    partial = Path(hyperbuild_env["XDG_DATA_HOME"]) / "hyperbuild/.partial"
    assert list(partial.iterdir()) == []


def test_an_engine_that_sends_without_end(puller, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    settings = replace(puller.settings, docker_socket=path)
    limits = DEFAULT_LIMITS.replace(unpacked=8 << 20)
    with (
        engine(path, 200, bytes(64 << 20)),
        pytest.raises(LimitError, match="more than 8 MiB"),
        open_source(
            parse_reference("docker-daemon:x"),
            store=puller.store, settings=settings, limits=limits,
        ) as source,
    ):  # fmt: skip
        source.resolve(AMD64, QUIET)


def test_an_image_of_many_entries_in_bounded_memory(
    tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    """80,000 of them is what the issue asks for; each takes about half a kilobyte."""
    members = (tarball.header(b"%d/%d" % (n % 500, n), b"0", 0) for n in range(80_000))
    image = layout(tmp_path / "image", tarball.archive(*members))
    options = ("--format", "ext4", "--verify")
    assert measured(f"oci:{image}", tmp_path / "out", hyperbuild_env, *options)[0] == 0
