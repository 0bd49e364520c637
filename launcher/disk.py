"""A disk for what a VM writes: one file with an ext4 file system, for the VMs of one image.

An overlay's upper directory makes sense above the very image it was begun with, so the file system
carries the image's digest as its UUID. Layout of the superblock: the kernel's
Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import os
from contextlib import suppress
from struct import unpack_from
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, ToolError
from hyperbuild.converter.files import draft, open_regular, try_lock
from hyperbuild.launcher.programs import find_program

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.launcher.machine import DiskFile

_MIB = 1 << 20
#: MiB of a disk of no size in particular; the file takes what is used of it.
_DEFAULT_SIZE = 10 << 10
#: Where administrators' programs are, though not every user's PATH leads there.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_SUPERBLOCK, _SUPERBLOCK_SIZE = 1024, 1024
_MAGIC = 0xEF53
_UUID_SIZE = 16


def open_disk(wanted: DiskFile, image: str, search_path: str) -> int:
    """Open the disk of a VM of image (a manifest's digest), made if there is none, and lock it.

    The lock is the descriptor's, and of whoever inherits it. InputError: it is another image's, of
    another size, in use, or no disk at all; ToolError: mkfs.ext4 is missing or fails.
    """
    uuid = _uuid(image)
    if not os.path.lexists(wanted.path):
        make_disk(wanted, search_path, uuid)
    fd = open_regular(wanted.path, os.O_RDWR)
    try:
        _lock(fd, wanted.path)
        _check(fd, wanted, uuid)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _uuid(image: str) -> bytes:
    """Return the first bits of a digest as a UUID of version 8 (RFC 9562, 5.8)."""
    raw = bytearray(bytes.fromhex(image.partition(":")[2])[:_UUID_SIZE])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def make_disk(wanted: DiskFile, search_path: str, uuid: bytes | None = None) -> None:
    """Make a file with an empty ext4 file system of that uuid (None: a random one).

    One that is there stays as it is. InputError: its directory is none; ToolError as ``open_disk``.
    """
    import subprocess

    program = find_program("mkfs.ext4", f"{search_path}:{_SYSTEM_PATH}")
    if program is None:
        raise ToolError(
            f"mkfs.ext4 is not there to make {wanted.path} with; run: apt install e2fsprogs"
        )
    directory = wanted.path.parent
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory to make a disk in; make it first")
    with draft(directory) as file:
        os.fchmod(file.fd, 0o600)
        os.ftruncate(file.fd, (wanted.size or _DEFAULT_SIZE) * _MIB)
        argv = [program, "-q", "-F", "-U", _text(uuid) if uuid else "random"]
        argv += ["-L", "hyperbuild", "-m", "0"]
        # A new file is all zeros: the journal needs none written.
        argv += ["-e", "remount-ro", "-E", "lazy_journal_init=1"]
        done = subprocess.run(
            [*argv, str(file.path)], capture_output=True, text=True, check=False, errors="replace"
        )
        if done.returncode:
            told = done.stderr.strip().rpartition("\n")[2]
            raise ToolError(f"mkfs.ext4 could not make {wanted.path}: {told}")
        os.fsync(file.fd)
        # Another VM may have made it meanwhile, and use it already.
        with suppress(FileExistsError):
            os.link(file.path, wanted.path)


def _text(uuid: bytes) -> str:
    digits = uuid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _lock(fd: int, path: Path) -> None:
    if not try_lock(fd):
        raise InputError(f"{path} is in use by another VM; stop that one, or give another disk")


def _check(fd: int, wanted: DiskFile, uuid: bytes) -> None:
    path, size = wanted.path, os.fstat(fd).st_size
    if check_disk(fd, path) != uuid:
        raise InputError(
            f"{path} is the disk of another image, whose files it lies above; give this image one "
            "of its own, or remove that one to begin anew"
        )
    if wanted.size and size != wanted.size * _MIB:
        raise InputError(
            f"{path} is there already, with {size / _MIB:g} MiB; drop the size to use it as it is"
        )


def check_disk(fd: int, path: Path) -> bytes:
    """Return the UUID of the ext4 file system in fd; InputError if there is none, or it is cut."""
    block = os.pread(fd, _SUPERBLOCK_SIZE, _SUPERBLOCK)
    if len(block) < _SUPERBLOCK_SIZE or unpack_from("<H", block, 0x38)[0] != _MAGIC:
        raise InputError(f"{path} has no ext4 file system; give a file that isn't there yet")
    blocks = unpack_from("<I", block, 0x4)[0] | unpack_from("<I", block, 0x150)[0] << 32
    if blocks << 10 << unpack_from("<I", block, 0x18)[0] > os.fstat(fd).st_size:
        raise InputError(f"{path} was cut short; restore it from a copy, or remove it")
    return block[0x68 : 0x68 + _UUID_SIZE]
