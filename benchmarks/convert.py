"""What converting an image costs, against unpacking it and running mkfs.erofs over the tree.

python -m benchmarks.convert [IMAGE...]       images of tests.support.images; default: nginx
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Cost, alternate, cost_of, machine, median_cost, table
from tests.support.images import image
from tests.support.workshop import as_root

if TYPE_CHECKING:
    from collections.abc import Callable

HYPERBUILD = Path(sys.executable).parent / "hyperbuild"
METHOD = """
Each figure is the median of {rounds} runs, the two taking turns, the layout in the page cache.
Both start from an OCI layout on disk with nothing prepared and end with one EROFS image file.
`hyperbuild convert --no-kernel -o` begins with an empty store; the other is `umoci unpack` and then
`mkfs.erofs`, times added, the larger memory taken. CPU is user + system time; memory is the peak
resident size of the largest process (wait4). Removing results is not counted.
Machine: {machine}.
"""


def main() -> None:
    """Measure each image and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=["nginx"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [row for name in options.images for row in measure(name, options.rounds)]
    head = ("image", "by", "wall s", "CPU s", "peak MB", "image file MB")
    print("\n## convert\n\n" + table(head, rows))
    print(METHOD.strip().format(rounds=options.rounds, machine=machine()))


def measure(name: str, rounds: int) -> list[list[str]]:
    """Return the table's rows for one image."""
    source = f"{image(name)}:latest"
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        sizes: dict[str, int] = {}
        contenders = [
            partial(_in_fresh_place, Path(work), sizes, title, source) for title in CONTENDERS
        ]
        alternate(1, *contenders)
        results = alternate(rounds, *contenders)
    rows = []
    for title, costs in zip(CONTENDERS, results, strict=True):
        cost = median_cost(costs)
        figures = (f"{cost.wall:.2f}", f"{cost.cpu:.2f}", f"{cost.peak / 1e6:.0f}")
        rows.append([name, title, *figures, f"{sizes[title] / 1e6:.0f}"])
    return rows


def by_us(source: str, place: Path) -> tuple[Cost, Path]:
    """Return the cost of our conversion in the empty directory place, and the image file."""
    out = place / "out"
    argv = [HYPERBUILD, "convert", f"oci:{source}", "--no-kernel", "-o", out]
    return cost_of(argv, {"XDG_DATA_HOME": str(place / "data")}), out / "rootfs.erofs"


def by_tools(source: str, place: Path) -> tuple[Cost, Path]:
    """Return the cost of the usual tools in the empty directory place, and the image file."""
    bundle, erofs = place / "bundle", place / "rootfs.erofs"
    unpacked = cost_of(as_root("umoci", "--log=error", "unpack", "--image", source, bundle))
    made = cost_of(as_root("mkfs.erofs", "--quiet", erofs, bundle / "rootfs"))
    return unpacked.then(made), erofs


CONTENDERS: dict[str, Callable[[str, Path], tuple[Cost, Path]]] = {
    "`hyperbuild convert`": by_us,
    "`umoci unpack` + `mkfs.erofs`": by_tools,
}


def _in_fresh_place(work: Path, sizes: dict[str, int], title: str, source: str) -> Cost:
    place = Path(tempfile.mkdtemp(dir=work))
    cost, result = CONTENDERS[title](source, place)
    sizes[title] = result.stat().st_size
    subprocess.run(as_root("rm", "-rf", place), check=True)
    os.sync()
    return cost


if __name__ == "__main__":
    main()
