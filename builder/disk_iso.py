"""ISO 9660 file systems by pycdlib, with Rock Ridge names, and El Torito for those that boot."""

from __future__ import annotations

import io
import os
import re
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import pycdlib.dates
import pycdlib.headervd
import pycdlib.pycdlib
import pycdlib.utils

from hyperbuild.builder.disk_extents import SECTOR, Stretch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

_OTHERS = re.compile("[^A-Z0-9]")
#: Bytes that pycdlib copies at a time.
_COPIED = 1 << 20
_TIMED: tuple[ModuleType, ...] = (
    pycdlib.dates,
    pycdlib.headervd,
    pycdlib.pycdlib,
    pycdlib.utils,
)
#: What a platform is called in El Torito's catalog; the most sectors that an entry can count (0:
#: as many as there are, by the UEFI specification, 13.3.2.1).
_UEFI, _MOST_SECTORS = 0xEF, 0xFFFF


@dataclass(frozen=True, slots=True)
class Boot:
    """What firmware starts of a disc: paths of files there; "" where it is not to boot so.

    ``bios`` is a program that wants a boot information table, as isolinux does, ``uefi`` the
    image of a FAT file system.
    """

    bios: str = ""
    uefi: str = ""


def write_iso(
    fd: int,
    volume: str,
    files: Mapping[str, bytes | Stretch],
    *,
    moment: int,
    boot: Boot | None = None,
) -> None:
    """Write a disc called volume, with files by path ("boot/initrd"), into the empty file fd.

    moment, in seconds since the epoch, is when all was changed. Joliet has the names for systems
    that do not read Rock Ridge. OSError.
    """
    with ExitStack() as stack, _clock(moment):
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, vol_ident=volume, joliet=3, rock_ridge="1.09")
        stack.callback(iso.close)
        names = _names(files)
        for path in sorted(names):
            if path in files:
                _add(iso, path, names[path], files[path], stack)
            else:
                iso.add_directory(
                    names[path], rr_name=path.rpartition("/")[2], joliet_path=f"/{path}"
                )
        if boot and boot.bios:
            iso.add_eltorito(f"{names[boot.bios]};1", boot_load_size=4, boot_info_table=True)
        if boot and boot.uefi:
            sectors = -(-len(files[boot.uefi]) // SECTOR)
            iso.add_eltorito(
                f"{names[boot.uefi]};1",
                boot_load_size=sectors if sectors <= _MOST_SECTORS else 0,
                platform_id=_UEFI,
                efi=True,
            )
        with os.fdopen(os.dup(fd), "wb") as target:
            iso.write_fp(target, blocksize=_COPIED)


def _add(
    iso: pycdlib.PyCdlib, path: str, name: str, content: bytes | Stretch, stack: ExitStack
) -> None:
    source: BinaryIO
    if isinstance(content, Stretch):
        source = stack.enter_context(os.fdopen(os.dup(content.fd), "rb"))
        source.seek(0)
    else:
        source = io.BytesIO(content)
    iso.add_fp(
        source,
        len(content),
        f"{name};1",
        rr_name=path.rpartition("/")[2],
        joliet_path=f"/{path}",
        file_mode=0o100444,
    )


def _names(files: Mapping[str, object]) -> dict[str, str]:
    """Return plain ISO paths by those of files and of the directories above them.

    They are for boot loaders; who reads Rock Ridge or Joliet never sees them.
    """
    names = {}
    for path in files:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            names["/".join(parts[:depth])] = "/" + "/".join(map(_plain, parts[:depth]))
    return names


def _plain(name: str) -> str:
    """Return name in capitals, digits and underscores, with one point at the most."""
    stem, point, suffix = name.upper().rpartition(".")
    plain = _OTHERS.sub("_", stem if point else suffix)
    return f"{plain}.{_OTHERS.sub('_', suffix)}" if point else plain


class _Clock:
    """What pycdlib asks of the module time, with one moment for all, in UTC."""

    gmtime = time.gmtime
    localtime = time.gmtime
    strftime = time.strftime

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def time(self) -> float:
        return self._moment


@contextmanager
def _clock(moment: int) -> Iterator[None]:
    """Have pycdlib take the time from us: it can be told only those of some records."""
    clock = _Clock(moment)
    for module in _TIMED:
        vars(module)["time"] = clock
    try:
        yield
    finally:
        for module in _TIMED:
            vars(module)["time"] = time
