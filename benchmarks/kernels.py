"""How long kernels take to reach their first process, in wall time and in instructions."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.workshop import Workshop

PROBE_SOURCE = Path(__file__).with_name("probe.c")
SECONDS = 120
# Of both kernels: what a boot under hyperbuild asks for, less what only a rootfs needs.
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=1 no_timer_check nolapic_timer tsc=reliable noreplace-smp"
)
_MAGICS = {
    b"\xfd7zXZ\0": ("xz", "--single-stream"),
    b"\x28\xb5\x2f\xfd": ("zstd",),
    b"\x02\x21\x4c\x18": ("lz4",),
    b"\x1f\x8b\x08": ("gzip",),
}


def make_probe(shop: Workshop, target: Path) -> None:
    """Make an initramfs whose /init is probe.c."""
    folder = shop.path / "initramfs"
    folder.mkdir()
    flags = ("-static", "-O2", "-s", "-Wall", "-Wextra", "-Werror")
    shop.run("musl-gcc", *flags, "-o", folder / "init", PROBE_SOURCE)
    archive = shop.path / "initramfs.cpio"
    argv = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0", f"--directory={folder}"]
    shop.run(*argv, f"--file={archive}", stdin=b"init\n")
    archive.rename(target)


def make_cloud_kernel(shop: Workshop, target: Path) -> None:
    """Make the vmlinux of Debian's kernel for clouds, from its package."""
    depends = shop.run("apt-cache", "depends", "linux-image-cloud-amd64")
    (package,) = re.findall(r"Depends: (linux-image-\S+)", depends)
    shop.run("apt-get", "download", "-qq", package)
    (archive,) = shop.path.glob("*.deb")
    shop.run("dpkg-deb", "--extract", archive, shop.path / "package")
    (compressed,) = shop.path.glob("package/boot/vmlinuz-*")
    (shop.path / "vmlinux").write_bytes(vmlinux_of(compressed.read_bytes()))
    shutil.move(shop.path / "vmlinux", target)


def vmlinux_of(image: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage (Documentation/x86/boot.rst: payload_offset).

    The payload ends with the unpacked size, four bytes that are no part of the compressed stream.
    """
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    tool = next((tool for magic, tool in _MAGICS.items() if payload.startswith(magic)), None)
    if tool is None:
        raise RuntimeError(f"unknown compression of the kernel: {payload[:6].hex()}")
    argv = [*tool, "--decompress", "--stdout"]
    return subprocess.run(argv, input=payload[:-4], check=True, stdout=subprocess.PIPE).stdout


def first_process(kernel: Path, initramfs: Path) -> float:
    """Return the seconds from exec of QEMU to the word of the first process."""
    return _probe(kernel, initramfs, (), f"tsc_early_khz={_tsc_khz()}")[0]


def instructions(kernel: Path, initramfs: Path) -> int:
    """Return the guest's time stamp at its first process, one tick for each instruction.

    Halted time is warped over and counts as well; it repeats from run to run.
    """
    counting = ("-icount", "shift=0,sleep=off")
    return _probe(kernel, initramfs, counting, "tsc_early_khz=1000000")[1]


def _probe(kernel: Path, initramfs: Path, more: tuple[str, ...], words: str) -> tuple[float, int]:
    argv: list[str | Path] = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-accel", "tcg", "-m", "256M", "-serial", "stdio"),
        *("-M", "microvm,acpi=off,isa-serial=on"),
        *("-kernel", kernel, "-initrd", initramfs, "-append", f"{COMMAND_LINE} {words}"),
    ]
    if more:
        argv[argv.index("-accel") : argv.index("-accel") + 2] = more
    # timeout, so that a kernel that hangs ends; its end closes the pipe.
    limited = ["timeout", "--signal=KILL", str(SECONDS), *argv]
    said = []
    start = time.monotonic()
    with subprocess.Popen(
        limited, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():
            if found := re.search(rb"probe (\d+)", line):
                reached = time.monotonic() - start
                process.terminate()
                return reached, int(found[1])
            said.append(line.decode(errors="replace"))
    raise RuntimeError(f"{kernel} did not reach its first process: {''.join(said)[-2000:]}")


def _tsc_khz() -> int:
    found = re.search(r"cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text())
    return round(float(found[1]) * 1000) if found else 2_000_000
