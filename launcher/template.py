"""A template: one file that holds a VM standing still, and what it was made with.

RAM (as large as the guest's) | state of the devices | JSON document | trailer

The document names the key (what the user asked for, word for word) and what the template was made
with, each by a name that an error can use. The trailer, last in the file, is what a cut file lacks.
Sums of state and document find what a disk has lost of them; those of the RAM would take too long.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.files import write_all
from hyperbuild.converter.records import Record
from hyperbuild.launcher.driver import Wires
from hyperbuild.launcher.errors import BootError
from hyperbuild.launcher.machine import Hold, Ram

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hyperbuild.launcher.driver import Driver
    from hyperbuild.launcher.host import Cpu
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import Machine, MachineOptions

_TRAILER = struct.Struct("<16sQQ")
_MAGIC = b"hyperbuild warm1"
_DOCUMENT_LIMIT = 4 << 20

#: A template that starts further on is better.
_PREFERENCE = (Hold.HEALTHY, Hold.LISTENING, Hold.EXEC)


class TemplateError(BootError):
    """There is no template that can be restored here, as told."""


class Template(Record):
    """An open template: the descriptors of its file (the RAM first) and of the state in it."""

    fd: int
    state: int
    hold: Hold


class Templates(Record):
    """The directory ``root`` of templates, each found by what it is for."""

    root: Path

    def path(self, files: BundleFiles, options: MachineOptions, hold: Hold) -> Path:
        """Return where the template of files for options lies."""
        digest = files.bundle.rootfs.digest.partition(":")[2]
        return self.root / f"{digest[:32]}-{zlib.crc32(template_key(files, options, hold)):08x}"

    @contextmanager
    def open(
        self, files: BundleFiles, options: MachineOptions, made_with: Mapping[str, str]
    ) -> Iterator[Template]:
        """Open the best template for options that fits; TemplateError of the best if none does."""
        refusal = None
        for hold in _PREFERENCE:
            path = self.path(files, options, hold)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _refusal(f"{path}: {error.strerror}") from error
            try:
                os.utime(fd)
                try:
                    ram = _check(fd, template_key(files, options, hold), made_with)
                except TemplateError as error:
                    # What another hyperbuild has left must not stand before one that fits.
                    refusal = refusal or error
                    continue
                with _opened_at(fd, ram) as state:
                    yield Template(fd, state, hold)
            finally:
                os.close(fd)
            return
        raise refusal or TemplateError(
            "there is no template of this image for these options; make one with hyperbuild warm"
        )


def seal(fd: int, ram: int, key: bytes, made_with: Mapping[str, str]) -> None:
    """Add to the file fd, which holds ram bytes of RAM and the state behind, all that lacks."""
    end = os.lseek(fd, 0, os.SEEK_END)
    state = os.pread(fd, end - ram, ram)
    document = {
        "key": key.decode(),
        "made_with": dict(made_with),
        "ram": ram,
        "state": len(state),
        "crc32": zlib.crc32(state),
    }
    raw = json.dumps(document).encode()
    write_all(fd, raw + _TRAILER.pack(_MAGIC, len(raw), zlib.crc32(raw)))


def ingredients(
    driver: Driver, program: str, cpu: Cpu, files: BundleFiles, machine: Machine
) -> dict[str, str]:
    """Return what a template of machine is made with: name, as for a user -> what identifies it."""
    status = Path(program).stat()
    kernel = files.bundle.kernel
    return {
        "hypervisor": f"{program} {status.st_size} {status.st_mtime_ns}",
        "accelerator": machine.accel,
        "CPU": " ".join(sorted(cpu.flags)),
        "kernel": kernel.digest if kernel else "",
        "initramfs": files.bundle.initramfs or "",
        "machine": "\0".join(driver.command("", _neutral(machine), Wires(0, 1, 2, 3))),
    }


def _neutral(machine: Machine) -> Machine:
    """Take away what may differ from one copy to the next."""
    nothing = Path("/")
    nic = machine.nic and machine.nic.replace(mac="", address="", forwards=())
    return machine.replace(
        kernel=nothing,
        initrd=None,
        disks=tuple(disk.replace(path=nothing) for disk in machine.disks),
        nic=nic,
        ram=Ram(nothing, restored=True),
    )


def template_key(files: BundleFiles, options: MachineOptions, hold: Hold) -> bytes:
    """Return what a template that stands at hold is for, word for word.

    Before its exec all of the application can be told anew; later, nothing of it can.
    """
    shape: list[object] = [options.memory, options.cpus, options.dax, options.network]
    # Mounted is what was mounted in the template.
    shape += [[(mount.target, mount.words) for mount in options.mounts], options.read_only]
    running: list[object] = []
    if hold is not Hold.EXEC:
        running += [repr(files.bundle.process), options.args, options.env, options.tty]
        running += [options.hosts, options.nameservers]
    if hold is Hold.HEALTHY:
        running.append(options.health_command)
    return json.dumps([hold, files.bundle.rootfs.digest, *shape, *running]).encode()


def _check(fd: int, key: bytes, made_with: Mapping[str, str]) -> int:
    """Return the size of the RAM in fd; TemplateError if that is not key's, made so."""
    document = _read_document(fd)
    if document["key"] != key.decode():
        raise _refusal("the template of this image is for other options")
    before = document["made_with"]
    others = [name for name, what in made_with.items() if before.get(name) != what]
    if others:
        raise _refusal(f"the template was made with another {' and another '.join(others)}")
    ram, state = document["ram"], document["state"]
    if zlib.crc32(os.pread(fd, state, ram)) != document["crc32"]:
        raise _refusal("the template is damaged")
    return int(ram)


def _read_document(fd: int) -> dict[str, Any]:
    end = os.fstat(fd).st_size - _TRAILER.size
    raw = os.pread(fd, _TRAILER.size, max(end, 0))
    whole = len(raw) == _TRAILER.size
    magic, size, sum_of_document = _TRAILER.unpack(raw) if whole else (b"", 0, 0)
    if magic != _MAGIC or size > min(end, _DOCUMENT_LIMIT):
        raise _refusal("the template is cut short, or of another hyperbuild")
    raw = os.pread(fd, size, end - size)
    # Whoever wrote the trailer wrote a document before it, unless a disk has lost that.
    if zlib.crc32(raw) != sum_of_document:
        raise _refusal("the template is damaged")
    document: dict[str, Any] = json.loads(raw)
    return document


@contextmanager
def _opened_at(fd: int, position: int) -> Iterator[int]:
    """Open the file of fd once more, to be read from position on."""
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(again, position, os.SEEK_SET)
        yield again
    finally:
        os.close(again)


def _refusal(what: str) -> TemplateError:
    return TemplateError(f"{what}; make it again with hyperbuild warm")
