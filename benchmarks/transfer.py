"""What pushing and pulling a bundle costs, and how soon a bundle in a registry serves its page.

python -m benchmarks.transfer [--rounds N] [IMAGE]    an image of tests.support.images; default:
                                                      development
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.boot import wait_for_page
from benchmarks.measure import Cost, alternate, cost_of, machine, median_cost, table
from tests.support.images import image
from tests.support.registry import free_port, push, serve_registry

if TYPE_CHECKING:
    from collections.abc import Iterable

HYPERBUILD = Path(sys.executable).parent / "hyperbuild"
METHOD = """
Each figure is the median of {rounds} runs, all taking turns, against one docker-registry on
loopback whose own work is not counted. All push to a repository that is new, and pull into an empty
directory. `oras` is the Python client, which sends and keeps the bundle's files as they are; skopeo
verifies them and keeps them as an OCI layout. What hyperbuild sends is compressed; what it pulls is
verified and synced. CPU is user + system time, memory the peak resident size (wait4). To the
first page: from the exec of `hyperbuild boot HOST/nginx` with an empty store to the first HTTP 200,
the kernel built already. Machine: {machine}.
"""

_ORAS_PUSH = """
import sys, oras.client
host, target, *files = sys.argv[1:]
client = oras.client.OrasClient(hostname=host, insecure=True)
client.push(files=files, target=target, disable_path_validation=True)
"""
_ORAS_PULL = """
import sys, oras.client
host, target, out = sys.argv[1:]
oras.client.OrasClient(hostname=host, insecure=True).pull(target=target, outdir=out)
"""
_FILES = ("bundle.json", "rootfs.erofs", "vmlinux", "initramfs.cpio")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?", default="development")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["HYPERBUILD_ACCEL"] = "tcg"
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        print("\n## transfer\n\n" + measure(options.image, options.rounds, Path(work)))
        print(measure_boot(options.rounds, Path(work)))
    print(METHOD.strip().format(rounds=options.rounds, machine=machine()))


def measure(name: str, rounds: int, work: Path) -> str:
    """Return the table of pushing and pulling the bundle of an image."""
    store, bundle = work / "store", work / "bundle"
    environment = {**os.environ, "XDG_DATA_HOME": str(store)}
    with serve_registry(work / "registry") as host:
        source = f"{host}/source/{name}:latest"
        push(image(name), source)
        for more in ((), ("-o", str(bundle))):
            argv = [HYPERBUILD, "--quiet", "convert", source, *more]
            subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
        contenders = {
            "`hyperbuild push`": partial(push_by_us, bundle, work, host),
            "`oras push`": partial(push_by_oras, bundle, work, host),
            "`hyperbuild pull`": partial(pull_by_us, work),
            "`oras pull`": partial(pull_by_oras, work, host),
            "`skopeo copy` of what oras pushed": partial(pull_by_skopeo, work),
        }
        medians = [median_cost(costs) for costs in alternate(rounds, *contenders.values())]
    size = (bundle / "rootfs.erofs").stat().st_size
    shutil.rmtree(store)
    shutil.rmtree(work / "registry")
    head = (f"{name}, {size / 1e6:.0f} MB", "wall s", "CPU s", "peak MB")
    return table(head, _rows(zip(contenders, medians, strict=True)))


def _rows(costs: Iterable[tuple[str, Cost]]) -> list[list[str]]:
    return [
        [title, f"{cost.wall:.2f}", f"{cost.cpu:.2f}", f"{cost.peak / 1e6:.0f}"]
        for title, cost in costs
    ]


def _new(work: Path, host: str, by: str) -> str:
    """Return a name in host that nothing has; what pulls takes the last."""
    name = f"{host}/{by}-{time.monotonic_ns()}/bundle:1"
    (work / f"{by}.name").write_text(name)
    return name


def push_by_us(bundle: Path, work: Path, host: str) -> Cost:
    """Return what our push costs."""
    return cost_of([HYPERBUILD, "push", bundle, _new(work, host, "ours")])


def push_by_oras(bundle: Path, work: Path, host: str) -> Cost:
    """Return what oras's push of the same files costs."""
    files = [bundle / name for name in _FILES]
    return cost_of([sys.executable, "-c", _ORAS_PUSH, host, _new(work, host, "oras"), *files])


def pull_by_us(work: Path) -> Cost:
    """Return what our pull costs."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        name = (work / "ours.name").read_text()
        return cost_of([HYPERBUILD, "pull", name], {"XDG_DATA_HOME": place})


def pull_by_oras(work: Path, host: str) -> Cost:
    """Return what oras's pull of the same files costs."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        name = (work / "oras.name").read_text()
        return cost_of([sys.executable, "-c", _ORAS_PULL, host, name, place])


def pull_by_skopeo(work: Path) -> Cost:
    """Return what skopeo's copy of the same files costs."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        name = (work / "oras.name").read_text()
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false"]
        return cost_of([*copy, f"docker://{name}", f"oci:{place}/layout:1"])


def measure_boot(rounds: int, work: Path) -> str:
    """Return the table of the time from an empty store to nginx's page."""
    with serve_registry(work / "registry") as host:
        for name in ("ready", "plain"):
            push(image("nginx"), f"{host}/{name}/nginx:latest")
        environment = {**os.environ, "XDG_DATA_HOME": str(work / "store")}
        for words in (("convert", f"{host}/ready/nginx"), ("push", f"{host}/ready/nginx")):
            argv = [HYPERBUILD, "--quiet", *words]
            subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
        contenders = {
            "a bundle is attached to the image": partial(first_page, work, f"{host}/ready/nginx"),
            "the image is converted": partial(first_page, work, f"{host}/plain/nginx"),
        }
        found = alternate(rounds, *contenders.values())
    rows = [
        [title, f"{statistics.median(seconds):.2f}"]
        for title, seconds in zip(contenders, found, strict=True)
    ]
    return table(("nginx from a registry, an empty store", "s to the first page"), rows)


def first_page(work: Path, name: str) -> float:
    """Boot the image called name with an empty store; return the seconds to its first page."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir=work) as place:
        start = time.monotonic()
        argv = [HYPERBUILD, "--quiet", "boot", name, "-p", f"127.0.0.1:{port}:80"]
        environment = {**os.environ, "XDG_DATA_HOME": place}
        with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as vm:
            try:
                wait_for_page(port, vm)
                return time.monotonic() - start
            finally:
                vm.terminate()


if __name__ == "__main__":
    main()
