"""The proof of a conversion: the layers once more, against the root file system made of them.

Nothing of the first pass is used: the layers are opened, unpacked and verified again, each file's
content is hashed as it comes by, a new tree is built, and the independent reader has to find that
tree in the root file system, contents and all.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hyperbuild.converter.convert import default_epoch
from hyperbuild.converter.reading import Reader
from hyperbuild.converter.tree import Tree
from hyperbuild.converter.verify import verify_contents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage

_ZEROS = memoryview(bytes(1 << 20))


def prove(
    image: SourceImage,
    source: ImageSource,
    fd: int,
    *,
    epoch: int | None,
    limits: Limits,
    progress: Progress,
) -> None:
    """Compare the root file system in fd with what image's layers say; epoch as for ``convert``.

    VerificationError names the first path that differs; other errors as for ``convert``.
    """
    layers = image.layers
    tree = Tree(default_epoch(image) if epoch is None else epoch, limits)
    contents = _Digests()
    source.prefetch((layer for layer, _ in layers), progress)
    with (
        Reader(image, source, contents, layers, progress=progress) as reader,
        progress.task("verify", sum(layer.size for layer, _ in layers)) as task,
    ):
        for layer in layers:
            tree.apply(reader.read(layer, _all))
            task.advance(layer[0].size)
        verify_contents(fd, tree.root, contents.digests)


def _all(entry: int, path: bytes) -> bool:  # noqa: ARG001 - a Choice
    return True


class _Digests:
    """A Sink that keeps the sha256 of each file; a file's ``block`` is its place in digests."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []

    def append(self, data: memoryview) -> int:
        self.digests.append(hashlib.sha256(data).digest())
        return len(self.digests) - 1

    def append_pieces(self, size: int, segments: Iterable[tuple[int, Iterable[memoryview]]]) -> int:
        content = hashlib.sha256()
        position = 0
        for offset, data in segments:
            position = _hash_zeros(content, position, offset)
            for piece in data:
                content.update(piece)
                position += len(piece)
        _hash_zeros(content, position, size)
        self.digests.append(content.digest())
        return len(self.digests) - 1

    def flush(self) -> None:
        """Keep no data, so have nothing to do."""


def _hash_zeros(content: hashlib._Hash, position: int, end: int) -> int:
    while position < end:
        count = min(end - position, len(_ZEROS))
        content.update(_ZEROS[:count])
        position += count
    return end
