"""How fast stdin and stdout go through `hyperbuild exec`, and that every byte arrives.

python -m benchmarks.exec [--megabytes N]      default: 1000 (a minute or two without KVM)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.measure import machine, table
from tests.conftest import environment
from tests.support.images import image
from tests.support.vms import Vms, serve_vms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

METHOD = """
{megabytes} MB of random bytes, once each way, in a VM of busybox and 128 MB. "in": they go to stdin
of `hyperbuild exec -i VM md5sum`, whose sum is compared. "out": they come from stdout of
`hyperbuild exec VM cat FILE`, 16 MB of them in the guest's memory, as often as it takes. "pipe":
the same through a pipe of the host, what checksum and copying alone take. Machine: {machine}.
"""
_MB = 1_000_000
_CHUNK = 1 << 20
_HELD = 16


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    megabytes = parser.parse_args().megabytes
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with tempfile.TemporaryDirectory() as home:
        env = dict(os.environ) | environment(Path(home), cache)
        with serve_vms(Path(home), env, image("busybox")) as vms:
            rows = _measure(vms, megabytes, Path(home))
    print(METHOD.format(megabytes=megabytes, machine=machine()))
    print(table(("way", "through", "MB/s", "bytes"), rows))


def _measure(vms: Vms, megabytes: int, home: Path) -> list[Sequence[str]]:
    held = home / "held"
    held.write_bytes(os.urandom(_HELD * _MB))
    started = vms.run("-d", "-m", "128M", "--name", "vm", command=("sleep", "1000000"))
    if started.status or vms.do("cp", held, "vm:/held").status:
        sys.exit(f"Error: the VM did not start: {started.stderr}")
    times = -(-megabytes // _HELD)
    script = "i=0; while [ $i -lt %d ]; do cat %s; i=$((i+1)); done"
    inside = ("exec", "vm", "sh", "-c", script % (times, "/held"))
    outside = ["sh", "-c", script % (times, held)]
    return [
        _row(
            "in",
            "exec",
            partial(_push, partial(vms.start, "exec", "-i", "vm", "md5sum"), megabytes),
        ),
        _row("in", "pipe", partial(_push, partial(_popen, ["md5sum"]), megabytes)),
        _row("out", "exec", partial(_pull, partial(vms.start, *inside), held, times)),
        _row("out", "pipe", partial(_pull, partial(_popen, outside), held, times)),
    ]


def _row(way: str, through: str, measure: Callable[[], tuple[float, int]]) -> Sequence[str]:
    seconds, size = measure()
    return way, through, f"{size / _MB / seconds:.1f}", f"{size} right"


def _popen(argv: list[str], **streams: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, **({"stdout": subprocess.PIPE} | streams))  # type: ignore[call-overload,no-any-return]


def _push(start: Callable[..., subprocess.Popen[bytes]], megabytes: int) -> tuple[float, int]:
    """Feed a checksum; return seconds and bytes, or end the program if the sum is wrong."""
    block = os.urandom(_CHUNK)
    count = megabytes * _MB // _CHUNK
    expected = hashlib.md5(usedforsecurity=False)
    begun = time.monotonic()
    with start(stdin=subprocess.PIPE) as client:
        feeder = threading.Thread(target=_feed, args=(client.stdin, block, count))
        feeder.start()
        answer = client.stdout.read() if client.stdout else b""
        feeder.join()
    seconds = time.monotonic() - begun
    for _ in range(count):
        expected.update(block)
    if answer.split()[:1] != [expected.hexdigest().encode()]:
        sys.exit(f"Error: the sum is {answer!r}, not {expected.hexdigest()}")
    return seconds, count * _CHUNK


def _feed(stdin: IO[bytes], block: bytes, count: int) -> None:
    with stdin:
        for _ in range(count):
            stdin.write(block)


def _pull(
    start: Callable[..., subprocess.Popen[bytes]], held: Path, times: int
) -> tuple[float, int]:
    """Read what is in held so many times; return seconds and bytes, or end the program."""
    content = held.read_bytes()
    seen = hashlib.md5(usedforsecurity=False)
    begun = time.monotonic()
    with start() as client:
        while data := client.stdout.read(_CHUNK) if client.stdout else b"":
            seen.update(data)
    seconds = time.monotonic() - begun
    expected = hashlib.md5(usedforsecurity=False)
    for _ in range(times):
        expected.update(content)
    if seen.digest() != expected.digest():
        sys.exit("Error: what came out is not what is in the guest")
    return seconds, times * len(content)


if __name__ == "__main__":
    main()
