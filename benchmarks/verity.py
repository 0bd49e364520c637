"""What dm-verity costs: making the hash tree, and reading through it in the guest."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.boot import HYPERBUILD, count_to
from benchmarks.measure import Cost, alternate, cost_of, machine, median_cost, table
from tests.support.images import image
from tests.support.layers import f, layer, layout, s

#: Bytes of the file that is read in the guest, and of the one that is hashed beside nginx.
READ = 64 << 20
LARGE = 1 << 29

_APPEND = """
import os, sys
from hyperbuild.converter.verity import append_tree
fd = os.open(sys.argv[1], os.O_RDWR)
append_tree(fd, os.fstat(fd).st_size, b"")
"""
#: Reads the file twice, and writes what the clock said before, between and after.
_READ = """
now() { read up _ </proc/uptime; echo $up; }
now
for time in first again; do dd if=/big of=/dev/null bs=1M 2>/dev/null; now; done
"""
METHOD = """
Medians of {rounds} runs, all taking turns, the page cache warm. The tree alone is made behind a
file system that is there: the writer with the start of Python and its imports around it,
`veritysetup format --hash-offset` with the same block sizes and hash; neither syncs. `hyperbuild
convert --no-kernel -o` begins with an OCI layout and an empty store, knows its digest and syncs.
Reading: `dd bs=1M` of a file of {read} MiB of random bytes in the guest, kernel `disk`, 512 MB, one
CPU, TCG. Seconds are the guest's (/proc/uptime, 10 ms); instructions are its seconds with that
clock counting instructions (`--budget insns`), one run. "again" reads what the guest's page cache
has.
Machine: {machine}.
"""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parts = (measure_trees, measure_conversions, measure_reading)
    named = {part.__name__.removeprefix("measure_"): part for part in parts}
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(named)}; default: all")
    options = parser.parse_args()
    rounds = options.rounds
    os.environ["HYPERBUILD_ACCEL"] = "tcg"
    print("\n## dm-verity\n")
    for name in options.parts or named:
        with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
            os.environ["XDG_DATA_HOME"] = f"{work}/data"
            print(named[name](Path(work), rounds))
    print(METHOD.strip().format(rounds=rounds, read=READ >> 20, machine=machine()))


def measure_trees(work: Path, rounds: int) -> str:
    """Return the table of the tree alone."""
    nginx, large = work / "nginx", work / "large"
    _convert(f"oci:{image('nginx')}:latest", nginx)
    with large.open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))
    rows = []
    for name, path in (("nginx", nginx / "rootfs.erofs"), ("random bytes", large)):
        size = path.stat().st_size
        ours = [sys.executable, "-c", _APPEND, path]
        contenders = [partial(_tree, path, size, by) for by in (ours, _theirs(path, size))]
        alternate(1, *contenders)
        medians = [median_cost(costs) for costs in alternate(rounds, *contenders)]
        rows += [
            [f"{name}, {size / 1e6:.0f} MB", by, *_cost(cost)]
            for by, cost in zip(
                ("`converter/verity.py`", "`veritysetup format`"), medians, strict=True
            )
        ]
    large.unlink()
    return table(("tree of", "by", "wall s", "CPU s"), rows)


def _cost(cost: Cost) -> list[str]:
    return [f"{cost.wall:.2f}", f"{cost.cpu:.2f}"]


def _tree(path: Path, size: int, argv: list[str | Path]) -> Cost:
    """Make the tree of path by argv; path has size bytes before and after that."""
    try:
        return cost_of(argv)
    finally:
        os.truncate(path, size)


def _theirs(path: Path, size: int) -> list[str | Path]:
    words = (f"--hash-offset={size}", f"--data-blocks={size // 4096}")
    return ["veritysetup", "format", path, path, *words]


def measure_conversions(work: Path, rounds: int) -> str:
    """Return the table of whole conversions of nginx."""
    source = f"oci:{image('nginx')}:latest"

    def run(*words: str, chain: bool = False) -> Cost:
        out = work / "out"
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        try:
            argv = [HYPERBUILD, "-q", "convert", "--no-kernel", *words, source, "-o", out]
            cost = cost_of(argv)
            rootfs = out / "rootfs.erofs"
            if chain:
                cost = cost.then(cost_of(_theirs(rootfs, rootfs.stat().st_size)))
            return cost
        finally:
            del os.environ["XDG_CACHE_HOME"]
            for name in ("out", "cache", "data"):
                shutil.rmtree(work / name, ignore_errors=True)

    contenders = {
        "`hyperbuild convert`": run,
        "`hyperbuild convert --verity`": partial(run, "--verity"),
        "`hyperbuild convert`, then `veritysetup format`": partial(run, chain=True),
    }
    alternate(1, *contenders.values())
    medians = [median_cost(costs) for costs in alternate(rounds, *contenders.values())]
    rows = [
        [by, *_cost(cost), f"{cost.peak / 1e6:.0f}"]
        for by, cost in zip(contenders, medians, strict=True)
    ]
    return table(("nginx", "wall s", "CPU s", "peak MB"), rows)


def measure_reading(work: Path, rounds: int) -> str:
    """Return the table of what reading a file costs in the guest, and starting the application."""
    tree = [
        f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        *(s(f"bin/{name}", "busybox") for name in ("sh", "dd", "true")),
        f("big", os.urandom(READ)),
    ]
    source = f"oci:{layout(work / 'image', layer(*tree))}"
    _convert(source, work / "plain", "--profile", "disk")
    _convert(source, work / "verity", "--verity")
    ways = {
        "mapped (DAX)": (work / "plain", "dax"),
        "virtio-blk": (work / "plain", "blk"),
        "virtio-blk, dm-verity": (work / "verity", "blk"),
    }
    contenders = [partial(read_big, *way) for way in ways.values()]
    alternate(1, *contenders)
    found = alternate(rounds, *contenders)
    rows = []
    for (title, way), runs in zip(ways.items(), found, strict=True):
        counts = read_big(*way, counting=True)
        medians = [statistics.median(times) for times in zip(*runs, strict=True)]
        cells = [f"{seconds:.2f}" for seconds in medians]
        cells += [f"{count * 1000:.0f}" for count in counts]
        rows.append([title, *cells, count_to(str(way[0]), "app_exec", way[1])])
    head = ("root file system", "s", "s again", "M instructions", "M again", "M to the exec")
    return table(head, rows)


def read_big(bundle: Path, rootfs: str, *, counting: bool = False) -> tuple[float, float]:
    """Return the seconds of the guest's clock for reading the file, and for reading it again."""
    budget = ("--budget", "insns=1G") if counting else ()
    argv = [HYPERBUILD, "-q", "boot", "-m", "512M", "--network", "none", "--timeout", "300"]
    done = subprocess.run(
        [*argv, "--rootfs", rootfs, *budget, bundle, "/bin/sh", "-c", _READ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, again = (after - before for before, after in pairwise(map(float, done.stdout.split())))
    return first, again


def _convert(source: str, out: Path, *words: str) -> None:
    kernel = words or ("--no-kernel",)
    argv = [HYPERBUILD, "-q", "convert", *kernel, source, "-o", out]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
