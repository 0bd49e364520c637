"""A log keeps every byte with its stream and time, within its bound, whatever the disk does."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.journal import (
    NOTE,
    STDERR,
    STDOUT,
    Chunk,
    Journal,
    Lines,
    Piece,
    Reader,
    last_lines,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BINARY = bytes(range(256)) + b"\r\n\x0b\x1c" + b"no end of line"


def read(directory: Path) -> list[Chunk]:
    return list(Reader(directory).read())


def joined(chunks: Iterable[Chunk | Piece], stream: int) -> bytes:
    return b"".join(one.data for one in chunks if one.stream == stream)


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_every_byte_comes_back_with_its_stream(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    journal.write(STDOUT, BINARY)
    journal.write(STDERR, b"\0\n")
    journal.write(STDOUT, b"more")
    assert [(one.stream, one.data) for one in read(tmp_path)] == [
        (STDOUT, BINARY),
        (STDERR, b"\0\n"),
        (STDOUT, b"more"),
    ]
    times = [one.nanoseconds for one in read(tmp_path)]
    assert times == sorted(times)
    assert (tmp_path / "log.0").stat().st_mode & 0o777 == 0o600


def test_a_reader_that_stays_sees_what_comes(tmp_path: Path) -> None:
    reader, journal = Reader(tmp_path), Journal(tmp_path, 128 << 10)
    assert not list(reader.read())
    seen = bytearray()
    for number in range(300):
        journal.write(STDOUT, b"%d\n" % number * 200)
        seen += joined(reader.read(), STDOUT)
    assert seen == b"".join(b"%d\n" % number * 200 for number in range(300))
    assert not reader.gaps


def test_a_log_has_a_bound_and_keeps_the_newest(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 128 << 10)
    reader = Reader(tmp_path)
    journal.write(STDOUT, b"the first\n")
    assert joined(reader.read(), STDOUT) == b"the first\n"
    for _ in range(100):
        journal.write(STDOUT, bytes(64 << 10))
        assert size(tmp_path) <= 130 << 10
    journal.write(STDERR, b"the last\n")
    chunks = read(tmp_path)
    assert chunks[-1].data == b"the last\n"
    assert size(tmp_path) > 32 << 10
    assert len(list(tmp_path.iterdir())) == 2
    assert joined(reader.read(), STDERR) == b"the last\n"
    assert reader.gaps


def test_a_record_that_was_cut_off_is_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    journal.write(STDOUT, b"whole")
    journal.write(STDOUT, b"cut off")
    file = tmp_path / "log.0"
    file.write_bytes(file.read_bytes()[:-1])
    assert [one.data for one in read(tmp_path)] == [b"whole"]
    file.write_bytes(b"\xff" * 100)
    assert read(tmp_path) == []


def test_a_full_disk_costs_output_and_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    journal.write(STDOUT, b"before\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal, so that the write fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        journal.write(STDOUT, b"lost" * 100)
        journal.write(STDERR, b"lost" * 25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.write(STDOUT, b"after\n")
    chunks = read(tmp_path)
    assert joined(chunks, STDOUT) == b"before\nafter\n"
    assert b"500 bytes of output were not kept" in joined(chunks, NOTE)


streams = st.sampled_from([STDOUT, STDERR])
texts = st.lists(st.tuples(streams, st.text("ab\n\r", min_size=1, max_size=6)), max_size=20)


@given(texts, st.integers(0, 10))
def test_lines_are_lines_of_their_stream(written: list[tuple[int, str]], count: int) -> None:
    lines = Lines()
    chunks = [Chunk(at, stream, text.encode()) for at, (stream, text) in enumerate(written)]
    pieces = [piece for chunk in chunks for piece in lines.split(chunk)]
    for stream in (STDOUT, STDERR):
        assert joined(pieces, stream) == joined(chunks, stream)
    starts = sum(piece.begins for piece in pieces)
    kept = last_lines(pieces, count)
    assert sum(piece.begins for piece in kept) == min(count, starts)
    rest = iter(pieces)
    assert all(piece in rest for piece in kept)
    for stream in (STDOUT, STDERR):
        assert joined(pieces, stream).endswith(joined(kept, stream))


@pytest.mark.parametrize("text", ["", "20", "1K", "0M", "2000000G", "-1M", "20M ", "²M"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="log size"):
        parse_size(text)
    assert parse_size("64k") == 64 << 10
    assert parse_size("1GiB") == 1 << 30
