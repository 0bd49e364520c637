"""A tap device of the host, opened for a hypervisor: source, Linux's Documentation, tuntap.rst."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from hyperbuild.converter.errors import AccessError, InputError, UnavailableError

_TUN = "/dev/net/tun"
#: From linux/if_tun.h: frames, without a header of their own, with that of virtio.
_TUNSETIFF = 0x400454CA
_TAP, _NO_HEADER, _VIRTIO_HEADER = 0x0002, 0x1000, 0x4000


def open_tap(name: str) -> int:
    """Return a descriptor of the tap device name, which must be there.

    InputError: it is not, is another kind of device, or another VM has it; AccessError: it is not
    the user's; UnavailableError: this host has none.
    """
    flags = Path("/sys/class/net", name, "tun_flags")
    # Linux would make it, down and connected to nothing.
    if not flags.exists():
        raise InputError(
            f"there is no tap device {name}; make it first: ip tuntap add dev {name} mode tap"
        )
    try:
        fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise AccessError(f"{_TUN} may not be opened; run as root, or have it allowed") from error
    except OSError as error:
        raise UnavailableError(f"{_TUN}: {error.strerror}; load the module tun") from error
    try:
        request = struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER | _VIRTIO_HEADER)
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError as error:
        os.close(fd)
        raise _refusal(name, error) from error
    return fd


def _refusal(name: str, error: OSError) -> InputError | AccessError:
    if error.errno == errno.EBUSY:
        return InputError(f"the tap device {name} is in use; stop that VM, or choose another")
    if error.errno == errno.EPERM:
        return AccessError(
            f"the tap device {name} is not yours; make it with: ip tuntap add dev {name} mode tap "
            "user $USER"
        )
    return InputError(f"{name} is no tap device that a VM can have ({error.strerror})")
