"""Layers as bytes: every compression, and every way in which bytes can be wrong."""

from __future__ import annotations

import gzip
import io
import os
import random
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter import stream
from hyperbuild.converter.errors import ContentError, HyperbuildError, VerificationError
from hyperbuild.converter.oci import Descriptor, DiffID
from hyperbuild.converter.stream import BUFFER_SIZE, LayerStream
from tests.support.layers import digest

LAYER = "application/vnd.oci.image.layer.v1.tar"


def read(blob: bytes, content: bytes, *, size: int | None = None, name: str = "") -> bytes:
    """Read blob, which should unpack to content, as one that is declared truly (or as given)."""
    descriptor = Descriptor(LAYER, name or digest(blob), len(blob) if size is None else size)
    found = bytearray()
    with LayerStream(
        io.BytesIO(blob),
        descriptor,
        DiffID(digest(content)),
        before_reuse=lambda: None,
        where="layer",
    ) as opened:
        while opened.ensure():
            found += opened.buffer[opened.position : opened.limit]
            opened.position = opened.limit
        opened.finish()
    return bytes(found)


def some_bytes(size: int) -> bytes:
    """Return bytes that compress to about half."""
    source = random.Random(size)
    return source.randbytes(size // 2) + bytes(size - size // 2)


@pytest.mark.parametrize("size", [0, 1, 511, BUFFER_SIZE, BUFFER_SIZE + 1, 5 * BUFFER_SIZE + 17])
def test_every_compression(size: int) -> None:
    content = some_bytes(size)
    assert read(content, content) == content
    assert read(gzip.compress(content), content) == content
    assert read(zstandard.compress(content), content) == content


def test_gzip_of_several_members_and_zero_padding() -> None:
    parts = [some_bytes(size) for size in (70_000, 0, 3 * BUFFER_SIZE, 1)]
    blob = b"".join(map(gzip.compress, parts)) + bytes(1000)
    assert read(blob, b"".join(parts)) == b"".join(parts)


def test_gzip_with_every_optional_header_field() -> None:
    content = some_bytes(100_000)
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflated.compress(content) + deflated.flush()
    flags = 0x04 | 0x08 | 0x10
    head = bytes((0x1F, 0x8B, 8, flags)) + bytes(6) + b"\x04\x00ABCDname\x00comment\x00"
    tail = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    assert read(head + body + tail, content) == content


def test_a_gzip_header_without_end_is_refused() -> None:
    blob = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (4 << 20)
    with pytest.raises(ContentError, match="does not decompress"):
        read(blob, b"")


def test_zstd_of_several_frames_and_skippable_ones() -> None:
    parts = [some_bytes(size) for size in (70_000, 3 * BUFFER_SIZE, 1)]
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    blob = skippable + skippable.join(zstandard.compress(part) for part in parts)
    assert read(blob, b"".join(parts)) == b"".join(parts)


def test_zstd_windows_are_not_allocated_because_a_header_says_so() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=27, write_content_size=0
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    packer = compressor.compressobj()
    blob = packer.compress(b"x" * 1000) + packer.flush()
    with pytest.raises(ContentError, match="needs a zstd window of more than 64 MiB"):
        read(blob, b"x" * 1000)


def test_wrong_digest_size_and_diff_id() -> None:
    content = some_bytes(300_000)
    blob = gzip.compress(content)
    with pytest.raises(VerificationError, match="has the digest"):
        read(blob, content, name="sha256:" + "0" * 64)
    with pytest.raises(VerificationError, match="ends after"):
        read(blob, content, size=len(blob) + 1)
    with pytest.raises(VerificationError, match="larger than"):
        read(blob, content, size=len(blob) - 1)
    with pytest.raises(VerificationError, match="unpacks to"):
        read(blob, b"other")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_truncated_and_trailing_bytes(pack: object) -> None:
    assert callable(pack)
    content = some_bytes(300_000)
    blob = pack(content)
    for bad in (blob[:-20], blob[: len(blob) // 2], blob + b"garbage"):
        with pytest.raises((ContentError, VerificationError)):
            read(bad, content)


def test_a_consumer_that_gives_up_leaves_no_thread() -> None:
    import threading

    content = os.urandom(9 * BUFFER_SIZE)
    descriptor = Descriptor(LAYER, digest(content), len(content))
    with LayerStream(
        io.BytesIO(content),
        descriptor,
        DiffID(digest(content)),
        before_reuse=lambda: None,
        where="layer",
    ) as stream:
        assert stream.ensure()
    assert "layer" not in {thread.name for thread in threading.enumerate()}


@given(st.integers(0, 2000), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    content = some_bytes(4000)
    blob = bytearray(gzip.compress(content, mtime=0))
    position %= len(blob)
    blob[position] ^= change
    with pytest.raises(HyperbuildError):
        read(bytes(blob), content, name=digest(gzip.compress(content, mtime=0)))


def test_what_is_read_over_a_border_of_buffers_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A buffer that was passed is filled anew at once: nothing may still look into it."""
    monkeypatch.setattr(stream, "BUFFER_SIZE", 1024)
    names = [b"%06d" % number * 200 for number in range(2000)]
    tar = b"".join(names)
    with LayerStream(
        io.BytesIO(tar),
        Descriptor(LAYER, digest(tar), len(tar)),
        DiffID(digest(tar)),
        before_reuse=lambda: None,
        where="layer",
    ) as opened:
        assert [opened.read(len(name)) for name in names] == names
        opened.finish()
