"""Whether a root file system can be mapped by a guest instead of copied (DAX), point by point.

Sources: Linux, Documentation/filesystems/dax.rst and erofs.rst, drivers/nvdimm (alignment), and
what hyperbuild's own machine needs (launcher/qemu.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import printable
from hyperbuild.converter.limits import shown_size
from hyperbuild.launcher.machine import DAX_ALIGNMENT

if TYPE_CHECKING:
    from hyperbuild.converter.examine import Examined
    from hyperbuild.launcher.bundle import KernelInfo

PAGE_SIZE = 4096
#: Options that must be built in: nothing loads modules before the root file system is mounted.
_OPTIONS = ("DAX", "FS_DAX", "ZONE_DEVICE", "LIBNVDIMM", "BLK_DEV_PMEM", "X86_PMEM_LEGACY")
_FORMAT_OPTIONS = {"erofs": ("EROFS_FS",), "ext4": ("EXT4_FS",)}
_VERIFIED = "it is read as a block device, as dm-verity cannot check what is mapped"
_AGAIN = "convert the image again"


class Level(StrEnum):
    """How a point stands; a note is no obstacle, or cannot be decided here."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Point:
    """One point: its name, how it stands, what was seen, and what to do about it if anything."""

    name: str
    level: Level
    text: str
    remedy: str = ""


def lint(
    rootfs: Examined,
    kernel: KernelInfo | None,
    options: frozenset[str] | None,
    *,
    has_verity: bool = False,
) -> tuple[Point, ...]:
    """Judge a root file system and its bundle's kernel.

    options are the names of what is built into kernel ("FS_DAX"), None if that is not known.
    """
    points = [_format(rootfs), _size(rootfs)]
    if has_verity:
        points.append(Point("verity", Level.WARNING, _VERIFIED, "convert without --verity"))
    if rootfs.format:
        points.append(_block_size(rootfs))
        if rootfs.defect:
            points.append(Point("content", Level.WARNING, rootfs.defect, _AGAIN))
        else:
            points += [_inline(rootfs), _alignment(rootfs), _huge_pages(rootfs)]
    return (*points, _kernel(rootfs.format, kernel, options))


def _format(rootfs: Examined) -> Point:
    if rootfs.format:
        return Point("format", Level.OK, rootfs.format)
    return Point("format", Level.WARNING, rootfs.defect, _AGAIN)


def _size(rootfs: Examined) -> Point:
    if rootfs.size and rootfs.size % DAX_ALIGNMENT == 0:
        return Point("size", Level.OK, f"{shown_size(rootfs.size)}, a multiple of 2 MiB")
    text = f"{rootfs.size} bytes are no multiple of 2 MiB, so it is read as a block device"
    return Point("size", Level.WARNING, text, _AGAIN)


def _block_size(rootfs: Examined) -> Point:
    if rootfs.block_size == PAGE_SIZE:
        return Point("block-size", Level.OK, f"{PAGE_SIZE} bytes, a page")
    text = f"{rootfs.block_size} bytes, where a page has {PAGE_SIZE}"
    return Point("block-size", Level.WARNING, text, _AGAIN)


def _inline(rootfs: Examined) -> Point:
    layout = rootfs.layout
    if not layout.inlined:
        return Point("inline", Level.OK, f"none of {layout.files:,} files is inlined")
    text = f"{layout.inlined:,} of {layout.files:,} files lie among the metadata, "
    text += f"{printable(layout.example)} for one: the guest copies them"
    return Point("inline", Level.WARNING, text, f"{_AGAIN} (mkfs.erofs: -E noinline_data)")


def _alignment(rootfs: Examined) -> Point:
    layout = rootfs.layout
    if not layout.unaligned:
        return Point("alignment", Level.OK, "every file begins on a block of its own")
    text = f"{layout.unaligned:,} of {layout.files:,} files begin inside a block, "
    text += f"{printable(layout.example)} for one"
    return Point("alignment", Level.WARNING, text, _AGAIN)


def _huge_pages(rootfs: Examined) -> Point:
    large, aligned = rootfs.layout.large, rootfs.layout.large_aligned
    if not large:
        return Point("huge-pages", Level.OK, "no file has 2 MiB, so none could fill a huge page")
    text = f"{aligned} of {large} files of 2 MiB and more begin at a multiple of 2 MiB"
    if aligned == large:
        return Point("huge-pages", Level.OK, text)
    text += "; the others are mapped page by page"
    return Point("huge-pages", Level.NOTE, text, "convert with --align")


def _kernel(file_format: str, kernel: KernelInfo | None, options: frozenset[str] | None) -> Point:
    if kernel is None:
        text = "the bundle has no kernel to look at"
        return Point("kernel", Level.NOTE, text, "convert without --no-kernel")
    if options is None:
        text = f"the .config of {kernel.version} is not in the cache, so its options are unknown"
        return Point("kernel", Level.NOTE, text, "hyperbuild kernel build")
    wanted = (*_OPTIONS, *_FORMAT_OPTIONS.get(file_format, ()))
    missing = [f"CONFIG_{name}" for name in wanted if name not in options]
    if missing:
        text = f"{kernel.version} has not built in {', '.join(missing)}"
        return Point("kernel", Level.WARNING, text, "use the HyperKernel or build them in")
    return Point("kernel", Level.OK, f"{kernel.version} has all {len(wanted)} options it takes")
