"""The HyperKernel in QEMU, with an init of its own: what the other rooms build upon."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.kernel.build import Kernel

pytestmark = pytest.mark.boot

_BARE = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
_MICROVM = ["-M", "microvm,x-option-roms=off,isa-serial=on,acpi=off", "-m", "128"]
_ALIGNMENT = 2 << 20

#: Prints whether its own file is mapped by DAX, then resets the machine.
INIT = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    struct statx status = {0};
    syscall(SYS_statx, AT_FDCWD, "/init", 0, STATX_BASIC_STATS, &status);
    printf("init runs, dax=%d\n", (status.stx_attributes & STATX_ATTR_DAX) != 0);
    fflush(stdout);
    return reboot(RB_AUTOBOOT);
}
"""


def boot(kernel: Kernel, options: list[str], command_line: str) -> str:
    """Run QEMU (software emulation) to its end and return the serial console's output."""
    argv = ["qemu-system-x86_64", "-accel", "tcg", *_BARE, *options]
    argv += ["-kernel", str(kernel.path), "-append", f"console=ttyS0 {command_line}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an EROFS image, plain and padded for DAX, that holds INIT alone."""
    directory = tmp_path_factory.mktemp("rootfs")
    (directory / "root/dev").mkdir(parents=True)
    headers = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
    (directory / "init.c").write_text(INIT)
    compiler = ["musl-gcc", "-static", "-O2", *headers, "-o", "root/init", "init.c"]
    subprocess.run(compiler, cwd=directory, check=True)
    make_image = ["mkfs.erofs", "--quiet", "-Enoinline_data", "image", "root"]
    subprocess.run(make_image, cwd=directory, check=True)
    image = directory / "image"
    os.truncate(image, -(-image.stat().st_size // _ALIGNMENT) * _ALIGNMENT)
    return image


def disk(image: Path) -> list[str]:
    return ["-drive", f"if=none,id=disk,file={image},format=raw,readonly=on"]


def nvdimm(image: Path) -> list[str]:
    backend = f"memory-backend-file,id=rootfs,mem-path={image},size={image.stat().st_size}"
    return [
        *("-M", "pc,nvdimm=on", "-m", "256M,slots=2,maxmem=4G"),
        *("-object", f"{backend},share=on,readonly=on"),
        *("-device", "nvdimm,memdev=rootfs,unarmed=on"),
    ]


def test_without_a_root_the_kernel_panics_and_the_machine_ends(kernel: Kernel) -> None:
    output = boot(kernel, _MICROVM, "reboot=t")
    assert f"Linux version {kernel.version} " in output
    assert "Kernel panic - not syncing: VFS: Unable to mount root fs" in output


def test_microvm_runs_init_from_a_virtio_mmio_disk(kernel: Kernel, rootfs: Path) -> None:
    device = [*disk(rootfs), "-device", "virtio-blk-device,drive=disk"]
    root = "root=/dev/vda rootfstype=erofs init=/init"
    output = boot(kernel, [*_MICROVM, *device], f"quiet reboot=t {root}")
    assert "init runs, dax=0" in output


def test_pc_runs_init_from_a_virtio_pci_disk_with_acpi(kernel: Kernel, rootfs: Path) -> None:
    device = [*disk(rootfs), "-device", "virtio-blk-pci,drive=disk"]
    root = "root=/dev/vda rootfstype=erofs init=/init"
    output = boot(kernel, ["-M", "pc", "-m", "128", "-smp", "2", *device], f"quiet {root}")
    assert "init runs, dax=0" in output


def test_pc_runs_init_by_dax_from_memory_given_as_pmem(kernel: Kernel, rootfs: Path) -> None:
    size = rootfs.stat().st_size >> 20
    root = "root=/dev/pmem0 rootfstype=erofs rootflags=dax init=/init"
    output = boot(kernel, nvdimm(rootfs), f"quiet acpi=off memmap={size}M!4G {root}")
    assert "init runs, dax=1" in output


def test_pc_finds_the_nvdimm_by_acpi(kernel: Kernel, rootfs: Path) -> None:
    root = "root=/dev/pmem0 rootfstype=erofs init=/init"
    output = boot(kernel, nvdimm(rootfs), f"quiet {root}")
    assert "init runs" in output


def test_a_pmem_device_over_virtio_is_found(kernel: Kernel, rootfs: Path) -> None:
    backend = f"memory-backend-file,id=rootfs,mem-path={rootfs},size={rootfs.stat().st_size}"
    machine = ["-M", "pc", "-m", "256M,slots=2,maxmem=4G", "-object", f"{backend},share=off"]
    device = ["-device", "virtio-pmem-pci,memdev=rootfs"]
    root = "root=/dev/pmem0 rootfstype=erofs rootflags=dax init=/init"
    output = boot(kernel, [*machine, *device], f"quiet {root}")
    assert "init runs, dax=1" in output
