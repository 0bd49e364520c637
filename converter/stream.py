"""A layer's tar stream in large buffers, decompressed and hashed while the consumer works.

One thread reads, hashes and decompresses into a ring of buffers, a second one hashes what comes
out, and the consumer takes the buffers in turn. What the threads do are C calls on whole buffers,
which run outside the interpreter lock, so that together they keep up to three cores busy; memory
stays at the ring's size whatever the layer declares.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, Self

from hyperbuild.converter.arrival import Arriving
from hyperbuild.converter.errors import ContentError, UnavailableError, VerificationError
from hyperbuild.converter.limits import ZSTD_WINDOW_LIMIT
from hyperbuild.converter.oci import Descriptor, DiffID, hasher
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import RawIOBase
    from types import TracebackType

    from hyperbuild.converter.limits import Budget

BLOCK = 512
#: A multiple of BLOCK, so that no tar header straddles two buffers.
BUFFER_SIZE = 1 << 20
RING = 4
_REST_SIZE = 1 << 18


#: A buffer and how many bytes of it are filled; at the end None, or what went wrong.
_Filled = tuple[memoryview, int] | BaseException | None


class _Reader(Protocol):
    def readinto(self, buffer: memoryview) -> int: ...


class _HashedBlob:
    """The raw blob, counted and hashed as it is read; the decompressor's source."""

    def __init__(self, raw: RawIOBase, layer: Descriptor, where: str) -> None:
        self._raw = raw
        self._layer = layer
        self._where = where
        self._hash = hasher(layer.digest)
        self._count = 0

    def readinto(self, buffer: memoryview) -> int:
        count = self._raw.readinto(buffer) or 0
        self._hash.update(buffer[:count])
        self._count += count
        if self._count > self._layer.size:
            raise VerificationError(
                f"{self._where} is larger than the {self._layer.size} bytes its manifest declares; "
                "the image is corrupt at its source"
            )
        return count

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def peek(self, size: int) -> bytes:
        """Return the first bytes without consuming them (the file is seekable)."""
        head = self._raw.read(size) or b""
        self._raw.seek(-len(head), 1)
        return head

    def finish(self) -> str:
        """Read what the decompressor left; return the digest of all."""
        rest = memoryview(bytearray(_REST_SIZE))
        while self.readinto(rest):
            pass
        return f"{self._layer.digest.partition(':')[0]}:{self._hash.hexdigest()}"

    def verify(self) -> None:
        """Read what the decompressor left, then compare size and digest."""
        actual = self.finish()
        if self._count != self._layer.size:
            raise VerificationError(
                f"{self._where} ends after {self._count} of the {self._layer.size} bytes "
                "its manifest declares; fetch it again"
            )
        if actual != self._layer.digest:
            raise VerificationError(
                f"{self._where} has the digest {actual}; the image is corrupt at its source"
            )


class Measured(Record):
    """What a layer's file turned out to be; ``compression`` is "none", "gzip" or "zstd"."""

    digest: str
    diff_id: DiffID
    compression: str


def measure(raw: RawIOBase, size: int, where: str, budget: Budget) -> Measured:
    """Read a layer's file of size bytes, of which nothing is known yet, and describe it.

    ContentError if it does not decompress, LimitError beyond budget.
    """
    blob = _HashedBlob(raw, Descriptor("", "sha256:", size), where)
    compression = _compression(blob.peek(4))
    unpacked, total, buffer = hashlib.sha256(), 0, memoryview(bytearray(BUFFER_SIZE))
    try:
        reader = _decompressor(blob)
        while count := _fill(reader, buffer):
            total += count
            budget.stream(where, count, total, size)
            unpacked.update(buffer[:count])
        digest = blob.finish()
    except Exception as error:
        raise _explained(error, where) from error
    return Measured(digest, DiffID(f"sha256:{unpacked.hexdigest()}"), compression)


def verify_blob(raw: RawIOBase, layer: Descriptor, where: str) -> None:
    """Read a layer's blob to its end; VerificationError unless it has the declared bytes."""
    _HashedBlob(raw, layer, where).verify()


def _decompressor(blob: _HashedBlob) -> _Reader:
    """Choose by content, as container runtimes do: media types in the wild are often wrong."""
    compression = _compression(blob.peek(4))
    if compression == "gzip":
        from isal import igzip

        # The reader below gzip.open: it fills our buffers where the file object would copy.
        return igzip._GzipReader(blob, BUFFER_SIZE // 2)  # type: ignore # noqa: SLF001
    if compression == "zstd":
        import zstandard

        decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_LIMIT)
        return decoder.stream_reader(
            blob,  # type: ignore[arg-type]
            read_size=BUFFER_SIZE // 2,
            read_across_frames=True,
        )
    return blob


