"""What supervisor and clients say to one another, in pieces of any size; and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher import wire


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=8),
    st.integers(1, 50),
)
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], step: int) -> None:
    raw = b"".join(wire.encode(kind, data) for kind, data in frames)
    decoder = wire.Decoder()
    seen = [
        (frame.kind, frame.data)
        for at in range(0, len(raw), step)
        for frame in decoder.feed(raw[at : at + step])
    ]
    assert seen == frames


@given(st.integers(1, 40), st.binary(max_size=20))
def test_a_request_and_what_is_behind_it(step: int, rest: bytes) -> None:
    raw = wire.encode_request({"do": "stop", "grace": 1.5, "text": "ä\n"})
    decoder = wire.RequestDecoder()
    found = None
    for at in range(0, len(raw), step):
        end = at + step
        found = decoder.feed(raw[at:end] + (rest if end >= len(raw) else b""))
    assert found == ({"do": "stop", "grace": 1.5, "text": "ä\n"}, rest)


def test_long_output_is_several_frames() -> None:
    data = bytes(3 * wire.PAYLOAD_LIMIT + 1)
    frames = list(wire.Decoder().feed(wire.encode_stream(wire.STDOUT, data)))
    assert b"".join(frame.data for frame in frames) == data
    assert len(frames) == 4
    assert wire.encode_stream(wire.STDOUT, b"") == b""


def test_numbers_and_sizes() -> None:
    (frame,) = wire.Decoder().feed(wire.encode_number(wire.SIGNAL, 15))
    assert wire.number(frame) == 15
    (frame,) = wire.Decoder().feed(wire.encode_resize(24, 80))
    assert wire.size(frame) == (24, 80)


@pytest.mark.parametrize("raw", [b"[]\n", b"{\n", b"\xff\n", b"1\n", b"[" * 100_000 + b"\n"])
def test_a_request_that_is_none(raw: bytes) -> None:
    with pytest.raises(ContentError):
        wire.RequestDecoder().feed(raw)


def test_what_is_too_long_or_too_short() -> None:
    with pytest.raises(ContentError, match="bytes on a VM's socket"):
        list(wire.Decoder().feed(b"\0\0\0\1\xff\xff\xff\xff"))
    with pytest.raises(ContentError):
        wire.RequestDecoder().feed(b"x" * (wire.REQUEST_LIMIT + 1))
    for read in (wire.number, wire.size, wire.told):
        with pytest.raises(ContentError):
            read(wire.Frame(wire.SIGNAL, b"x"))
