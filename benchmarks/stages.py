"""How much of its time each thread that reads a layer is busy, and what reading ahead could gain.

python -m benchmarks.stages LAYOUT [CORES]    CORES: as if there were so many

A line for each layer, the top one first: seconds of CPU for decompressing and hashing what is
packed, for hashing what comes out, for looking into it and writing. Then the sum over all layers of
the longest of these, which is what reading takes if nothing waits, and what it would take if
decompressing were done when a layer's turn comes: the longest sum.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.convert import FORMATS, convert
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reading import Reader
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.stream import LayerStream

if TYPE_CHECKING:
    from collections.abc import Callable

_STAGES = ((LayerStream, "_produce"), (LayerStream, "_digest"), (Reader, "read"))


def main() -> None:
    """Convert the layout's only image into a nameless file and print what its threads took."""
    if len(sys.argv) > 2:
        cores = set(range(int(sys.argv[2])))
        os.sched_getaffinity = lambda _: cores
    seconds = [_timed(owner, name) for owner, name in _STAGES]
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as file,
        open_source(
            parse_reference(f"oci:{sys.argv[1]}"), store=Store(Path()), settings=RegistrySettings()
        ) as source,
    ):
        image = source.resolve(Platform("linux", "amd64"), QUIET)
        convert(
            image, source, file.fileno(),
            rootfs_format=FORMATS["erofs"], epoch=0, progress=QUIET,
        )  # fmt: skip
    print(f"wall {time.monotonic() - started:.2f}, CPU {time.process_time():.2f}")
    layers = list(zip(*seconds, strict=True))
    for layer in layers:
        print(*(f"{taken:6.2f}" for taken in layer))
    print(f"in turn {sum(map(max, layers)):.2f}, read ahead {max(map(sum, seconds[1:])):.2f}")


def _timed(owner: type, name: str) -> list[float]:
    """Have a method note the CPU seconds of its thread; return where."""
    seconds: list[float] = []
    method: Callable[..., object] = getattr(owner, name)

    def timed(*arguments: object) -> object:
        before = time.thread_time()
        try:
            return method(*arguments)
        finally:
            seconds.append(time.thread_time() - before)

    setattr(owner, name, timed)
    return seconds


if __name__ == "__main__":
    main()
