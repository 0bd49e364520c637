"""``convert --output-format``: a bundle as one file that a machine with firmware boots from."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from hyperbuild.builder.boot_options import BOOT_OPTIONS
from hyperbuild.builder.booting import BootOptions, machine_options, settled
from hyperbuild.builder.bundling import store_bundle
from hyperbuild.builder.converting import Result, ordered
from hyperbuild.builder.disk_extents import MIB, Image, Stretch
from hyperbuild.builder.disk_raw import (
    ROOT_PARTITION,
    Content,
    disk_image,
    guid_of,
    system_partition,
    system_partition_size,
    write_raw,
)
from hyperbuild.builder.disk_uki import COMMAND_LINE, INITRD, KERNEL, OS_RELEASE, unified_kernel
from hyperbuild.converter import files
from hyperbuild.converter.convert import default_epoch
from hyperbuild.converter.errors import InputError, ToolError
from hyperbuild.initramfs.cpio import spec_segment
from hyperbuild.kernel.kconfig import DISK_PROFILE, PROFILES
from hyperbuild.launcher.alone import VERIFIED_ROOT, alone_spec, alone_words
from hyperbuild.launcher.defaults import BootDefaults
from hyperbuild.launcher.located import rootfs_name
from hyperbuild.launcher.machine import parse_disk_size
from hyperbuild.launcher.verity import mapping_word, verity_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.builder.bundling import Order
    from hyperbuild.builder.context import Context
    from hyperbuild.builder.converting import Request
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import MachineOptions

#: What `--output-format` takes.
DISK_FORMATS = ("raw", "qcow2", "vhd", "iso")

#: Programs of other projects that are put on disks and discs, where distributions have them, and
#: the package that brings them to Debian.
STUB = (("/usr/lib/systemd/boot/efi/linuxx64.efi.stub",), "systemd-boot-efi")
ISOLINUX = (
    ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/share/syslinux/isolinux.bin"),
    "isolinux",
)
LDLINUX = (
    ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "/usr/share/syslinux/ldlinux.c32"),
    "syslinux-common",
)

#: Where the UUID of a root file system lies in it, of 16 bytes (fs/erofs/erofs_fs.h, fs/ext4/ext4.h
#: of Linux).
_UUID_PLACES = {"erofs": 1024 + 48, "ext4": 1024 + 104}
#: Letters of a digest that tell images apart, where there is room for a few, and in a disc's name,
#: which has 16 in all.
_SHORT, _IN_VOLUME = 12, 10


@dataclass(frozen=True, slots=True)
class Output:
    """One file to be made: where, in which of ``DISK_FORMATS``; size in MiB, None for the least."""

    path: Path
    kind: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class _Programs:
    """What other projects bring: an EFI stub and, for discs, a boot loader in two files."""

    stub: bytes
    isolinux: bytes = b""
    ldlinux: bytes = b""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an output is made of; ``root`` is a descriptor of ``bundle``'s root file system."""

    bundle: BundleFiles
    kernel: bytes
    programs: _Programs
    moment: int
    root: int

    @property
    def identity(self) -> str:
        """What tells this output's disks from others: what is on them."""
        bundle = self.bundle.bundle
        kernel = bundle.kernel.digest if bundle.kernel else ""
        return f"{bundle.rootfs.digest} {kernel} {bundle.initramfs}"

    @property
    def name(self) -> str:
        """The beginning of the image's digest."""
        return self.bundle.bundle.image.manifest_digest.partition(":")[2][:_SHORT]


def read_output(path: Path, kind: str, size: str | None) -> Output:
    """Read what is to be made, size as in "2G"; InputError: that is none, or not for this kind."""
    if size and kind == "iso":
        raise InputError("an ISO is as large as what is on it; drop --disk-size")
    return Output(path, kind, parse_disk_size(size) if size else None)


def convert_to_disk(context: Context, request: Request, output: Output) -> Result:
    """Convert request's image, and write its bundle as output; the bundle stays in the store.

    InputError: a machine could not start it, or the output's size is too small; ToolError: a
    program for it is not installed.
    """
    started = time.monotonic()
    target = files.named_output(output.path)
    check_parts(output.kind, request.profile, request.kernel_file, with_verity=request.with_verity)
    programs = _find_programs(output.kind)
    with ordered(context, request) as (store, order):
        bundle = store_bundle(store, order).files
        options = _options(context, order)
        with _parts(order, bundle, programs) as parts, files.draft(target.parent) as draft:
            _write(draft.fd, parts, options, output)
            draft.publish(target)
    seconds = time.monotonic() - started
    size = target.stat().st_size / MIB
    context.console.say(
        f"{bundle.bundle.image.reference}: {output.kind} {size:.0f} MiB in {seconds:.1f} s"
    )
    return Result(str(output.path), bundle.bundle)


def check_parts(kind: str, profile: str, kernel_file: object, *, with_verity: bool) -> None:
    """Raise InputError for a kernel that no firmware can start, or a root that kind can't hold."""
    if with_verity and kind == "iso":
        raise InputError(
            "the root file system of an ISO is a file, which dm-verity can't verify; leave verity "
            "out, or make a disk"
        )
    if kernel_file:
        raise InputError(
            "firmware does not start an ELF kernel; leave the file out, and add options of your "
            "own by fragments in a recipe"
        )
    if not PROFILES[profile].bzimage:
        raise InputError(
            f"firmware does not start a kernel of profile {profile}; use profile {DISK_PROFILE}"
        )


