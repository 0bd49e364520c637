"""Opening what of the host a VM will see: folders, files and volumes, each by a descriptor.

The hypervisor is given descriptors, so what a path leads to is settled here, once: a symlink that
somebody changes later changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import AccessError, InputError, UnavailableError
from hyperbuild.converter.records import Record
from hyperbuild.initramfs.cpio import SPEC_DIRECTORY, CpioEntry
from hyperbuild.launcher.machine import Disk, Ids, Share, block_device, need_option
from hyperbuild.launcher.mounts import GuestMount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from hyperbuild.launcher.machine import Machine, MachineOptions
    from hyperbuild.launcher.mounts import Mount

#: A file lies in the guest's memory, as part of its initramfs.
_FILE_LIMIT = 16 << 20
#: What QEMU keeps ids in, one for each of these; Linux says ENODATA where it could be.
_MAPPED_ID = "user.virtfs.uid"


class Attached(Record):
    """A machine with all that it was to have, and the descriptors that it inherits for that.

    ``entries`` belong into its initrd; ``mounts`` are what the guest is told, by target, for each
    container.
    """

    machine: Machine
    descriptors: tuple[int, ...]
    entries: tuple[CpioEntry, ...]
    mounts: tuple[Mapping[str, GuestMount], ...]


def attach(
    machine: Machine,
    options: MachineOptions,
    containers: Sequence[Sequence[Mount]],
    image: str,
    search_path: str,
    stack: ExitStack,
) -> Attached:
    """Open tap and disk of options, and the mounts of containers, for machine.

    image is the digest of what its disk is for; stack closes all of them. InputError: a source is
    missing or none that can be shared, something is in use, or the kernel lacks what it takes;
    AccessError: it may not be opened; ToolError: mkfs.ext4 is missing or fails.
    """
    work = _Work(machine, stack, len(containers))
    if options.tap:
        work.add_tap(options.tap.name)
    for index, mounts in enumerate(containers):
        for mount in mounts:
            if mount.source is not None and not mount.is_disk:
                work.add(index, mount, mount.source)
    # Last of what can fail by the user's mistake: files may be made.
    if options.disk:
        from hyperbuild.launcher.disk import open_disk

        work.add_disk(open_disk(options.disk, image, search_path))
    for index, mounts in enumerate(containers):
        for mount in mounts:
            if mount.source is not None and mount.is_disk:
                work.add_volume(index, mount, mount.source, search_path)
    return work.attached()


class _Work:
    """What was opened so far."""

    def __init__(self, machine: Machine, stack: ExitStack, containers: int) -> None:
        self._machine = machine
        self._stack = stack
        self._descriptors: list[int] = []
        self._entries: list[CpioEntry] = []
        self._mounts: list[dict[str, GuestMount]] = [{} for _ in range(containers)]
        self._volumes: dict[Path, str] = {}

    def attached(self) -> Attached:
        """Return all of it."""
        return Attached(
            self._machine, tuple(self._descriptors), tuple(self._entries), tuple(self._mounts)
        )

    def add_tap(self, name: str) -> None:
        """Put the machine's network interface on a tap device."""
        from hyperbuild.launcher.tap import open_tap

        fd = self._keep(open_tap(name))
        if self._machine.nic:
            self._machine = self._machine.replace(nic=self._machine.nic.replace(tap=fd))

    def add_disk(self, fd: int) -> str:
        """Add a disk that is written to; return the device that it will be."""
        path = Path(f"/proc/self/fd/{self._keep(fd)}")
        disk = Disk(path, os.fstat(fd).st_size, pmem=False, read_only=False)
        self._machine = self._machine.replace(disks=(*self._machine.disks, disk))
        return block_device(self._machine.disks, len(self._machine.disks) - 1)

    def add(self, index: int, mount: Mount, source: Path) -> None:
        """Open a folder or a file for the container of that index."""
        pin = _pin(mount, source)
        try:
            mode = os.fstat(pin).st_mode
            if stat.S_ISDIR(mode):
                need_option(self._machine.kernel_options, "CONFIG_9P_FS", f"-v {mount}")
                self._add_directory(index, mount, pin)
            elif stat.S_ISREG(mode):
                self._add_file(index, mount, pin)
            else:
                raise _refused(mount, f"{source} is neither a folder nor a file")
        finally:
            os.close(pin)

    def add_volume(self, index: int, mount: Mount, path: Path, search_path: str) -> None:
        """Open a named volume; one that is mounted twice is one disk."""
        from hyperbuild.launcher.volumes import open_volume

        if path not in self._volumes:
            self._volumes[path] = self.add_disk(open_volume(path, search_path))
        options = (*(() if "nocopy" in mount.words else ("fill",)), _access(mount))
        self._tell(index, mount, "disk", self._volumes[path], options)

    def _add_directory(self, index: int, mount: Mount, pin: int) -> None:
        fd = self._keep(_open(mount, pin, os.O_DIRECTORY))
        tag = f"share{len(self._machine.shares)}"
        share = Share(fd, tag, _ids(mount, fd), mount.is_read_only)
        self._machine = self._machine.replace(shares=(*self._machine.shares, share))
        self._tell(index, mount, "9p", tag, (_access(mount),))

    def _add_file(self, index: int, mount: Mount, pin: int) -> None:
        if not mount.is_read_only:
            raise _refused(
                mount,
                f"{mount.source} is a file, of which the VM gets a copy",
                "add :ro, or share the folder it is in",
            )
        with os.fdopen(_open(mount, pin), "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_FILE_LIMIT + 1)
        if len(content) > _FILE_LIMIT:
            what = f"{mount.source} is larger than {_FILE_LIMIT >> 20} MiB"
            raise _refused(mount, what, "share the folder it is in")
        name = f"file-{len(self._entries)}"
        mode = stat.S_IFREG | stat.S_IMODE(status.st_mode)
        owner = (status.st_uid, status.st_gid)
        self._entries.append(CpioEntry(f"{SPEC_DIRECTORY}/{name}", mode, content, owner=owner))
        modified = str(max(int(status.st_mtime), 0))
        self._tell(index, mount, "file", name, ("ro", modified))

    def _tell(
        self, index: int, mount: Mount, kind: str, source: str, options: tuple[str, ...]
    ) -> None:
        self._mounts[index][mount.target] = GuestMount(kind, source, mount.target, options)

    def _keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        self._descriptors.append(fd)
        return fd


def _pin(mount: Mount, source: Path) -> int:
    """Find what source leads to, without opening it: a FIFO or a device could hang."""
    try:
        return os.open(source, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        remedy = "make it first, as by mkdir -p, or correct the path"
        raise _refused(mount, f"{source} is not there", remedy) from error
    except OSError as error:
        raise _refused(mount, f"{source}: {error.strerror}") from error


def _open(mount: Mount, pin: int, flags: int = 0) -> int:
    try:
        return os.open(f"/proc/self/fd/{pin}", os.O_RDONLY | os.O_CLOEXEC | flags)
    except PermissionError as error:
        raise AccessError(
            f"-v {mount}: {mount.source} may not be read by you; ask its owner, or choose another"
        ) from error
    except OSError as error:
        raise UnavailableError(f"-v {mount}: {mount.source}: {error.strerror}") from error


def _ids(mount: Mount, fd: int) -> Ids:
    """Choose how ids are kept: root can have them real, others see to it that none is lost."""
    if os.geteuid() == 0:
        return Ids.REAL
    if mount.is_read_only or "plain" in mount.words:
        return Ids.OWN
    try:
        os.getxattr(f"/proc/self/fd/{fd}", _MAPPED_ID)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise _refused(
                mount,
                f"the file system of {mount.source} has no extended attributes to keep the VM's "
                "users in",
                "add :plain to have all files your own there, or use a named volume",
            ) from error
    return Ids.MAPPED


def _access(mount: Mount) -> str:
    return "ro" if mount.is_read_only else "rw"


def _refused(mount: Mount, what: str, remedy: str = "choose another") -> InputError:
    return InputError(f"-v {mount}: {what}; {remedy}")
