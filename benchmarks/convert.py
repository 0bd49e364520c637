"""What converting an image costs: against the usual tools, and against the least that it can cost.

python -m benchmarks.convert [IMAGE...]    images of tests.support.images; default: nginx,
                                           development
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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
Each figure is the median of {rounds} runs after one to warm up, all taking turns, the layout in the
page cache; "x" is the figure over the limit's. `hyperbuild convert --no-kernel -o` begins with an
OCI layout and an empty store, verifies all digests, syncs its result to disk and knows its digest.
"one layer changed" has converted the same image with another top layer before, "unchanged" this
one into this directory, both outside the clock. The umoci chains begin with the same layout:
`umoci unpack` and then mkfs, times added, the larger memory taken. `sqfstar` (and `mkfs.erofs
--tar`, where there is one that has it) is given an easier task: the tree already flattened into one
uncompressed tar outside the clock, nothing to verify, blocks stored uncompressed. The limit
(limit.py) is decompression (isal), sha256 of both streams and writing as many bytes as the
flattened tar has, in C calls on two threads, without looking into the tar, without syncing; the
chain is the longest part of it that cannot be spread: decompression and sha256 of what is packed.
The digest of the result, a third sha256, is not in the limit. CPU is user + system time; memory is
the peak resident size of the largest process (wait4). Removing results is not counted.
Machine: {machine}.
"""


def main() -> None:
    """Measure each image and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=["nginx", "development"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="a part of the contenders' names; the limit runs anyway")
    parser.add_argument("--without", help="a part of the names of those that are left out")
    options = parser.parse_args()
    titles = [
        title
        for title in BY
        if title == LIMIT
        or ((options.only or "") in title and not (options.without and options.without in title))
    ]
    rows = [row for name in options.images for row in measure(name, options.rounds, titles)]
    head = ("image", "by", "wall s", "x wall", "CPU s", "x CPU", "peak MB", "image file MB")
    print("\n## convert\n\n" + table(head, rows))
    print(METHOD.strip().format(rounds=options.rounds, machine=machine()))


@dataclass(frozen=True, slots=True)
class Task:
    """What the contenders get: an OCI layout, its tree as one tar, that tree's size in bytes."""

    layout: Path
    changed: Path
    tar: Path
    size: int

    @property
    def source(self) -> str:
        """The layout and its tag, as umoci and ``oci:`` take them."""
        return f"{self.layout}:latest"


def measure(name: str, rounds: int, titles: list[str]) -> list[list[str]]:
    """Return the table's rows for one image, one for each of titles, the limit among them."""
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        task = _prepare(image(name), Path(work))
        sizes: dict[str, int] = {}
        contenders = [partial(_in_fresh_place, Path(work), sizes, title, task) for title in titles]
        alternate(1, *contenders)
        medians = [median_cost(costs) for costs in alternate(rounds, *contenders)]
    limit = medians[titles.index(LIMIT)]
    return [
        [
            name,
            title,
            f"{cost.wall:.2f}",
            f"{cost.wall / limit.wall:.2f}",
            f"{cost.cpu:.2f}",
            f"{cost.cpu / limit.cpu:.2f}",
            f"{cost.peak / 1e6:.0f}",
            f"{sizes[title] / 1e6:.0f}" if sizes[title] else "-",
        ]
        for title, cost in zip(titles, medians, strict=True)
    ]


def _prepare(layout: Path, work: Path) -> Task:
    tar, bundle = work / "flat.tar", work / "flat"
    unpack = ("umoci", "--log=error", "unpack", "--image", f"{layout}:latest", bundle)
    subprocess.run(as_root(*unpack), check=True)
    subprocess.run(as_root("tar", "-C", bundle / "rootfs", "-cf", tar, "."), check=True)
    subprocess.run(as_root("rm", "-rf", bundle), check=True)
    changed, added = work / "changed", work / "added"
    subprocess.run(as_root("cp", "-a", layout, changed), check=True)
    added.write_text("what a developer has changed")
    insert = ("umoci", "insert", "--image", f"{changed}:latest", added, "/etc/added")
    subprocess.run(as_root(*insert), check=True)
    return Task(layout, changed, tar, tar.stat().st_size)


