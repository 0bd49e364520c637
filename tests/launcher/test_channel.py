"""The channel's decoders: whole messages from any pieces, nonsense refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.channel import (
    PAYLOAD_LIMIT,
    STDERR,
    STDOUT,
    ControlDecoder,
    Event,
    Exit,
    Failure,
    Frame,
    Hello,
    StreamDecoder,
    encode_frame,
    encode_signal,
    encode_stop,
)


def message(kind: int, payload: bytes) -> bytes:
    return struct.pack(">II", kind, len(payload)) + payload


def frame(sequence: int, data: bytes) -> bytes:
    return struct.pack(">QI", sequence, len(data)) + data


CONTROL = b"".join(
    [
        message(1, struct.pack(">I", 4) + b"dax=1\nrootfs=erofs\n"),
        message(2, struct.pack(">Q", 12345) + b"init"),
        message(99, b"of the future"),
        message(4, struct.pack(">I", 127) + "exec /é: not found\n".encode()),
        message(3, struct.pack(">I", 255)),
    ]
)
MESSAGES = [
    Hello({"dax": "1", "rootfs": "erofs"}),
    Event("init", 12345),
    Failure(127, "exec /é: not found"),
    Exit(255),
]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.integers(0, 1000)))
def test_messages_survive_any_cutting(cuts: list[int]) -> None:
    decoder = ControlDecoder()
    assert [m for piece in pieces(CONTROL, cuts) for m in decoder.feed(piece)] == MESSAGES


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=99))),
    st.lists(st.integers(0, 10_000)),
)
def test_frames_survive_any_cutting(data: list[tuple[int, bytes]], cuts: list[int]) -> None:
    ends = [(STDOUT, b""), (STDERR, b"")]
    raw = b"".join(frame(*item) for item in [*data, *ends])
    decoder = StreamDecoder()
    seen = [f for piece in pieces(raw, cuts) for f in decoder.feed(piece)]
    assert seen == [Frame(*item) for item in [*data, *ends]]
    assert decoder.ended


def test_a_frame_of_the_largest_size_passes() -> None:
    data = bytes(PAYLOAD_LIMIT)
    assert list(StreamDecoder().feed(frame(STDOUT, data))) == [Frame(STDOUT, data)]


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">II", 2, PAYLOAD_LIMIT + 1),
        struct.pack(">II", 99, 2**32 - 1),
        message(1, b""),
        message(1, struct.pack(">I", 1)),
        message(1, struct.pack(">I", 4) + b"\xff"),
        message(2, b"1234567"),
        message(2, bytes(8) + b"\xff"),
        message(3, b""),
        message(3, struct.pack(">I", 256)),
        message(3, bytes(5)),
        message(4, b"abc"),
        message(4, struct.pack(">I", 1) + b"x"),
    ],
)
def test_a_malformed_message_is_refused(raw: bytes) -> None:
    with pytest.raises(ContentError, match="guest: "):
        list(ControlDecoder().feed(raw))


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">QI", 1, PAYLOAD_LIMIT + 1),
        frame(0, b"x"),
        frame(3, b""),
        frame(2**64 - 1, b""),
        frame(STDOUT, b"") + frame(STDOUT, b"late"),
        frame(STDERR, b"") + frame(STDERR, b""),
    ],
)
def test_a_malformed_frame_is_refused(raw: bytes) -> None:
    with pytest.raises(ContentError, match="guest: "):
        list(StreamDecoder().feed(raw))


@given(st.lists(st.binary(max_size=200)))
def test_nonsense_is_decoded_or_refused_and_never_hoarded(chunks: list[bytes]) -> None:
    for decoder in (ControlDecoder(), StreamDecoder()):
        try:
            for chunk in chunks:
                list(decoder.feed(chunk))
        except ContentError:
            continue
        assert len(decoder._buffer) <= PAYLOAD_LIMIT + 12


def test_what_the_host_says() -> None:
    assert encode_signal(15) == message(16, struct.pack(">II", 15, 0))
    assert encode_stop(1.5) == message(17, struct.pack(">I", 1500))
    assert encode_stop(1e9) == message(17, b"\xff" * 4)
    assert encode_frame(b"in") == frame(1, b"in")
    assert encode_frame(b"") == frame(1, b"")
