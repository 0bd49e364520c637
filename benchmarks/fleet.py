"""How many images a fleet builds a minute with 1, 2 and 4 workers, and what a second run saves.

python -m benchmarks.fleet [--images N] [--rounds N]      default: 12 images, one round
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Cost, cost_of, machine, median_cost, table
from tests.conftest import environment
from tests.support.images import image
from tests.support.layers import f, layer, layout
from tests.support.registry import push, serve_registry

if TYPE_CHECKING:
    from collections.abc import Mapping

HYPERBUILD = Path(sys.executable).parent / "hyperbuild"
WORKERS = (1, 2, 4)
METHOD = """
{images} images from a docker-registry on loopback, each a layer of its own ({own} MB of noise) on
the layers of {base} ({size:.0f} MB): converted, booted (profile micro, 64 MB, TCG) and waited for
until the application has ended with status 0, pushed and attached. Store and cache of layers are
empty at first, the kernel is built. "again": the same command once more. CPU is user + system time
of the fleet and all that it has waited for (wait4), without the registry's. Medians of {rounds}.
Machine: {machine}; load {load} when it began.
"""
RECIPE = """
image = "unused"
[kernel]
profile = "micro"
[boot]
memory = "64M"
[smoke]
exit = 0
"""
_OWN_MB = 2


@dataclass(frozen=True, slots=True)
class Run:
    """What the first run cost, and the second one."""

    first: Cost
    again: Cost


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--base", default="debian", help="an image of tests.support.images")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    os.environ["HYPERBUILD_ACCEL"] = "tcg"
    load = f"{os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        rows, size = measure(Path(work), options.base, options.images, options.rounds)
    head = ("workers", "wall s", "images/min", "CPU s", "again: wall s", "CPU s", "CPU saved")
    print("\n## fleet\n\n" + table(head, rows))
    said = METHOD.strip().format(
        images=options.images, own=_OWN_MB, base=options.base, size=size / 1e6,
        rounds=options.rounds, machine=machine(), load=load,
    )  # fmt: skip
    print(said)


def measure(work: Path, base: str, count: int, rounds: int) -> tuple[list[list[str]], int]:
    """Return the rows of the table, and the bytes of the base's layers, unpacked."""
    tars = base_layers(image(base))
    (work / "recipe.toml").write_text(RECIPE)
    runs: dict[int, list[Run]] = {workers: [] for workers in WORKERS}
    with serve_registry(work / "registry") as host:
        for turn in range(rounds):
            for workers, found in runs.items():
                prefix = f"{host}/turn-{turn}/of-{workers}"
                names = push_images(work, prefix, tars, count)
                (work / "images.txt").write_text("\n".join(names))
                found.append(run(work, workers))
    return [row(workers, found, count) for workers, found in runs.items()], sum(map(len, tars))


def row(workers: int, runs: list[Run], count: int) -> list[str]:
    """Return the line of the table for so many workers."""
    first, again = (median_cost([getattr(each, name) for each in runs]) for name in Run.__slots__)
    return [
        str(workers),
        f"{first.wall:.1f}",
        f"{count / first.wall * 60:.1f}",
        f"{first.cpu:.1f}",
        f"{again.wall:.1f}",
        f"{again.cpu:.1f}",
        f"{100 * (1 - again.cpu / first.cpu):.0f}%",
    ]


def base_layers(source: Path) -> list[bytes]:
    """Return the layers of an OCI layout's one image, unpacked."""

    def blob(descriptor: Mapping[str, str]) -> bytes:
        return (source / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()

    (entry,) = json.loads((source / "index.json").read_text())["manifests"]
    packed = [blob(each) for each in json.loads(blob(entry))["layers"]]
    return [gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw for raw in packed]


def push_images(work: Path, prefix: str, tars: list[bytes], count: int) -> list[str]:
    """Push images that nobody has seen but for their base, and return their names."""
    names = []
    for number in range(count):
        seed = f"{prefix} {number}"
        own = layer(f("own", noise(seed, _OWN_MB * 1_000_000)))
        config = {"Cmd": ["/bin/true"], "Env": ["PATH=/usr/bin:/bin"]}
        place = layout(work / "image", *tars, own, config=config)
        names.append(f"{prefix}-{number}:1")
        push(place, names[-1])
        shutil.rmtree(place)
    return names


def noise(seed: str, size: int) -> bytes:
    """Return bytes that nothing compresses, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def run(work: Path, workers: int) -> Run:
    """Build the images of images.txt twice with nothing known at first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyperbuild"
    with tempfile.TemporaryDirectory(dir=work) as home:
        own = Path(home) / "cache/hyperbuild"
        own.mkdir(parents=True)
        for name in ("kernel", "initramfs"):
            (own / name).symlink_to(cache / name)
        env = environment(Path(home), Path(home) / "cache")
        argv = [
            HYPERBUILD, "--quiet", "build", work / "recipe.toml",
            "--images", work / "images.txt", "--workers", str(workers),
        ]  # fmt: skip
        return Run(cost_of(argv, env), cost_of(argv, env))


if __name__ == "__main__":
    main()
