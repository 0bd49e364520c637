"""Layers that are decompressed before their turn, where there are cores for it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence

import pytest

from hyperbuild.converter import oci
from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.errors import ContentError, HyperbuildError, VerificationError
from hyperbuild.converter.progress import QUIET, Progress
from hyperbuild.converter.stream import BUFFER_SIZE, RING
from tests.converter.test_model import Seeded
from tests.support import dice
from tests.support.layers import f, layer
from tests.support.memory import LIMITS, MemorySource, image_of

WAIT_SECONDS = 30


@pytest.fixture(params=[1, 16])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many cores the program finds, whatever this machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(request.param)))
    count: int = request.param
    return count


class Watched(io.BytesIO):
    """A layer's bytes; at is told how far they were read."""

    def __init__(self, content: bytes, at: Callable[[int], None]) -> None:
        super().__init__(content)
        self._at = at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = super().readinto(buffer)
        self._at(self.tell())
        return count


class WatchedSource(MemorySource):
    """Layers in memory, and how far each was read, by its digest; the first one waits for go."""

    def __init__(self, tars: Sequence[bytes]) -> None:
        super().__init__(tars)
        self.read: dict[str, int] = {}
        self.go = lambda: True
        self._changed = threading.Condition()

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        is_first = not self.opened
        content = super().open_layer(layer, progress).read()
        assert content is not None
        name = layer.digest

        def at(position: int) -> None:
            with self._changed:
                self.read[name] = position
                self._changed.notify_all()
                if is_first:
                    assert self._changed.wait_for(self.go, WAIT_SECONDS), "nobody reads ahead"

        return Watched(content, at)  # type: ignore[return-value]


def made(tars: Sequence[bytes], source: MemorySource, rootfs_format: str = "erofs") -> bytes:
    """Convert layers from source and return the image's bytes."""
    fd = os.memfd_create("image")
    try:
        rootfs = convert(
            image_of(tars), source, fd, rootfs_format=FORMATS[rootfs_format],
            epoch=0, progress=QUIET, limits=LIMITS,
        )  # fmt: skip
        return os.pread(fd, rootfs.size, 0)
    finally:
        os.close(fd)


def layer_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "layer"]


def large(count: int) -> list[bytes]:
    """Return layers of different bytes, each larger than a ring of buffers."""
    size = (RING + 2) * BUFFER_SIZE
    return [layer(f(f"f{number}", bytes([number + 1]) * size)) for number in range(count)]


def test_layers_behind_the_one_in_turn_begin_as_far_as_their_buffers_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    tars = large(7)
    source = WatchedSource(tars)
    *_, top = (oci.digest_of(tar) for tar in tars)
    ring = RING * BUFFER_SIZE
    source.go = lambda: sum(at == ring for name, at in source.read.items() if name != top) == 4
    made(tars, source)
    assert source.opened == [oci.digest_of(tar) for tar in reversed(tars)]
    assert layer_threads() == []


def test_two_cores_are_kept_busy_by_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    tars = large(3)
    source = WatchedSource(tars)
    opened: list[int] = []
    source.go = lambda: not opened.append(len(source.opened))
    made(tars, source)
    assert set(opened) == {1}


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_bytes_do_not_depend_on_cores(monkeypatch: pytest.MonkeyPatch, rootfs_format: str) -> None:
    compared = 0
    for seed in range(300, 330):
        chance = Seeded(seed)
        tars = [dice.layer_tar(chance, entries) for entries in dice.image(chance)]
        results = []
        for cores in (1, 16):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
            try:
                results.append(made(tars, MemorySource(tars), rootfs_format))
            except ContentError as error:
                results.append(str(error).encode())
        assert results[0] == results[1], seed
        compared += len(results[0]) > 1000
    assert compared > 10


class Damaged(MemorySource):
    """Layers in memory; those of wrong are other bytes, those of missing cannot be opened."""

    def __init__(self, tars: Sequence[bytes], wrong: Sequence[bytes], missing: bytes) -> None:
        super().__init__(tars)
        self._wrong = {oci.digest_of(tar) for tar in wrong}
        self._missing = oci.digest_of(missing)

    def open_layer(self, layer: oci.Descriptor, progress: Progress) -> io.RawIOBase:
        if layer.digest == self._missing:
            raise VerificationError("it is missing")
        raw = super().open_layer(layer, progress)
        content = raw.read()
        assert content is not None
        return io.BytesIO(content[:-1] + b"!" if layer.digest in self._wrong else content)  # type: ignore[return-value]


@pytest.mark.usefixtures("cores")
def test_the_topmost_error_is_told_whatever_fails_first() -> None:
    tars = [layer(f(f"f{number}", b"x" * 3000)) for number in range(6)]
    for wrong, missing, told in (
        ((1, 3, 4), 2, oci.digest_of(tars[4])),
        ((1, 0), 2, "it is missing"),
        ((0,), 5, "it is missing"),
    ):
        source = Damaged(tars, [tars[number] for number in wrong], tars[missing])
        with pytest.raises(HyperbuildError, match=told):
            made(tars, source)
        assert layer_threads() == []


@pytest.mark.usefixtures("cores")
def test_a_failure_ends_what_was_begun() -> None:
    tars = [*large(5), layer(f("..", b"x"))]
    with pytest.raises(ContentError, match="refused"):
        made(tars, MemorySource(tars))
    assert layer_threads() == []


@pytest.mark.usefixtures("cores")
def test_one_layer_may_be_there_more_than_once() -> None:
    one, two = layer(f("a", b"1")), layer(f("b", b"2"))
    tars = [one, two, one, one, two]
    assert made(tars, MemorySource(tars)) == made(tars, MemorySource(tars))
