"""A root file system put together again: chunks fetched several at once, each to its own place.

What a cut run has left is looked at chunk by chunk, and only what is not there yet is fetched.
The whole is hashed in any case, so the chunks are not, unless the whole is wrong: then they are
fetched again with care, which finds the one at fault or, from another place, a sound one.
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
from hyperbuild.converter.settling import Settling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from hyperbuild.builder.artifact import Chunk
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Progress, Task
    from hyperbuild.converter.registry import Registry
    from hyperbuild.converter.store import Store
    from hyperbuild.converter.workers import Workers
    from hyperbuild.launcher.bundle import RootfsInfo

#: Zeros are left out of the file in pieces of this size: its holes read as zeros.
_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)
#: How many chunks are fetched or wait for one before them: each is in memory, packed and not.
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
        fetch = partial(_fetch, places, progress)
        quick = partial(_bring, file.fd, begun.st_size == 0, partial(fetch, trusting=True))
        careful = partial(_bring, file.fd, False, fetch)
        for bring in (quick, careful):
            with progress.task("rootfs", rootfs.size) as task:
                digest = _lay(file.fd, _ahead(workers, bring, chunks), task)
            if digest == rootfs.digest:
                file.publish(store.blob_path(rootfs.digest))
                return
        file.discard()
        raise VerificationError(
            f"the root file system put together is {digest} where its bundle says "
            f"{rootfs.digest}; push the bundle again"
        )


def _lay(fd: int, brought: Iterable[tuple[Chunk, bytes]], task: Task) -> str:
    """Return the digest of the file fd, hashed and synced behind the chunks that are brought."""
    with Settling(fd) as settling:
        for chunk, content in brought:
            settling.settled(chunk.offset + chunk.size)
            task.advance(len(content))
        return settling.digest()


def digest_chunks(
    chunks: tuple[Chunk, ...], size: int, places: Places, workers: Workers, progress: Progress
) -> str:
    """Return the digest of the rootfs that chunks make, size bytes, which is kept nowhere."""
    digest = hashlib.sha256()
    with progress.task("rootfs", size) as task:
        for _, content in _ahead(workers, partial(_fetch, places, progress), chunks):
            digest.update(content)
            task.advance(len(content))
    return f"sha256:{digest.hexdigest()}"


def _ahead(
    workers: Workers, bring: Callable[[Chunk], bytes], chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, bytes]]:
    """Yield each chunk with what bring returns of it, a few brought ahead of whoever takes them."""
    waiting: deque[tuple[Chunk, Future[bytes]]] = deque()
    for chunk in chunks:
        waiting.append((chunk, workers.submit(partial(bring, chunk))))
        if len(waiting) == _AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _bring(fd: int, is_fresh: bool, fetch: Callable[[Chunk], bytes], chunk: Chunk) -> bytes:
    """Have a chunk in its place in the file fd, which is_fresh if there is nothing in it yet."""
    if not is_fresh:
        content = os.pread(fd, chunk.size, chunk.offset)
        if oci.matches(chunk.digest, content):
            return content
    content = fetch(chunk)
    view = memoryview(content)
    for start in range(0, len(content), _HOLE):
        piece = view[start : start + _HOLE]
        if not is_fresh or piece != _ZEROS[: len(piece)]:
            os.pwrite(fd, piece, chunk.offset + start)
    return content


def _fetch(places: Places, progress: Progress, chunk: Chunk, *, trusting: bool = False) -> bytes:
    """Return the bytes of a chunk; only their number is sure where trusting.

    They are verified as they travel: the whole of them is by its digest.
    """

    def fetch(client: Registry) -> bytes:
        packed = b"".join(client.small_blob(chunk.blob))
        if not trusting:
            verified(chunk.blob, packed, client.endpoint.name)
        try:
            return _unpacked(chunk, packed)
        except VerificationError:
            # Whose fault it is: the bytes', or those of whoever has pushed them.
            verified(chunk.blob, packed, client.endpoint.name)
            raise

    return places.anywhere(fetch, progress)


def _unpacked(chunk: Chunk, packed: bytes) -> bytes:
    import zstandard

    try:
        # A frame says how much it holds, and that much is set aside for it.
        size = zstandard.frame_content_size(packed)
        content = zstandard.ZstdDecompressor().decompress(packed) if size == chunk.size else b""
    except zstandard.ZstdError:
        content = b""
    if len(content) != chunk.size:
        raise VerificationError(
            f"chunk {chunk.blob.digest} does not hold what its manifest says; push the bundle again"
        )
    return content
