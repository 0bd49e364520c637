"""What writing a disk or a disc costs that boots, against the usual tools.

python -m benchmarks.outputs [IMAGE]    an image of tests.support.images; default: nginx
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
Each figure is the median of {rounds} runs after one to warm up, all taking turns. `hyperbuild
convert` begins with an OCI layout whose bundle is in the store already, and syncs its result to
disk. The others are given what they are to write outside the clock, and do not sync: `xorriso` the
files of hyperbuild's own disc; the chains the image's tree and hyperbuild's EFI program, for the
same partitions (`sgdisk`, `mkfs.vfat`, `mcopy`), with ext4 as the root file system. `losetup` is by
loop devices that are mounted, as root. CPU is user + system time, memory the peak resident size of
the largest process (wait4); "on disk" is what the result takes there. Load at the end: {load}.
Machine: {machine}.
"""

#: A disk with its system partition, in shell: what both chains begin with.
_TABLE = """
set -eu
truncate -s "$size" "$disk"
sgdisk -q -n 1:1M:+64M -t 1:ef00 -n 2:0:0 -t 2:8304 "$disk"
truncate -s 64M "$disk.esp"
mkfs.vfat -F 32 "$disk.esp" >/dev/null
mmd -i "$disk.esp" ::EFI ::EFI/BOOT
mcopy -i "$disk.esp" "$program" ::EFI/BOOT/BOOTX64.EFI
dd if="$disk.esp" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
"""
_BY_MKE2FS = f"""{_TABLE}
truncate -s "$root" "$disk.root"
mke2fs -q -t ext4 -d "$tree" "$disk.root"
dd if="$disk.root" of="$disk" bs=1M seek=65 conv=notrunc,sparse status=none
"""
_BY_LOSETUP = f"""{_TABLE}
loop=$(losetup --show -f -o 65M --sizelimit "$root" "$disk")
trap 'losetup -d "$loop"' EXIT
mkfs.ext4 -q "$loop"
mkdir "$disk.mnt"
mount "$loop" "$disk.mnt"
cp -a "$tree/." "$disk.mnt/"
umount "$disk.mnt"
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?", default="nginx")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        task = prepare(image(options.image), Path(work))
        sizes: dict[str, int] = {}
        contenders = [partial(_in_fresh_place, task, sizes, title) for title in BY]
        alternate(1, *contenders)
        medians = [median_cost(costs) for costs in alternate(options.rounds, *contenders)]
        subprocess.run(as_root("rm", "-rf", task.tree), check=True)
    rows = [
        [title, f"{cost.wall:.2f}", f"{cost.cpu:.2f}", f"{cost.peak / 1e6:.0f}", str(sizes[title])]
        for title, cost in zip(BY, medians, strict=True)
    ]
    head = ("by", "wall s", "CPU s", "peak MB", "on disk MB")
    print(f"\n## outputs ({options.image})\n\n" + table(head, rows))
    load = f"{os.getloadavg()[0]:.1f}"
    told = METHOD.strip().format(rounds=options.rounds, machine=machine(), load=load)
    print(told)


@dataclass(frozen=True, slots=True)
class Task:
    """What the contenders get: the layout, the disc's files, the tree, the EFI program."""

    work: Path
    layout: Path
    disc: Path
    tree: Path
    program: Path

    @property
    def environment(self) -> dict[str, str]:
        """One store for all of hyperbuild's runs, apart from the user's."""
        return {"XDG_DATA_HOME": str(self.work / "data")}

    @property
    def root_size(self) -> int:
        """Bytes for the tree as ext4: half as much again as its files take."""
        words = as_root("du", "-s", "--block-size=1M", self.tree)
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        return (int(said.split()[0]) * 3 // 2 + 32) << 20


def prepare(layout: Path, work: Path) -> Task:
    """Make in work what the contenders are given."""
    task = Task(work, layout, work / "disc", work / "tree", work / "program.efi")
    bundle, raw, iso = work / "bundle", work / "x.raw", work / "x.iso"
    unpack = ("umoci", "--log=error", "unpack", "--image", f"{layout}:latest", bundle)
    subprocess.run(as_root(*unpack), check=True)
    subprocess.run(as_root("mv", bundle / "rootfs", task.tree), check=True)
    for kind, target in (("raw", raw), ("iso", iso)):
        _hyperbuild(task, kind, target)
    extract = ("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", task.disc)
    subprocess.run(extract, check=True, capture_output=True)
    copy = ("mcopy", "-i", f"{raw}@@1M", "::EFI/BOOT/BOOTX64.EFI", task.program)
    subprocess.run(copy, check=True)
    subprocess.run(("chmod", "-R", "u+w", task.disc), check=True)
    raw.unlink()
    iso.unlink()
    return task


def _in_fresh_place(task: Task, sizes: dict[str, int], title: str) -> Cost:
    with tempfile.TemporaryDirectory(dir=task.work) as place:
        target = Path(place) / "out"
        cost = BY[title](task, target)
        sizes[title] = round(target.stat().st_blocks * 512 / 1e6)
        return cost


def _hyperbuild(task: Task, kind: str, target: Path) -> Cost:
    words = (HYPERBUILD, "-q", "convert", f"oci:{task.layout}", "-o", target)
    return cost_of((*words, "--output-format", kind), task.environment)


def _xorriso(task: Task, target: Path) -> Cost:
    boot = (
        *("-b", "isolinux/isolinux.bin", "-c", "boot.cat", "-no-emul-boot"),
        *("-boot-load-size", "4", "-boot-info-table"),
        *("-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot"),
    )
    words = ("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", *boot)
    return cost_of((*words, "-o", target, task.disc))


def _script(script: str, task: Task, target: Path) -> Cost:
    root = task.root_size
    variables = {
        "disk": str(target),
        "size": str(root + (66 << 20)),
        "root": str(root),
        "tree": str(task.tree),
        "program": str(task.program),
    }
    named = (f"{name}={value}" for name, value in variables.items())
    return cost_of(as_root("env", *named, "sh", "-c", script))


BY: dict[str, Callable[[Task, Path], Cost]] = {
    "`hyperbuild convert --output-format iso`": lambda task, out: _hyperbuild(task, "iso", out),
    "`xorriso -as mkisofs`": _xorriso,
    "`hyperbuild convert --output-format raw`": lambda task, out: _hyperbuild(task, "raw", out),
    "`hyperbuild convert --output-format qcow2`": lambda task, out: _hyperbuild(task, "qcow2", out),
    "sgdisk, `mke2fs -d`, `dd`": partial(_script, _BY_MKE2FS),
    "sgdisk, `losetup`, `mkfs.ext4`, `cp -a`": partial(_script, _BY_LOSETUP),
}


if __name__ == "__main__":
    main()
