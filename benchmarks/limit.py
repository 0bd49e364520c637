"""The least that converting must do: decompress, hash both streams, write; no tar, no tree.

python -m benchmarks.limit LAYOUT OUTPUT BYTES    BYTES: about what the winners have
python -m benchmarks.limit LAYOUT                 only the chain: decompress, hash what is packed

Each step is a C call on a large buffer. One thread reads, hashes and decompresses (isal), the other
hashes what comes out and writes the first BYTES of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

from isal import igzip

_BUFFER = 1 << 20
_RING = 4


class _Hashed:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._hash = hashlib.sha256()

    def readinto(self, buffer: memoryview) -> int:
        count = self._file.readinto(buffer) or 0
        self._hash.update(buffer[:count])
        return count

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])


def main() -> None:
    """Do it for every layer of the layout's only image."""
    root = Path(sys.argv[1])
    (entry,) = _document(root / "index.json")["manifests"]
    layers = [_blob(root, layer) for layer in _document(_blob(root, entry))["layers"]]
    if len(sys.argv) == 2:
        for path in layers:
            _unpack(path)
        return
    output, rest = Path(sys.argv[2]), int(sys.argv[3])
    fd = os.open(output, os.O_WRONLY | os.O_CREAT, 0o644)
    for path in layers:
        rest = _pass_through(path, fd, rest)


def _unpack(path: Path) -> None:
    reader = igzip._GzipReader(_Hashed(path), _BUFFER // 2)  # type: ignore # noqa: SLF001
    buffer = memoryview(bytearray(_BUFFER))
    while reader.readinto(buffer):
        pass


def _pass_through(path: Path, fd: int, rest: int) -> int:
    free: SimpleQueue[memoryview] = SimpleQueue()
    full: SimpleQueue[tuple[memoryview, int]] = SimpleQueue()
    for _ in range(_RING):
        free.put(memoryview(bytearray(_BUFFER)))

    def produce() -> None:
        reader = igzip._GzipReader(_Hashed(path), _BUFFER // 2)  # type: ignore # noqa: SLF001
        count = -1
        while count:
            buffer = free.get()
            count = reader.readinto(buffer)
            full.put((buffer, count))

    thread = threading.Thread(target=produce)
    thread.start()
    digest = hashlib.sha256()
    while (item := full.get())[1]:
        buffer, count = item
        digest.update(buffer[:count])
        if rest > 0:
            rest -= os.write(fd, buffer[: min(count, rest)])
        free.put(buffer)
    thread.join()
    return rest


def _document(path: Path) -> dict[str, list[dict[str, str]]]:
    document: dict[str, list[dict[str, str]]] = json.loads(path.read_bytes())
    return document


def _blob(root: Path, descriptor: dict[str, str]) -> Path:
    return root / "blobs" / descriptor["digest"].replace(":", "/")


if __name__ == "__main__":
    main()