def by_us(
    task: Task, place: Path, *options: str, before: bool = False, changed: bool = False
) -> tuple[Cost, Path]:
    """Return the cost of our conversion in the empty directory place, and the image file.

    With before, the image is converted there once outside the clock; with changed, the changed
    one is what counts.
    """
    out = place / "out"
    environment = {"XDG_DATA_HOME": str(place / "data"), "XDG_CACHE_HOME": str(place / "cache")}
    if before:
        cost_of(_ours(task.layout, out, *options), environment)
    rootfs = out / ("rootfs.ext4" if "ext4" in options else "rootfs.erofs")
    layout = task.changed if changed else task.layout
    return cost_of(_ours(layout, out, *options), environment), rootfs


def _ours(layout: Path, out: Path, *options: str) -> list[str | Path]:
    return [HYPERBUILD, "convert", f"oci:{layout}:latest", "--no-kernel", "-o", out, *options]


def by_us_as_ext4(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the same with the other format."""
    return by_us(task, place, "--format", "ext4")


def by_us_after_a_change(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the same where an image that shares all layers but the top was converted before."""
    return by_us(task, place, before=True, changed=True)


def by_us_unchanged(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the same where the result is there already."""
    return by_us(task, place, before=True)


def by_umoci_and_erofs(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the cost of unpacking and mkfs.erofs over the tree, and the image file."""
    target = place / "rootfs.erofs"
    return _unpacked(task, place, "mkfs.erofs", "--quiet", target, place / "bundle/rootfs"), target


def by_umoci_and_ext4(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the cost of unpacking and mke2fs over the tree, and the image file."""
    target = place / "rootfs.ext4"
    # Room for blocks that are not full and for inodes; holes are not written.
    room = f"{(task.size * 3 // 2 >> 20) + 64}M"
    options = ("-q", "-t", "ext4", "-O", "^has_journal", "-b", "4096", "-d")
    return _unpacked(task, place, "mke2fs", *options, place / "bundle/rootfs", target, room), target


def by_sqfstar(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the cost of sqfstar on the flattened tar, and the image file."""
    target = place / "rootfs.squashfs"
    plain = ("-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX")
    return cost_of(["sqfstar", *plain, target], stdin=task.tar), target


def by_mkfs_erofs_tar(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the cost of mkfs.erofs on the flattened tar, and the image file."""
    target = place / "rootfs.erofs"
    return cost_of(["mkfs.erofs", "--quiet", "--tar=f", target, task.tar]), target


def by_chain(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the cost of decompressing and hashing what is packed; it makes no file."""
    nothing = place / "nothing"
    nothing.touch()
    return cost_of([sys.executable, "-m", "benchmarks.limit", task.layout]), nothing


def by_limit(task: Task, place: Path) -> tuple[Cost, Path]:
    """Return the cost of limit.py, and the file that it wrote."""
    target = place / "bytes"
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "benchmarks.limit",
        task.layout,
        target,
        str(task.size),
    ]
    return cost_of(argv), target


def _unpacked(task: Task, place: Path, *make: str | Path) -> Cost:
    unpack = ("umoci", "--log=error", "unpack", "--image", task.source, place / "bundle")
    return cost_of(as_root(*unpack)).then(cost_of(as_root(*make)))


def _has_tar_mode() -> bool:
    done = subprocess.run(["mkfs.erofs", "--help"], capture_output=True, text=True, check=False)
    return "--tar" in done.stdout + done.stderr


LIMIT = "limit"
BY: dict[str, Callable[[Task, Path], tuple[Cost, Path]]] = {
    "`hyperbuild convert`": by_us,
    "`hyperbuild convert --format ext4`": by_us_as_ext4,
    "`hyperbuild convert`, one layer changed": by_us_after_a_change,
    "`hyperbuild convert`, unchanged": by_us_unchanged,
    LIMIT: by_limit,
    "chain": by_chain,
    "`sqfstar` (flat tar)": by_sqfstar,
    "`umoci unpack` + `mkfs.erofs`": by_umoci_and_erofs,
    "`umoci unpack` + `mke2fs -d`": by_umoci_and_ext4,
}
if _has_tar_mode():
    BY["`mkfs.erofs --tar` (flat tar)"] = by_mkfs_erofs_tar


def _in_fresh_place(work: Path, sizes: dict[str, int], title: str, task: Task) -> Cost:
    place = Path(tempfile.mkdtemp(dir=work))
    cost, result = BY[title](task, place)
    sizes[title] = result.stat().st_size
    subprocess.run(as_root("rm", "-rf", place), check=True)
    os.sync()
    return cost


if __name__ == "__main__":
    main()
