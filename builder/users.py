"""Who an image's USER is, by the image's own /etc/passwd and /etc/group.

The rules are those of runtimes built on moby/sys/user (docker, containerd, podman): digits are a
number, which need not exist, and never a name; the primary group is the user's own unless one is
named; supplementary groups count only if none is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import NotFoundError, printable
from hyperbuild.launcher.bundle import User

if TYPE_CHECKING:
    from collections.abc import Iterator

_ID_LIMIT = 1 << 31
#: Python refuses to read numbers of thousands of digits; no id has more than this.
_ID_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Account:
    """A user as a process needs it: ids, and the home directory."""

    user: User
    home: str


def resolve_user(spec: str, passwd: bytes, group: bytes) -> Account:
    """Resolve ``[USER][:GROUP]``, names or numbers; NotFoundError for a name that is not there."""
    user_text, _, group_text = spec.partition(":")
    number = _number(user_text or "0")
    found = next(
        (
            fields
            for fields in _records(passwd, 7)
            if (uid := _number(fields[2])) is not None
            and (fields[0] == user_text if number is None else uid == number)
        ),
        None,
    )
    if found:
        name, uid, gid = found[0], int(found[2]), _number(found[3]) or 0
    elif number is None:
        raise NotFoundError(f"USER {printable(spec)!r} is not in the image's /etc/passwd")
    else:
        name, uid, gid = "", number, 0
    home = _home(uid, passwd)
    if group_text:
        return Account(User(uid, _group(group_text, group, spec)), home)
    return Account(User(uid, gid, _supplementary(name, gid, group)), home)


def _home(uid: int, passwd: bytes) -> str:
    """Return the home of the first who has uid: runtimes know the number alone by then."""
    homes = (fields[5] for fields in _records(passwd, 7) if _number(fields[2]) == uid)
    return next(homes, "") or "/"


def _group(text: str, group: bytes, spec: str) -> int:
    number = _number(text)
    if number is not None:
        return number
    for fields in _records(group, 4):
        gid = _number(fields[2])
        if text == fields[0] and gid is not None:
            return gid
    raise NotFoundError(f"the group of USER {printable(spec)!r} is not in the image's /etc/group")


def _supplementary(name: str, gid: int, group: bytes) -> tuple[int, ...]:
    if not name:
        return ()
    found = {
        number
        for fields in _records(group, 4)
        if name in fields[3].split(",") and (number := _number(fields[2])) is not None
    }
    return tuple(sorted(found - {gid}))


def _records(content: bytes, count: int) -> Iterator[list[str]]:
    """Yield the colon-separated fields of each line, missing ones as ""."""
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        if line.strip() and not line.startswith("#"):
            fields = line.strip().split(":")
            yield fields + [""] * (count - len(fields))


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > _ID_DIGITS:
        return None
    return int(text) if int(text) < _ID_LIMIT else None
