"""A root file system put together again: chunks fetched several at once, each to its own place.

What a cut run has left is looked at chunk by chunk, and only what is not there yet is fetched.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from hyperbuild.converter import oci
from hyperbuild.converter.errors import VerificationError
from hyperbuild.converter.partial import partial as partial_file
from hyperbuild.converter.resolve import verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from hyperbuild.builder.artifact import Chunk
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.registry import Registry
    from hyperbuild.converter.store import Store
    from hyperbuild.converter.workers import Workers
    from hyperbuild.launcher.bundle import RootfsInfo

#: Zeros are left out of the file in pieces of this size: its holes read as zeros.
_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)
#: How many chunks are fetched or wait to be hashed: each is in memory twice, packed and not.
_AHEAD = 5


def land_rootfs(
    store: Store,
    rootfs: RootfsInfo,
    chunks: tuple[Chunk, ...],
    places: Places,
    workers: Workers,
    progress: Progress,
) -> None:
    """Bring the rootfs that chunks make into store; nothing is done where it is there.

    VerificationError if a chunk, or the whole, is not what is named; what was fetched stays for the
    next run, unless it is wrong.
    """
    whole = oci.Descriptor("", rootfs.digest, rootfs.size)
    place = store.workspace() / f"rootfs-{rootfs.digest.partition(':')[2]}"
    with partial_file(place, lambda: store.has(whole), places.stop.is_set) as file:
        if file is None:
            return
        begun = os.fstat(file.fd)
        store.check_space(rootfs.size - begun.st_blocks * 512)
        os.ftruncate(file.fd, rootfs.size)
        bring = partial(_bring, file.fd, begun.st_size == 0, places, progress)
        digest = _digest(workers, bring, chunks, rootfs.size, progress)
        if digest != rootfs.digest:
            file.discard()
            raise VerificationError(
                f"the root file system put together is {digest} where its bundle says "
                f"{rootfs.digest}; push the bundle again"
            )
        file.publish(store.blob_path(rootfs.digest))


def digest_chunks(
    chunks: tuple[Chunk, ...], size: int, places: Places, workers: Workers, progress: Progress
) -> str:
    """Return the digest of the rootfs that chunks make, size bytes, which is kept nowhere."""
    return _digest(workers, partial(_fetch, places, progress), chunks, size, progress)


def _digest(
    workers: Workers,
    bring: Callable[[Chunk], bytes],
    chunks: Iterable[Chunk],
    size: int,
    progress: Progress,
) -> str:
    """Hash what bring returns of each chunk; several are brought at once."""
    digest = hashlib.sha256()
    with progress.task("rootfs", size) as task:
        for content in _ahead(workers, (partial(bring, chunk) for chunk in chunks)):
            digest.update(content)
            task.advance(len(content))
    return f"sha256:{digest.hexdigest()}"


def _ahead(workers: Workers, jobs: Iterable[Callable[[], bytes]]) -> Iterator[bytes]:
    """Yield what jobs return, in order; a few are done ahead of whoever takes it."""
    waiting: deque[Future[bytes]] = deque()
    for job in jobs:
        waiting.append(workers.submit(job))
        if len(waiting) == _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _bring(fd: int, is_fresh: bool, places: Places, progress: Progress, chunk: Chunk) -> bytes:
    """Have a chunk in its place in the file fd, which is_fresh if there is nothing in it yet."""
    if not is_fresh:
        content = os.pread(fd, chunk.size, chunk.offset)
        if oci.matches(chunk.digest, content):
            return content
    content = _fetch(places, progress, chunk)
    view = memoryview(content)
    for start in range(0, len(content), _HOLE):
        piece = view[start : start + _HOLE]
        if not is_fresh or piece != _ZEROS[: len(piece)]:
            os.pwrite(fd, piece, chunk.offset + start)
    return content


def _fetch(places: Places, progress: Progress, chunk: Chunk) -> bytes:
    """Return the bytes of a chunk, verified before and after they are unpacked."""
    import zstandard

    def fetch(client: Registry) -> bytes:
        packed = b"".join(client.small_blob(chunk.blob))
        return verified(chunk.blob, packed, client.endpoint.name)

    packed = places.anywhere(fetch, progress)
    try:
        # A frame says how much it holds, and that much is set aside for it.
        size = zstandard.frame_content_size(packed)
        content = zstandard.ZstdDecompressor().decompress(packed) if size == chunk.size else b""
    except zstandard.ZstdError:
        content = b""
    if len(content) != chunk.size or not oci.matches(chunk.digest, content):
        raise VerificationError(
            f"chunk {chunk.blob.digest} does not hold what its manifest says; push the bundle again"
        )
    return content
