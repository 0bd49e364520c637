"""What booting costs: nginx from exec of `hyperbuild boot` to its first page, and kernels alone."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from benchmarks.kernels import (
    PROBE_SOURCE,
    first_process,
    instructions,
    make_cloud_kernel,
    make_probe,
)
from benchmarks.measure import alternate, machine, table
from tests.support.images import image
from tests.support.registry import free_port
from tests.support.workshop import content_key, default_cache, made

HYPERBUILD = Path(sys.executable).parent / "hyperbuild"
EVENTS = ("hypervisor", "init", "app_exec")
#: Where a VM stands still that `hyperbuild warm` saves, and the steps of its copies.
TEMPLATES = {"exec": ("hypervisor", "resumed", "app_exec"), "listening": ("hypervisor", "resumed")}
#: Steps whose guest instructions are counted, and the ways to the root file system.
COUNTED = ("init", "app_exec")
WAYS = ("dax", "blk")
#: Seconds that one request waits.
_PATIENCE = 5.0
METHOD = """
Wall times are medians of {rounds} runs by TCG, the page cache warm, contenders taking turns.
nginx: `hyperbuild boot` of a bundle in the store, from its exec to the moments its own timeline
names, and to the first answer with status 200 (asked for every 2 ms).
Kernels alone: QEMU microvm, 256 MB, one CPU, the same command line and the same initramfs, whose
/init says that it runs. Debian's kernel has EROFS, pmem and virtio as modules, so it gets no
further with an initramfs that has none. Instructions: one run by `-icount shift=0,sleep=off`, the
guest's time stamp in its first process, idle time included; it repeats on a noisy machine.
Machine: {machine}.
"""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["HYPERBUILD_ACCEL"] = "tcg"
    print("\n## boot\n\n" + measure_nginx(rounds))
    print(measure_kernels(rounds))
    print(METHOD.strip().format(rounds=rounds, machine=machine()))


def measure_nginx(rounds: int) -> str:
    """Return the table of the nginx image's boot."""
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        os.environ["XDG_DATA_HOME"] = work
        argv = [HYPERBUILD, "convert", f"oci:{image('nginx')}:latest"]
        bundle = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[
            -1
        ]
        ways = [(rootfs, start) for rootfs in WAYS for start in ("cold", *TEMPLATES)]
        boots = [partial(boot_once, bundle, rootfs, start) for rootfs, start in ways]
        for rootfs, start in ways:
            if start != "cold":
                _make_template(bundle, rootfs, start)
        for boot in boots:
            boot()
        found = [_medians(runs) for runs in alternate(rounds, *boots)]
        counted = [[step, *(count_to(bundle, step, way) for way in WAYS)] for step in COUNTED]
    rows = [
        [title, *(f"{medians[name] * 1000:.0f}" if name in medians else "" for medians in found)]
        for name, title in _TITLES.items()
    ]
    names = (f"{rootfs}, {_STARTS[start]}" for rootfs, start in ways)
    times = table(("ms from exec of `hyperbuild boot` to", *names), rows)
    return times + "\n" + table(("M guest instructions to", "DAX", "virtio-blk"), counted)


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


_STARTS = {"cold": "cold", "exec": "warm at exec", "listening": "warm, listening"}


def count_to(bundle: str, step: str, rootfs: str) -> str:
    """Return the millions of guest instructions to step, the root file system as rootfs says."""
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        report = Path(work) / "boot.json"
        argv: list[str | Path] = [HYPERBUILD, "boot", "--budget", f"insns:{step}=1G"]
        argv += ["--rootfs", rootfs, "--report", report, bundle, "true"]
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
        (budget,) = json.loads(report.read_text())["budgets"]
        return f"{budget['spent'] / 1e6:.1f}"


_TITLES = {
    "hypervisor": "the hypervisor's exec: what `hyperbuild boot` adds",
    "init": "hyperstart's first instruction",
    "resumed": "userland of the restored guest",
    "app_exec": "the application's exec",
    "page": "the first HTTP 200",
}


def boot_once(bundle: str, rootfs: str, start: str) -> dict[str, float]:
    """Boot bundle, fetch its page, stop it; return the seconds to each event and to the page.

    start is "cold" or where the template stands that it is a copy of.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hyperbuild-bench-") as work:
        report = Path(work) / "boot.json"
        began = time.monotonic()
        argv = [HYPERBUILD, "boot", "-p", f"127.0.0.1:{port}:80", "--timeout", "120"]
        argv += [*(["--require-warm"] if start != "cold" else []), "--report", report]
        vm = subprocess.Popen(
            [*argv, "--rootfs", rootfs, bundle],
            env=_environment(rootfs, start),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for_page(port, vm)
            page = time.monotonic() - began
        finally:
            vm.terminate()
            vm.wait()
        steps = {step["name"]: step["ns"] / 1e9 for step in json.loads(report.read_text())["steps"]}
        # CLOCK_MONOTONIC is the clock of both.
        events = TEMPLATES.get(start, EVENTS)
        return {**{name: steps[name] - began for name in events}, "page": page}


def _environment(rootfs: str, start: str) -> dict[str, str]:
    """Return one with a cache of its own: a boot would take the template that stands furthest."""
    cache = Path(os.environ["XDG_DATA_HOME"]) / f"{rootfs}-{start}"
    return {**os.environ, "XDG_CACHE_HOME": str(cache)}


def _make_template(bundle: str, rootfs: str, when: str) -> None:
    subprocess.run(
        [HYPERBUILD, "warm", "--when", when, "--rootfs", rootfs, bundle],
        env=_environment(rootfs, when),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def measure_kernels(rounds: int) -> str:
    """Return the table of the HyperKernel and Debian's cloud kernel."""
    cache = default_cache()
    made_by = content_key(Path(__file__).with_name("kernels.py"), PROBE_SOURCE)
    probe = made(cache, f"probe-{made_by}", make_probe)
    cloud = made(cache, f"cloud-kernel-{made_by}", make_cloud_kernel)
    argv = [HYPERBUILD, "kernel", "build"]
    built = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    kernels = {"HyperKernel": Path(built.split()[-1]), "Debian's cloud kernel": cloud}
    return table(
        ("kernel", "file MB", "ms to first process", "M instructions"),
        _rows(kernels, probe, rounds),
    )


def _rows(kernels: dict[str, Path], probe: Path, rounds: int) -> list[list[str]]:
    times = alternate(rounds, *(partial(first_process, path, probe) for path in kernels.values()))
    return [
        [
            name,
            f"{path.stat().st_size / 1e6:.1f}",
            f"{statistics.median(found) * 1000:.0f}",
            f"{instructions(path, probe) / 1e6:.1f}",
        ]
        for (name, path), found in zip(kernels.items(), times, strict=True)
    ]


def wait_for_page(port: int, vm: subprocess.Popen[bytes]) -> None:
    """Ask for the page of vm on port until it comes; RuntimeError if vm ends before."""
    while vm.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=_PATIENCE):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.002)
    raise RuntimeError(f"boot ended with status {vm.returncode} before the page came")


if __name__ == "__main__":
    main()
