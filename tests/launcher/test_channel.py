"""The channel's decoders: whole messages from any pieces, nonsense refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.launcher.channel import (
    OUTPUT_WINDOW,
    PAYLOAD_LIMIT,
    STDERR,
    STDOUT,
    Command,
    ControlDecoder,
    Ended,
    Event,
    Exit,
    Failure,
    Frame,
    Hello,
    InputWindow,
    Pong,
    Refused,
    Started,
    StreamDecoder,
    Window,
    encode_exec,
    encode_frame,
    encode_ping,
    encode_reseed,
    encode_resize,
    encode_signal,
    encode_stop,
    encode_window,
)
from hyperbuild.launcher.lines import Lines


def message(kind: int, payload: bytes) -> bytes:
    return struct.pack(">II", kind, len(payload)) + payload


def frame(sequence: int, data: bytes) -> bytes:
    return struct.pack(">QI", sequence, len(data)) + data


CONTROL = b"".join(
    [
        message(1, struct.pack(">I", 5) + b"dax=1\nrootfs=erofs\n"),
        message(2, struct.pack(">Q", 12345) + b"init"),
        message(99, b"of the future"),
        message(4, struct.pack(">I", 127) + "exec /é: not found\n".encode()),
        message(3, struct.pack(">I", 255)),
        message(5, struct.pack(">I", 1)),
        message(6, struct.pack(">II", 1, 137)),
        message(7, struct.pack(">II", 2, 127) + b"no such file"),
        message(8, struct.pack(">QI", 3, 32768)),
        message(9, struct.pack(">Q", 2**63)),
    ]
)
MESSAGES = [
    Hello({"dax": "1", "rootfs": "erofs"}),
    Event("init", 12345),
    Failure(127, "exec /é: not found"),
    Exit(255),
    Started(1),
    Ended(1, 137),
    Refused(2, 127, "no such file"),
    Window(3, 32768),
    Pong(2**63),
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
        message(5, b"abc"),
        message(6, bytes(4)),
        message(6, struct.pack(">II", 1, 256)),
        message(7, struct.pack(">II", 1, 128) + b"x"),
        message(7, struct.pack(">II", 1, 127) + b"\xff"),
        message(8, bytes(8)),
        message(9, bytes(4)),
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
    assert encode_signal(9, 3) == message(16, struct.pack(">II", 9, 3))
    assert encode_frame(b"in", 4) == frame(9, b"in")
    assert encode_resize(3, 25, 90) == message(22, struct.pack(">IHH", 3, 25, 90))
    assert encode_window(5, 7) == message(23, struct.pack(">QI", 5, 7))
    assert encode_ping(8) == message(24, struct.pack(">Q", 8))
    assert encode_reseed(b"seed") == message(25, b"seed")
    command = Command((b"a", b""), b"1 2", b"/", (b"B=c",), terminal=(25, 90), wants_input=True)
    head = struct.pack(">IIIHH", 6, 0, 3, 25, 90)
    assert encode_exec(6, command) == message(21, head + b"1 2\0/\0B=c\0\0a\0\0")
    builtin = Command((b"stat", b"/"), is_builtin=True)
    assert encode_exec(1, builtin)[8:] == struct.pack(">IIIHH", 1, 0, 4, 0, 0) + b"\0\0\0stat\0/\0"


@pytest.mark.parametrize(
    "command",
    [
        Command(()),
        Command((b"",)),
        Command((b"a\0",)),
        Command((b"a",), env=(b"",)),
        Command((b"a" * 65536,)),
    ],
)
def test_a_command_that_cannot_be_sent(command: Command) -> None:
    lines = Lines()
    with pytest.raises(InputError):
        lines.exec(command)
    assert not lines.orders


def test_a_stream_keeps_to_its_window() -> None:
    lines = Lines()
    whole = frame(STDOUT, bytes(PAYLOAD_LIMIT)) * (OUTPUT_WINDOW // PAYLOAD_LIMIT)
    assert len(list(lines.frames(whole))) == 4
    lines.release(STDOUT, OUTPUT_WINDOW // 2 - 1)
    assert not lines.orders
    lines.release(STDOUT, 1)
    assert lines.orders == encode_window(STDOUT, OUTPUT_WINDOW // 2)
    list(lines.frames(frame(STDOUT, bytes(PAYLOAD_LIMIT)) * 2))
    with pytest.raises(ContentError, match="whose window has 0"):
        list(lines.frames(frame(STDOUT, b"x")))


def test_input_is_not_consumed_before_it_is_sent() -> None:
    room = InputWindow()
    room.spend(100)
    room.widen(100)
    with pytest.raises(ContentError):
        room.widen(1)


def test_only_processes_that_were_asked_for_are_heard() -> None:
    lines = Lines()
    assert lines.exec(Command((b"a",))) == 1
    assert lines.exec(Command((b"b",))) == 2
    assert len(list(lines.frames(frame(3, b"early") + frame(6, b"")))) == 2
    for message_of_nobody in (Ended(1, 0), Started(3), Refused(0, 127, ""), Window(3, 1)):
        with pytest.raises(ContentError):
            lines.check(message_of_nobody)
    lines.check(Started(1))
    lines.check(Window(3, 1))
    lines.check(Window(1, 1))
    lines.check(Refused(2, 127, ""))
    for message_out_of_turn in (Started(1), Refused(1, 127, ""), Ended(2, 0), Window(4, 1)):
        with pytest.raises(ContentError):
            lines.check(message_out_of_turn)
    with pytest.raises(ContentError):
        list(lines.frames(frame(5, b"late")))
    lines.check(Ended(1, 0))
    assert len(list(lines.frames(frame(3, b"last") + frame(3, b"") + frame(4, b"")))) == 3
    with pytest.raises(ContentError):
        lines.check(Window(3, 1))
