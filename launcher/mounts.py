"""What is mounted in a VM beside its root, as users say it: folders, volumes, memory.

What the guest is told of them is docs/hyperstart.md, "Mounts"; ``devices`` opens what is outside.
"""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: What is mounted already, and must be the VM's own.
_TAKEN = ("/proc", "/sys", "/dev")
#: As many as hyperstart takes (docs/hyperstart.md, "Mounts").
_MOST = 64
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}"
_WORDS = {
    "share": ("ro", "rw", "plain"),
    "disk": ("ro", "rw", "nocopy"),
}
_LAST_WINS = {"ro": "rw", "nosuid": "suid", "nodev": "dev", "noexec": "exec"}
_MEMORY_DATA = r"(size|nr_blocks|nr_inodes)=\d{1,18}[kmgKMG%]?|mode=[0-7]{1,4}|[ug]id=\d{1,9}"


class MountKind(StrEnum):
    """A folder or file of the host; a named volume; memory; a directory of the VM's own root."""

    SHARE = "share"
    DISK = "disk"
    MEMORY = "memory"
    ROOT = "root"


class Mount(Record):
    """What the user wants at target: ``source`` is a path of the host, of a SHARE or a DISK.

    ``words`` are the options, those of memory as hyperstart takes them. ``text`` is for messages.
    """

    kind: MountKind
    target: str
    text: str
    source: Path | None = None
    words: tuple[str, ...] = ()

    @property
    def is_read_only(self) -> bool:
        """Whether the guest may not write there."""
        return "ro" in self.words

    @property
    def is_disk(self) -> bool:
        """Whether it is a named volume."""
        return self.kind is MountKind.DISK

    @property
    def needs_host(self) -> bool:
        """Whether something outside of the VM is opened for it."""
        return self.source is not None

    def __str__(self) -> str:
        return self.text


class GuestMount(Record):
    """One mount in hyperstart's words: kind, source and options of the boot spec's ``mounts``."""

    kind: str
    source: str
    target: str
    options: tuple[str, ...] = ()


def parse_volume(text: str, volumes: Path) -> Mount:
    """Read ``[SRC:]DST[:OPTION,…]`` of -v: SRC is a path, or the name of a volume in volumes.

    InputError says what is wrong with it.
    """
    parts, shown = text.split(":"), f"-v {printable(text)}"
    if len(parts) > 3 or not all(parts):
        raise InputError(f"-v {printable(text)} is not SRC:DST[:ro]; say ./data:/data, for one")
    if len(parts) == 1:
        return Mount(MountKind.ROOT, parse_target(text, shown), text)
    source, target = parts[0], parse_target(parts[1], shown)
    kind = MountKind.SHARE
    path = Path(source)
    if re.fullmatch(_NAME, source):
        kind, path = MountKind.DISK, volumes / source
    elif not source.startswith(("/", "./", "../")) and source not in (".", ".."):
        raise InputError(
            f"{shown}: {printable(source)} is no volume's name; "
            f"if it is a folder say ./{printable(source)}"
        )
    words = tuple(parts[2].split(",")) if parts[2:] else ()
    unknown = next((word for word in words if word not in _WORDS[kind]), None)
    if unknown is not None:
        raise InputError(
            f"{shown}: the option {printable(unknown)} is not one of {', '.join(_WORDS[kind])}"
        )
    return Mount(kind, target, text, path.absolute(), words)


def parse_tmpfs(text: str) -> Mount:
    """Read ``DST[:size=64m,mode=1777,…]`` of --tmpfs; InputError says what is wrong with it."""
    target, colon, options = text.partition(":")
    # The defaults of docker.
    words = {"nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "mode": "mode=1777"}
    for word in options.split(",") if colon else ():
        undone = next((no for no, plain in _LAST_WINS.items() if word == plain), None)
        if undone:
            words.pop(undone, None)
        elif word in _LAST_WINS or word == "noatime" or re.fullmatch(_MEMORY_DATA, word, re.ASCII):
            words[word.partition("=")[0]] = word
        else:
            raise InputError(
                f"--tmpfs {printable(text)}: {printable(word)!r} is no option of it; "
                "say size=64m, mode=1777, uid=, gid=, ro, exec, suid or dev"
            )
    return Mount(
        MountKind.MEMORY,
        parse_target(target, f"--tmpfs {printable(text)}"),
        text,
        words=tuple(words.values()),
    )


def check_volume_name(name: str) -> str:
    """Return name if a volume can have it; InputError otherwise."""
    if not re.fullmatch(_NAME, name):
        raise InputError(
            f"{printable(name)!r} is no name of a volume: up to 128 letters, digits, '_', '.' and "
            "'-', a letter or digit first"
        )
    return name


def parse_target(text: str, shown: str) -> str:
    """Return the path in the VM where something is to be mounted; shown is what errors call it."""
    if not text.startswith("/"):
        raise InputError(f"{shown}: {printable(text)!r} is no absolute path in the VM; say /data")
    target = _normal(text)
    if target == "/":
        raise InputError(f"{shown}: the root can't be mounted over")
    if _is_taken(target):
        raise InputError(f"{shown}: {target} is the VM's own; choose another")
    return target


def _normal(path: str) -> str:
    return "/" + posixpath.normpath(path).strip("/")


def _is_taken(target: str) -> bool:
    return target in _TAKEN or target.startswith(("/proc/", "/sys/"))


def guest_mounts(
    mounts: Iterable[Mount],
    image_volumes: Iterable[str],
    attached: Mapping[str, GuestMount],
    shared: Iterable[tuple[str, str]] = (),
) -> list[GuestMount]:
    """Return all mounts of a VM, those above others first.

    An image's volume is its own directory, unless something else is mounted there; attached are
    those whose sources were opened, by target; shared are names and paths of a pod's directories.
    InputError for more than hyperstart takes.
    """
    found = {mount.target: attached.get(mount.target) or _inside(mount) for mount in mounts}
    found |= {target: GuestMount("pod", name, target) for name, target in shared}
    for target in _image_targets(image_volumes):
        found.setdefault(target, GuestMount("volume", "-", target))
    if len(found) > _MOST:
        raise InputError(
            f"{len(found)} mounts, those of the image's VOLUMEs included: {_MOST} may be; mount "
            "what is above them"
        )
    return sorted(found.values(), key=lambda mount: (mount.target.count("/"), mount.target))


def _inside(mount: Mount) -> GuestMount:
    kind = "tmpfs" if mount.kind is MountKind.MEMORY else "volume"
    return GuestMount(kind, "-", mount.target, mount.words)


def _image_targets(volumes: Iterable[str]) -> Iterator[str]:
    for text in volumes:
        target = _normal(f"/{text}")
        if target != "/" and not _is_taken(target):
            yield target