def _compression(head: bytes) -> str:
    """Tell "gzip", "zstd" (a skippable frame may come first) or "none" by a file's first bytes."""
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head == b"\x28\xb5\x2f\xfd" or (head[1:] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    return "none"


def _fill(reader: _Reader, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer):
        count = reader.readinto(buffer[filled:])
        if not count:
            break
        filled += count
    return filled


class LayerStream:
    """The decompressed bytes of one layer, verified when the end is reached.

    Read with ``ensure``/``buffer``/``position`` (the fast way: a window into the current buffer),
    ``read``, ``pieces`` and ``skip``. ``finish`` drains the rest and checks digest, size and
    DiffID: VerificationError. Bytes that do not decompress are a ContentError.
    """

    def __init__(
        self,
        raw: RawIOBase,
        layer: Descriptor,
        diff_id: DiffID,
        *,
        before_reuse: Callable[[], None],
        where: str,
        budget: Budget | None = None,
    ) -> None:
        """Start reading raw; before_reuse is called before a buffer's content is overwritten.

        What comes out is counted in budget: LimitError once it is used up.
        """
        self._raw = raw
        self._budget = budget
        self._packed = layer.size
        self.where = where
        self.buffer = memoryview(b"")
        self.position = 0
        self.limit = 0
        self._passed = 0
        self._diff_id = diff_id
        self._hash = hashlib.new(diff_id.partition(":")[0])
        self._before_reuse = before_reuse
        self._blob = _HashedBlob(raw, layer, where)
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._decoded: SimpleQueue[_Filled] = SimpleQueue()
        self._full: SimpleQueue[_Filled] = SimpleQueue()
        for _ in range(RING):
            self._free.put(memoryview(bytearray(BUFFER_SIZE)))
        self._ended = False
        self._threads = [
            threading.Thread(target=work, name="layer", daemon=True)
            for work in (self._produce, self._digest)
        ]
        for thread in self._threads:
            thread.start()

    def _produce(self) -> None:
        try:
            reader = _decompressor(self._blob)
            while (buffer := self._free.get()) is not None:
                count = _fill(reader, buffer)
                if not count:
                    self._blob.verify()
                    break
                self._decoded.put((buffer, count))
            self._decoded.put(None)
        except BaseException as error:
            # The consumer's thread raises it.
            self._decoded.put(error)

    def _digest(self) -> None:
        while isinstance(item := self._decoded.get(), tuple):
            buffer, count = item
            self._hash.update(buffer[:count])
            self._full.put(item)
        self._full.put(item)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind and isinstance(self._raw, Arriving):
            self._raw.interrupt()
        self._free.put(None)
        for thread in self._threads:
            thread.join()

    def tell(self) -> int:
        """Return the offset in the uncompressed stream."""
        return self._passed + self.position

    def ensure(self) -> bool:
        """Make at least one byte available at ``position``; False at the end of the stream."""
        if self.position < self.limit:
            return True
        if self._ended:
            return False
        if self.limit:
            self._before_reuse()
            self._free.put(self.buffer)
        item = self._full.get()
        if isinstance(item, BaseException):
            self._ended = True
            raise _explained(item, self.where)
        self._passed += self.limit
        self.position = self.limit = 0
        if item is None:
            self._ended = True
            return False
        self.buffer, self.limit = item
        if self._budget:
            total = self._passed + self.limit
            self._budget.stream(self.where, self.limit, total, self._packed)
        return True

    def block(self) -> bytes:
        """Return the next BLOCK bytes, b"" at the end; ContentError for a part of a block."""
        start = self.position
        end = start + BLOCK
        if end > self.limit:
            return self.read(BLOCK) if self.ensure() else b""
        self.position = end
        return self.buffer[start:end].tobytes()

    def read(self, size: int) -> bytes:
        """Return exactly size bytes; ContentError if the stream ends before."""
        # Each piece is copied before the next is asked for: join() would collect them all first.
        return b"".join(bytes(piece) for piece in self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield exactly size bytes as views, each valid until the next is asked for."""
        while size:
            if not self.ensure():
                raise ContentError(f"{self.where} ends inside an entry; it is truncated")
            count = min(size, self.limit - self.position)
            start = self.position
            self.position += count
            size -= count
            yield self.buffer[start : start + count]

    def skip(self, size: int) -> None:
        """Pass over size bytes."""
        for _ in self.pieces(size):
            pass

    def finish(self) -> None:
        """Drain the rest (a tar may be followed by padding) and verify the DiffID."""
        self.position = self.limit
        while self.ensure():
            self.position = self.limit
        actual = f"{self._diff_id.partition(':')[0]}:{self._hash.hexdigest()}"
        if actual != self._diff_id:
            raise VerificationError(
                f"{self.where} unpacks to {actual}, where the image config says {self._diff_id}; "
                "the image is corrupt at its source"
            )


def _explained(error: BaseException, where: str) -> BaseException:
    if isinstance(error, OSError) and error.errno:
        return UnavailableError(f"cannot read {where}: {error.strerror}")
    # Each decompressor has its own class for bad input, under no common base.
    # OverflowError is how isal refuses a gzip header without end.
    kinds = (EOFError, OSError, OverflowError, zlib.error)
    corrupt = isinstance(error, kinds) or type(error).__name__ in (
        "ZstdError",
        "IsalError",
        "error",
    )
    if corrupt and "too much memory" in str(error):
        return ContentError(
            f"{where} needs a zstd window of more than {ZSTD_WINDOW_LIMIT >> 20} MiB; "
            "compress it again with a smaller one"
        )
    if corrupt:
        return ContentError(f"{where} does not decompress ({error}); fetch it again")
    return error
