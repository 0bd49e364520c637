"""A layer is read while it comes in, and what goes wrong on the way is told as it is."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest

from hyperbuild.converter.arrival import Arrival
from hyperbuild.converter.errors import ContentError, UnavailableError, VerificationError
from hyperbuild.converter.files import copy_range
from hyperbuild.converter.oci import Descriptor, DiffID, digest_of
from hyperbuild.converter.stream import LayerStream
from tests.converter.conftest import Puller
from tests.converter.pulls import convert_from
from tests.support.layers import f, layer, layout
from tests.support.registry import Answer, Proxy, Seen, push

TAR = layer(f("noise", os.urandom(3 << 20)))
BLOB = gzip.compress(TAR, 1, mtime=0)
LAYER = Descriptor("", digest_of(BLOB), len(BLOB))


class Writer:
    """Writes a blob in the test's own time; ``done`` is what its reader calls at the end."""

    def __init__(self, directory: Path) -> None:
        self.fd = os.open(directory / "growing", os.O_RDWR | os.O_CREAT)
        self.arrival = Arrival()
        self.failure: Exception | None = None

    def write(self, content: bytes) -> None:
        os.write(self.fd, content)
        self.arrival.has(os.fstat(self.fd).st_size)

    def done(self) -> None:
        if self.failure:
            raise self.failure


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def test_it_is_read_before_it_is_complete(writer: Writer) -> None:
    writer.arrival.begins(writer.fd)
    writer.write(BLOB[: 2 << 20])
    reader = writer.arrival.open(writer.done)
    assert reader is not None
    with (
        reader,
        LayerStream(
            reader, LAYER, DiffID(digest_of(TAR)), before_reuse=lambda: None, where="layer"
        ) as stream,
    ):
        assert stream.read(1 << 20) == TAR[: 1 << 20]
        for start in range(2 << 20, len(BLOB), 1000):
            writer.write(BLOB[start : start + 1000])
        writer.arrival.ends()
        assert stream.read(len(TAR) - (1 << 20)) == TAR[1 << 20 :]
        stream.finish()


def test_who_gives_up_does_not_wait_for_the_rest(writer: Writer) -> None:
    writer.arrival.begins(writer.fd)
    writer.write(BLOB[: 2 << 20])
    reader = writer.arrival.open(writer.done)
    assert reader is not None
    with (
        pytest.raises(ContentError, match="not mine"),
        reader,
        LayerStream(
            reader, LAYER, DiffID(digest_of(TAR)), before_reuse=lambda: None, where="layer"
        ) as stream,
    ):
        stream.read(512)
        raise ContentError("not mine")


def test_the_end_is_the_writers_verdict(writer: Writer) -> None:
    writer.arrival.begins(writer.fd)
    writer.write(b"abc")
    writer.failure = VerificationError("other bytes")
    reader = writer.arrival.open(writer.done)
    assert reader is not None
    with reader:
        assert reader.read(2) == b"ab"
        reader.seek(-2, os.SEEK_CUR)
        threading.Timer(0.05, writer.arrival.ends).start()
        with pytest.raises(VerificationError):
            reader.read()


def test_one_that_never_begins(writer: Writer) -> None:
    writer.arrival.ends()
    assert writer.arrival.open(writer.done) is None


def test_an_interrupted_reader_fails(writer: Writer) -> None:
    writer.arrival.begins(writer.fd)
    reader = writer.arrival.open(writer.done)
    assert reader is not None
    with reader:
        threading.Timer(0.05, reader.interrupt).start()
        with pytest.raises(UnavailableError):
            reader.read(1)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, registry: str) -> str:
    """An image of one large layer in the registry; gives its name there."""
    push(layout(tmp_path_factory.mktemp("noisy") / "layout", TAR), f"{registry}/test/noisy:latest")
    return "test/noisy:latest"


def test_wrong_bytes_are_wrong_bytes_whatever_they_unpack_to(
    proxy: Proxy, noisy: str, puller: Puller
) -> None:
    def spoil(seen: Seen, answer: Answer) -> None:
        if "/blobs/" in seen.path and len(answer.body) > 1 << 20:
            answer.body = answer.body[: 1 << 19] + bytes(len(answer.body) - (1 << 19))

    proxy.fault = spoil
    with pytest.raises(VerificationError, match="has other bytes"):
        convert_from(f"{proxy.host}/{noisy}", puller)
    assert not list(puller.store.root.glob("blobs/*/*" + LAYER.digest[7:]))


def test_a_cut_download_goes_on_under_the_reader(proxy: Proxy, noisy: str, puller: Puller) -> None:
    cuts = iter([1 << 20, 1 << 19])

    def cut(seen: Seen, answer: Answer) -> None:
        if "/blobs/" in seen.path and len(answer.body) > 1 << 20:
            answer.cut_after = next(cuts, None)

    proxy.fault = cut
    assert convert_from(f"{proxy.host}/{noisy}", puller) >= 3 << 20
    assert len(proxy.asked(LAYER.digest)) >= 2


def test_copies_cross_file_systems(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 5)
    (tmp_path / "source").write_bytes(content)
    with (tmp_path / "source").open("rb") as source:
        target = os.memfd_create("target")
        copy_range(source.fileno(), 3, target, 7, len(content) - 3)
        assert os.pread(target, len(content) + 7, 0) == bytes(7) + content[3:]
        with pytest.raises(OSError, match="shorter"):
            copy_range(source.fileno(), 3, target, 7, len(content))
        os.close(target)