def _find_programs(kind: str) -> _Programs:
    stub = _read_program(*STUB)
    if kind != "iso":
        return _Programs(stub)
    return _Programs(stub, _read_program(*ISOLINUX), _read_program(*LDLINUX))


def _read_program(places: tuple[str, ...], package: str) -> bytes:
    for place in map(Path, places):
        if place.is_file():
            return place.read_bytes()
    raise ToolError(f"{places[0]} is missing; install with: apt install {package}")


def _options(context: Context, order: Order) -> MachineOptions:
    """Return how the bundle wants to be booted: a recipe says so, other bundles do not."""
    plain = {option.field: option.default for option in BOOT_OPTIONS}
    options = BootOptions(**plain | {"image": order.name, "command": ()})
    return machine_options(context, settled(options, order.boot or BootDefaults({})))


@contextmanager
def _parts(order: Order, bundle: BundleFiles, programs: _Programs) -> Iterator[_Parts]:
    """Open and read what an output is made of."""
    kernel = order.parts.kernel
    if kernel is None or kernel.bzimage is None:
        raise InputError("the kernel has no bzImage, which firmware starts; build it again")
    moment = default_epoch(order.image) if order.epoch is None else order.epoch
    root = files.open_regular(bundle.rootfs)
    try:
        yield _Parts(bundle, kernel.bzimage.path.read_bytes(), programs, moment, root)
    finally:
        os.close(root)


def _write(fd: int, parts: _Parts, options: MachineOptions, output: Output) -> None:
    if output.kind == "iso":
        _write_iso(fd, parts, options)
        return
    content = _content(parts, options, _root_device(parts))
    image = disk_image(content, output.size * MIB if output.size else None)
    match output.kind:
        case "raw":
            write_raw(fd, image)
        case "qcow2":
            from hyperbuild.builder.disk_qcow2 import write_qcow2

            write_qcow2(fd, image)
        case _:
            from hyperbuild.builder.disk_vhd import write_vhd

            write_vhd(fd, image, guid_of(parts.identity, "vhd"), parts.moment)


def _root_device(parts: _Parts) -> str:
    """Return how hyperstart finds the root on a disk: by its UUID, or verified."""
    info = parts.bundle.bundle.rootfs
    if info.verity:
        return VERIFIED_ROOT
    return f"UUID={UUID(bytes=os.pread(parts.root, 16, _UUID_PLACES[info.format]))}"


def _words(parts: _Parts, options: MachineOptions) -> tuple[str, ...]:
    """Return the kernel's command line; the partition of a verified root stands there."""
    info = parts.bundle.bundle.rootfs
    words = alone_words(parts.bundle.bundle, options)
    if not info.verity:
        return words
    partition = f"PARTUUID={guid_of(parts.identity, ROOT_PARTITION)}"
    return (*words, mapping_word([verity_table(info.verity, partition)]))


def _content(parts: _Parts, options: MachineOptions, root: str) -> Content:
    """Join kernel, initramfs and command line for a machine that finds its root so."""
    sections = {
        OS_RELEASE: f'ID=hyperbuild\nPRETTY_NAME="HyperVM {parts.name}"\n'.encode(),
        COMMAND_LINE: " ".join(_words(parts, options)).encode(),
        KERNEL: parts.kernel,
        INITRD: _initrd(parts, options, root),
    }
    program = unified_kernel(parts.programs.stub, sections)
    size = parts.bundle.bundle.rootfs.size
    return Content(program, Stretch(parts.root, size), parts.identity, parts.moment)


def _initrd(parts: _Parts, options: MachineOptions, root: str) -> bytes:
    bundle = parts.bundle
    if bundle.initramfs is None:
        raise InputError("an output that boots needs an initramfs; convert the image again")
    template = bundle.initramfs.read_bytes()
    spec = alone_spec(bundle.bundle, options, root=root, hostname=parts.name)
    # The kernel looks for the next segment at a multiple of four.
    return template + bytes(-len(template) % 4) + spec_segment(spec)


def _write_iso(fd: int, parts: _Parts, options: MachineOptions) -> None:
    """Write a disc that a BIOS starts by isolinux, and UEFI by the system partition on it."""
    from hyperbuild.builder.disk_iso import Boot, write_iso

    volume = f"HYPER_{parts.name[:_IN_VOLUME].upper()}"
    content = _content(parts, options, f"ISO={volume}")
    size = system_partition_size(content)
    with os.fdopen(os.memfd_create("esp"), "w+b") as esp:
        write_raw(esp.fileno(), Image(size, system_partition(content, size)))
        write_iso(
            fd,
            volume,
            {
                "boot/bzimage": parts.kernel,
                "boot/initrd": _initrd(parts, options, f"ISO={volume}"),
                "efi.img": Stretch(esp.fileno(), size),
                "isolinux/isolinux.bin": parts.programs.isolinux,
                "isolinux/isolinux.cfg": _loader_config(_words(parts, options)),
                "isolinux/ldlinux.c32": parts.programs.ldlinux,
                rootfs_name(parts.bundle.bundle.rootfs.format): content.root,
            },
            moment=parts.moment,
            boot=Boot(bios="isolinux/isolinux.bin", uefi="efi.img"),
        )


def _loader_config(words: tuple[str, ...]) -> bytes:
    lines = ("default vm", "label vm", "kernel /boot/bzimage", "initrd /boot/initrd")
    return "\n".join((*lines, f"append {' '.join(words)}", "")).encode()
