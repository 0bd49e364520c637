"""The last steps of a process before it becomes a hypervisor: it gives away what it will not need.

It sees a file system that has the hypervisor's own files alone, and is a user that nobody else is
(docs/security.md has the whole).
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from fcntl import F_GETFL, fcntl
from functools import partial
from pathlib import Path
from signal import SIGKILL
from struct import pack
from typing import TYPE_CHECKING

from hyperbuild.launcher.confinement import FIRST_USER
from hyperbuild.launcher.landlock import EXECUTE, LOOK, READ, TRUNCATE, USE, WRITE, restrict
from hyperbuild.launcher.libc import call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hyperbuild.launcher.confinement import Folder, Needs

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h; the system call's number is the
# same on every architecture.
_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC, _NEW_USERS, _NEW_NETWORK = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x40000000,
)
_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_READ_ONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_SET_DEATH_SIGNAL, _SET_KEEP_CAPABILITIES, _DROP_BOUNDING, _SET_NO_NEW_PRIVILEGES = 1, 8, 24, 38
_AMBIENT, _AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION = 0x20080522

#: Where the new root is put together: a directory that is everywhere, and of no use to a VM.
_BASE = "/sys"
_DEVICES = ("/dev/null", "/dev/urandom")
_KVM = "/dev/kvm"
#: Where shared programs look for their libraries.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")
#: Read again whenever it changes, for the names that a guest asks for.
_RESOLVER = "/etc/resolv.conf"

#: The user that files of nobody have: for where ours is not to be had (a container's own users).
_NOBODY = 65534
#: Of one VM: threads (of 64 CPUs, and as many again for disks), and descriptors, which are what a
#: guest's connections cost.
_THREADS = 512
_DESCRIPTORS = 16384


_prctl = partial(call, "prctl")


def confine(needs: Needs, descriptors: Sequence[int], parent: int) -> None:
    """Give away all but needs and open descriptors; killed when parent dies. There is no way back.

    OSError: what has to be given away can't be, or what is needed can't be had.
    """
    os.umask(0o022)
    is_root = os.geteuid() == 0
    try:
        _leave(needs, is_root)
    except OSError:
        # Not allowed here, as inside of many containers. Rights over files are only given where
        # there are no others than those shared.
        if is_root and any(folder.capabilities for folder in needs.folders):
            raise
    rules = list(_rules(needs, descriptors))
    os.chdir("/")
    kept = needs.capabilities.union(*(folder.capabilities for folder in needs.folders))
    _limit(is_root)
    _drop(needs, is_root, kept if is_root else frozenset())
    _prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    restrict(rules, network=needs.network)
    # Last: it is forgotten whenever the user changes.
    _prctl(_SET_DEATH_SIGNAL, SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _rules(needs: Needs, descriptors: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield what may be opened, also where the root is still the host's, and for what.

    A file's owner could write to one that was opened to be read, by opening it once more.
    """
    folders = {folder.fd: folder for folder in needs.folders}
    for fd in descriptors:
        folder = folders.get(fd)
        if folder:
            yield fd, LOOK & ~EXECUTE if folder.read_only else USE
        else:
            writes = fcntl(fd, F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            yield fd, READ | WRITE | TRUNCATE if writes else READ
    devices = _devices(needs)
    resolver = (_RESOLVER,) if needs.network else ()
    for place in (*_LIBRARIES, *needs.places, *resolver, *devices):
        with suppress(FileNotFoundError):
            fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
            yield fd, READ | WRITE if place in devices else LOOK


def _devices(needs: Needs) -> tuple[str, ...]:
    return (*_DEVICES, _KVM) if needs.kvm else _DEVICES


def _leave(needs: Needs, is_root: bool) -> None:
    """Leave the host's file system and, unless it is needed, its network."""
    namespaces = _NEW_MOUNTS | _NEW_NAMES | _NEW_IPC
    if not needs.network:
        namespaces |= _NEW_NETWORK
    if is_root:
        call("unshare", namespaces)
    else:
        user, group = os.geteuid(), os.getegid()
        call("unshare", namespaces | _NEW_USERS)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    call("mount", None, "/", None, _RECURSIVE | _PRIVATE, None)
    call("mount", "tmpfs", _BASE, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=755,size=1m")
    _furnish(needs, is_root)
    folders = [_bind_folder(folder) for folder in needs.folders]
    _restrict(_BASE, _READ_ONLY)
    os.chdir(_BASE)
    # The way back is closed by what is given away next. To be rid of the old root's mounts as well
    # takes milliseconds, and from outside of a chroot new user namespaces could be made.
    os.chroot(".")
    for folder, place in zip(needs.folders, folders, strict=True):
        # Under the same number, but with nothing above it to climb to.
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        os.dup2(fd, folder.fd)
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _furnish(needs: Needs, is_root: bool) -> None:
    """Put into the new root what a hypervisor finds by path."""
    data = _READ_ONLY | _ATTR_NOSUID | _ATTR_NODEV
    for place in dict.fromkeys((*_LIBRARIES, *needs.places)):
        path = Path(place)
        if path.is_symlink():
            Path(f"{_BASE}{place}").symlink_to(path.readlink())
        elif path.exists():
            _bind(place, place, data)
    if needs.network and Path(_RESOLVER).exists():
        _bind(_RESOLVER, _RESOLVER, data | _ATTR_NOEXEC)
    for device in _devices(needs):
        _bind(device, device, _ATTR_NOSUID | _ATTR_NOEXEC)
    if is_root:
        Path(f"{_BASE}/proc").mkdir()
        flags = _NOSUID | _NODEV | _NOEXEC
        call("mount", "proc", f"{_BASE}/proc", "proc", flags, "hidepid=invisible,subset=pid")
    else:
        # A user can't mount one; that of the host shows names of processes, but opens none.
        _bind("/proc", "/proc", data | _ATTR_NOEXEC)


def _bind(source: str, place: str, restrictions: int) -> None:
    target = Path(f"{_BASE}{place}")
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    call("mount", source, str(target), None, _BIND | _RECURSIVE, None)
    _restrict(str(target), restrictions, _AT_RECURSIVE)


def _restrict(target: str, restrictions: int, flags: int = 0) -> None:
    attributes = pack("QQQQ", restrictions, 0, 0, 0)
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, target, flags, attributes, len(attributes))


def _bind_folder(folder: Folder) -> str:
    """Put a folder into the new root; return where it will be.

    Its descriptor's own mount is the host's, from which ".." leads out of it.
    """
    path = Path(f"/proc/self/fd/{folder.fd}").readlink()
    pin = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(pin), os.fstat(folder.fd)):
            raise OSError(0, f"{path} was replaced meanwhile", "bind")
        place = f"/shares/{folder.fd}"
        restrictions = _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC
        restrictions |= _READ_ONLY if folder.read_only else 0
        _bind(f"/proc/self/fd/{pin}", place, restrictions)
    finally:
        os.close(pin)
    return place


def _limit(is_root: bool) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if is_root:
        # Of a user who has this one process; another's would be counted together.
        resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))


def _drop(needs: Needs, is_root: bool, kept: frozenset[int]) -> None:
    """Become a user of no rights but those kept."""
    # The first that the kernel does not know, or refuses, is an OSError.
    with suppress(OSError):
        for capability in range(64):
            if capability not in kept:
                _prctl(_DROP_BOUNDING, capability, 0, 0, 0)
    if is_root:
        _prctl(_SET_KEEP_CAPABILITIES, 1, 0, 0, 0)
        groups = [*needs.groups, *([Path(_KVM).stat().st_gid] if needs.kvm else [])]
        for user in (FIRST_USER + os.getpid(), _NOBODY):
            # Refused where root is root of a container alone, which has fewer users.
            with suppress(OSError):
                os.setgroups(groups)
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                break
    bits = sum(1 << capability for capability in kept)
    sets = (bits & 0xFFFFFFFF,) * 3 + (bits >> 32,) * 3
    call("capset", pack("II", _CAPABILITY_VERSION, 0), pack("6I", *sets))
    for capability in kept:
        _prctl(_AMBIENT, _AMBIENT_RAISE, capability, 0, 0)
